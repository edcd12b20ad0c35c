//! The socket that answers others: given by systemd or bound by ourselves, its arrivals stamped
//! by the kernel, its answers sent from the address that was asked.
use crate::units::UtcTime;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// A request is shorter; of longer datagrams only the length is wanted.
pub const ROOM: usize = 64;

/// A socket that is asked.
#[derive(Debug)]
pub struct ServerSocket {
    udp: UdpSocket,
    v6: bool,
}

/// A datagram.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Its length, even beyond the buffer's.
    pub bytes: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// When the kernel says it arrived.
    pub stamp: Option<UtcTime>,
    to: Option<To>,
}

/// Which of our addresses it was sent to.
#[derive(Clone, Copy, Debug)]
enum To {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Arrival {
    /// It was sent to one of our own addresses and not to everybody.
    #[must_use]
    pub fn to_us_alone(&self) -> bool {
        match &self.to {
            // The local address differs from the one in the header: a broadcast.
            Some(To::V4(info)) => info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr,
            Some(To::V6(info)) => info.ipi6_addr.s6_addr[0] != 0xff,
            None => true,
        }
    }
}

impl ServerSocket {
    /// A socket of our own.
    ///
    /// # Errors
    /// What the system says, as that the port is taken or needs a right.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::prepared(UdpSocket::bind(address)?)
    }

    pub(super) fn prepared(udp: UdpSocket) -> io::Result<Self> {
        let v6 = udp.local_addr()?.is_ipv6();
        udp.set_nonblocking(false)?;
        let _ = setsockopt(&udp, sockopt::ReceiveTimestampns, &true);
        // Without it answers leave from the address that the route prefers.
        let _ = if v6 {
            setsockopt(&udp, sockopt::Ipv6RecvPacketInfo, &true)
        } else {
            setsockopt(&udp, sockopt::Ipv4PacketInfo, &true)
        };
        Ok(Self { udp, v6 })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// The next datagram; waits for it or not.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, else what the system says.
    pub fn receive(&self, buffer: &mut [u8; ROOM], wait: bool) -> io::Result<Arrival> {
        let mut parts = [IoSliceMut::new(buffer)];
        let mut control =
            nix::cmsg_space!(nix::sys::time::TimeSpec, libc::in6_pktinfo, libc::in_pktinfo);
        let waiting = if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
        let flags = waiting | MsgFlags::MSG_TRUNC;
        let fd = self.udp.as_raw_fd();
        let got = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags)?;
        let (mut stamp, mut to) = (None, None);
        for message in got.cmsgs().into_iter().flatten() {
            match message {
                ControlMessageOwned::ScmTimestampns(t) => {
                    let at = t.tv_sec() * 1_000_000_000 + t.tv_nsec();
                    stamp = (at != 0).then_some(UtcTime::from_nanos(at));
                }
                ControlMessageOwned::Ipv4PacketInfo(info) => to = Some(To::V4(info)),
                ControlMessageOwned::Ipv6PacketInfo(info) => to = Some(To::V6(info)),
                _ => {}
            }
        }
        let from = got.address.as_ref().and_then(socket_address);
        let from = from.ok_or_else(|| io::Error::other("a datagram from nowhere"))?;
        Ok(Arrival { bytes: got.bytes, from, stamp, to })
    }

    /// Answers from the address that was asked. Never waits: who floods us waits for himself.
    ///
    /// # Errors
    /// What the system says.
    pub fn reply(&self, arrival: &Arrival, bytes: &[u8]) -> io::Result<()> {
        let parts = [IoSlice::new(bytes)];
        let to = SockaddrStorage::from(arrival.from);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let fd = self.udp.as_raw_fd();
        match arrival.to {
            Some(To::V4(mut info)) if !self.v6 => {
                info.ipi_ifindex = 0;
                let from = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(fd, &parts, &from, flags, Some(&to))?;
            }
            Some(To::V6(info)) if self.v6 => {
                let from = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(fd, &parts, &from, flags, Some(&to))?;
            }
            _ => {
                sendmsg(fd, &parts, &[], flags, Some(&to))?;
            }
        }
        Ok(())
    }
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
}

/// Whose address it is, as rules are written: IPv4 even where it is dressed as IPv6.
#[must_use]
pub fn who(from: SocketAddr) -> IpAddr {
    from.ip().to_canonical()
}

/// The calling thread gives way to the rest of the program.
pub fn give_way() {
    // SAFETY: takes three numbers and touches no memory; 0 is the calling thread (Linux).
    #[allow(unsafe_code, reason = "nix has no setpriority")]
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 5) };
}
