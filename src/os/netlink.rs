//! Changes of the network, told by the kernel: a link, an address or a default route came or went.
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout, timeout_at};

/// Changes come in bursts: one is told when it has been quiet for so long,
const QUIET: Duration = Duration::from_millis(200);
/// but not later than so long after the first.
const LATEST: Duration = Duration::from_secs(5);

/// Watches the network.
#[derive(Debug)]
pub struct NetworkWatch {
    socket: Option<AsyncFd<OwnedFd>>,
    /// Routers announce themselves every few minutes, which changes nothing: compared with this.
    known: BTreeSet<String>,
    /// Something was told that has not been compared yet.
    stirred: bool,
}

impl Default for NetworkWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl NetworkWatch {
    /// Starts watching. Must be called within the runtime. Where the kernel does not tell, nothing
    /// ever changes.
    #[must_use]
    pub fn new() -> Self {
        Self { socket: open(), known: look(), stirred: false }
    }

    /// Waits for a change that lasts. May be dropped and called again.
    pub async fn changed(&mut self) {
        loop {
            let Some(socket) = &self.socket else { return std::future::pending().await };
            if !self.stirred && told(socket).await.is_err() {
                self.socket = None;
                continue;
            }
            self.stirred = true;
            let latest = Instant::now() + LATEST;
            while Instant::now() < latest
                && matches!(timeout_at(latest, timeout(QUIET, told(socket))).await, Ok(Ok(Ok(()))))
            {
            }
            self.stirred = false;
            let now = look();
            if now != self.known {
                self.known = now;
                return;
            }
        }
    }
}

fn open() -> Option<AsyncFd<OwnedFd>> {
    let groups = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV6_ROUTE;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let route = SockProtocol::NetlinkRoute;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, route).ok()?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups.cast_unsigned())).ok()?;
    // SAFETY: an `OwnedFd` is open and always shows the same descriptor.
    #[allow(unsafe_code, reason = "tokio trusts AsRawFd to show an open descriptor")]
    unsafe {
        AsyncFd::register_with_interest(socket, Interest::READABLE).ok()
    }
}

/// Waits until the kernel tells something, and drops what it says.
async fn told(socket: &AsyncFd<OwnedFd>) -> std::io::Result<()> {
    let one = || -> std::io::Result<()> {
        match recv(socket.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT) {
            // Told more than was read in time: a change as well.
            Ok(_) | Err(nix::Error::ENOBUFS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    };
    socket.async_io(Interest::READABLE, |_| one()).await?;
    for _ in 0..256 {
        if one().is_err() {
            break;
        }
    }
    Ok(())
}

/// The links that are up, their addresses, the default routes.
fn look() -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    for interface in getifaddrs().into_iter().flatten().filter(|i| i.flags.contains(up)) {
        let address = interface.address.as_ref();
        let ip = address.filter(|a| a.as_sockaddr_in().is_some() || a.as_sockaddr_in6().is_some());
        let ip = ip.map(ToString::to_string).unwrap_or_default();
        seen.insert(format!("{} {ip}", interface.interface_name));
    }
    let v4 = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    seen.extend(v4.lines().filter_map(|l| default_route(l, [1, 7], "00000000", [0, 2])));
    let v6 = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    seen.extend(v6.lines().filter_map(|l| default_route(l, [0, 1], "00", [9, 4])));
    seen
}

/// The words of a default route that tell one from another: its interface and its gateway.
/// `zero` holds where destination and mask stand, `mask` what a default route's mask looks like.
fn default_route(line: &str, zero: [usize; 2], mask: &str, told: [usize; 2]) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [to, length] = zero.map(|at| words.get(at).copied());
    let to_all = to?.bytes().all(|b| b == b'0') && length? == mask;
    let [interface, gateway] = told.map(|at| words.get(at).copied());
    let (interface, gateway) = (interface?, gateway?);
    // The kernel lists "unreachable" defaults on the loopback interface.
    (to_all && interface != "lo").then(|| format!("{interface} via {gateway}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_found_in_the_kernels_tables() {
        let v4 = "wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0";
        let net = "wlan0\t0000A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0";
        let read = |l| default_route(l, [1, 7], "00000000", [0, 2]);
        assert_eq!(read(v4).as_deref(), Some("wlan0 via 0100A8C0"));
        assert_eq!((read(net), read("Iface\tDestination"), read("")), (None, None, None));
        let zeros = "00000000000000000000000000000000";
        let gateway = "fe800000000000000000000000000001";
        let v6 = |device| {
            format!("{zeros} 00 {zeros} 00 {gateway} 00000400 00000003 00000000 00000003 {device}")
        };
        let read = |l: String| default_route(&l, [0, 1], "00", [9, 4]);
        assert_eq!(read(v6("eth0")), Some(format!("eth0 via {gateway}")));
        assert_eq!(read(v6("lo")), None);
    }

    #[test]
    fn without_a_change_it_keeps_waiting() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watch = NetworkWatch::new();
            let short = Duration::from_millis(50);
            assert!(timeout(short, watch.changed()).await.is_err());
            assert!(timeout(short, watch.changed()).await.is_err(), "dropped, called again");
        });
    }

    #[test]
    fn a_link_that_comes_up_and_a_route_that_goes_are_told_once_each() {
        let ip = |command: &str| {
            let done = std::process::Command::new("ip").args(command.split(' ')).status();
            done.is_ok_and(|d| d.success())
        };
        let in_a_thread = move || {
            let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok();
            let made = own && ip("link add range0 type veth peer range1");
            // IPv6 would give itself addresses at times of its own.
            let quiet = |l| ip(&format!("link set {l} addrgenmode none"));
            if !made || !quiet("range0") || !quiet("range1") || !ip("link set range0 up") {
                return eprintln!("no rights for a network of its own, or no ip: not tested");
            }
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut watch = NetworkWatch::new();
                let soon = Duration::from_secs(20);
                for change in [
                    "link set range1 up",
                    "addr add 192.0.2.5/24 dev range0",
                    "route add default via 192.0.2.1",
                    "route del default",
                    "link del range0",
                ] {
                    assert!(ip(change), "{change}");
                    assert!(timeout(soon, watch.changed()).await.is_ok(), "{change} not told");
                }
                assert!(timeout(Duration::from_secs(2), watch.changed()).await.is_err());
            });
        };
        std::thread::spawn(in_a_thread).join().unwrap();
    }
}
