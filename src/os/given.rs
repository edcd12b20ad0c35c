//! Descriptors that systemd holds for us.
use super::serve::ServerSocket;
use nix::sys::socket::sockopt;
use std::net::UdpSocket;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

/// systemd's first descriptor.
const FIRST: RawFd = 3;
/// More are not taken.
const MOST: RawFd = 4;

/// What systemd holds for us (sd_listen_fds(3)).
#[derive(Debug, Default)]
pub struct Given {
    /// Sockets that are asked.
    pub servers: Vec<ServerSocket>,
    /// gpsd's, kept over our restart.
    pub seconds: Option<UnixDatagram>,
}

impl Given {
    /// The sockets systemd holds for us, those for datagrams. To be called once, before the program
    /// opens descriptors of its own.
    #[must_use]
    pub fn take() -> Self {
        let mut given = Self::default();
        let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<i64>().ok());
        if number("LISTEN_PID") != Some(i64::from(std::process::id())) {
            return given;
        }
        let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, i64::from(MOST)) as RawFd;
        for socket in (FIRST..FIRST + count).filter_map(taken) {
            let udp = UdpSocket::from(socket);
            if udp.local_addr().is_ok() {
                given.servers.extend(ServerSocket::prepared(udp).ok());
                continue;
            }
            let unix = UnixDatagram::from(OwnedFd::from(udp));
            if unix.local_addr().is_ok() {
                given.seconds = Some(unix);
            }
        }
        given
    }
}

/// A descriptor that was passed on to us, if it is a socket for datagrams.
fn taken(fd: RawFd) -> Option<OwnedFd> {
    let kind = std::fs::metadata(format!("/proc/self/fd/{fd}")).ok()?.file_type();
    if !std::os::unix::fs::FileTypeExt::is_socket(&kind) {
        return None;
    }
    // SAFETY: systemd passed this descriptor to this very process (LISTEN_PID) and nothing
    // else of the program knows it; it is taken over once, at the start.
    #[allow(unsafe_code, reason = "a descriptor passed by number has no owner yet")]
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let datagrams = nix::sys::socket::getsockopt(&socket, sockopt::SockType)
        .is_ok_and(|kind| kind == nix::sys::socket::SockType::Datagram);
    datagrams.then_some(socket)
}
