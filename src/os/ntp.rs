//! One exchange with an NTP server: sntpc behind a socket of our own.
//!
//! The socket checks length, address and nonce and stamps both ends; it judges nothing else. The
//! 48 bytes that pass are handed on as they came, whatever sntpc thinks of them.
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage,
    TimestampingFlag, Timestamps, recvmsg, setsockopt, socket, sockopt,
};
use sntpc::{NtpContext, NtpTimestampGenerator, NtpUdpSocket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::engine::packet::{Bogus, Exchange, LEN, Outcome, Why, ignorable};
use crate::os::clock;
use crate::units::{Nanos, RawTime, Reading, UtcTime};

/// Room for a reply and what may follow it; nobody sends more to who asked for 48 bytes.
const ROOM: usize = 2_048;
/// Datagrams read without giving the other tasks a turn.
const BATCH: u32 = 32;

/// Asks `server` once, from a fresh port and with a fresh random number, and waits for the answer
/// until `patience` ends. Whatever else arrives meanwhile is counted and skipped.
///
/// # Errors
/// Why there is no answer, with the count of what was skipped.
pub async fn exchange(server: SocketAddr, patience: impl Future<Output = ()>) -> Outcome {
    let socket = match Socket::connected_to(server) {
        Ok(socket) => socket,
        Err(e) => return Err((why(&e), Bogus::default())),
    };
    // sntpc's verdict is dropped on purpose: the reason shown comes from the engine, which sees
    // the same 48 bytes.
    let sntp = sntpc::get_time(server, &socket, NtpContext::new(Stamps { socket: &socket, at: 0 }));
    tokio::select! {
        biased;
        _ = sntp => {}
        () = patience => {}
    }
    socket.outcome()
}

/// A UDP socket for one exchange.
struct Socket {
    udp: UdpSocket,
    server: SocketAddr,
    course: Mutex<Course>,
}

/// What happened on the socket so far.
#[derive(Default)]
struct Course {
    /// The transmit time on the wire: a random number, so that nobody can guess an answer.
    nonce: u64,
    /// The transmit time sntpc wrote and wants to see as the origin of the reply.
    origin: [u8; 8],
    /// Both clocks just before the request left.
    before: Option<Reading>,
    /// The raw clock in the middle of the call that sent it.
    sent: Option<RawTime>,
    /// When the kernel says it left.
    left: Option<UtcTime>,
    reply: Option<Reply>,
    bogus: Bogus,
    failure: Option<Why>,
}

/// A datagram of the right length, from the right place, with our nonce.
struct Reply {
    packet: [u8; LEN],
    /// Both clocks just after it was read.
    after: Reading,
    /// When the kernel says it arrived.
    arrived: Option<UtcTime>,
}

/// One datagram read.
struct Datagram {
    bytes: usize,
    source: Option<SocketAddr>,
    arrived: Option<UtcTime>,
    after: Reading,
}

/// A socket as tokio wants to see it while an answer is awaited.
struct Awaited<'a>(&'a UdpSocket);

impl AsRawFd for Awaited<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Socket {
    /// Connected without being bound before: in one call the kernel chooses address and, by chance, port, and
    /// lets only the server in.
    fn connected_to(server: SocketAddr) -> io::Result<Self> {
        let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let udp = UdpSocket::from(socket(family, SockType::Datagram, flags, None)?);
        keep_stamps_on();
        stamp(&udp);
        udp.connect(server)?;
        Ok(Self { udp, server, course: Mutex::default() })
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one datagram, and the transmit stamp when it is there by now.
    async fn datagram(
        &self,
        awaited: &AsyncFd<Awaited<'_>>,
        buffer: &mut [u8; ROOM],
    ) -> io::Result<Datagram> {
        let what = Interest::READABLE.add(Interest::ERROR);
        awaited
            .async_io(what, |_| {
                self.take_transmit_stamp();
                let (bytes, source, arrived) = receive(&self.udp, buffer, MsgFlags::empty())?;
                Ok(Datagram { bytes, source, arrived, after: clock::read() })
            })
            .await
    }

    /// The kernel queues the transmit stamp as an "error". Wi-Fi drivers that give none are never
    /// waited for.
    fn take_transmit_stamp(&self) {
        let Ok((_, _, Some(left))) = receive(&self.udp, &mut [0; ROOM], MsgFlags::MSG_ERRQUEUE)
        else {
            return;
        };
        self.course().left.get_or_insert(left);
    }

    async fn answer(&self) -> io::Result<Reply> {
        // Watched from now on only: a request is sent without waiting.
        // SAFETY: the socket outlives what borrows it, and shows the same descriptor all its life.
        #[allow(unsafe_code, reason = "tokio trusts AsRawFd to show an open descriptor")]
        let awaited =
            unsafe { AsyncFd::register_with_interest(Awaited(&self.udp), Interest::READABLE)? };
        let mut buffer = [0; ROOM];
        for read in 1_u32.. {
            let got = self.datagram(&awaited, &mut buffer).await?;
            {
                let mut packet = [0; LEN];
                packet.copy_from_slice(&buffer[..LEN]);
                let mut course = self.course();
                // The kernel filters by address, except for what came before it knew ours.
                let wrong_address = got
                    .source
                    .is_some_and(|s| (s.ip(), s.port()) != (self.server.ip(), self.server.port()));
                if wrong_address {
                    course.bogus.wrong_address += 1;
                } else if got.bytes < LEN || !buffer.get(LEN..got.bytes).is_some_and(ignorable) {
                    course.bogus.wrong_length += 1;
                } else if packet[24..32] != course.nonce.to_be_bytes() {
                    course.bogus.wrong_origin += 1;
                } else {
                    return Ok(Reply { packet, after: got.after, arrived: got.arrived });
                }
            }
            if read % BATCH == 0 {
                // A flood gets a bounded share of the processor; the kernel's queue drops the rest.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn outcome(self) -> Outcome {
        let course = self.course.into_inner().unwrap_or_else(PoisonError::into_inner);
        let bogus = course.bogus;
        let (Some(before), Some(sent), Some(reply)) = (course.before, course.sent, course.reply)
        else {
            return Err((course.failure.unwrap_or(Why::Timeout), bogus));
        };
        let after = reply.after;
        if stepped_between(before, after) {
            return Err((Why::Stepped, bogus));
        }
        let within = |at: &RawTime| (before.raw..=after.raw).contains(at);
        let sent = course.left.map(|at| raw_near(before, at)).filter(within).unwrap_or(sent);
        let received = reply.arrived.map(|at| raw_near(after, at)).filter(within);
        let received = received.filter(|at| *at >= sent).unwrap_or(after.raw);
        Ok(Exchange { packet: reply.packet, sent, received, bogus })
    }
}

impl NtpUdpSocket for Socket {
    async fn send_to(&self, request: &[u8], _: SocketAddr) -> sntpc::Result<usize> {
        let send = || {
            let mut request: [u8; LEN] =
                request.try_into().map_err(|_| io::Error::other("not a plain NTP request"))?;
            let nonce = nonce()?;
            {
                let mut course = self.course();
                course.origin.copy_from_slice(&request[40..48]);
                course.nonce = nonce;
            }
            request[40..48].copy_from_slice(&nonce.to_be_bytes());
            let before = clock::read();
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let sent = nix::sys::socket::send(self.udp.as_raw_fd(), &request, flags)?;
            let took = clock::raw_now() - before.raw;
            let mut course = self.course();
            (course.before, course.sent) = (Some(before), Some(before.raw + took.half()));
            Ok(sent)
        };
        send().map_err(|e: io::Error| {
            self.course().failure = Some(why(&e));
            sntpc::Error::Network
        })
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> sntpc::Result<(usize, SocketAddr)> {
        let reply = self.answer().await.map_err(|e| {
            self.course().failure = Some(why(&e));
            sntpc::Error::Network
        })?;
        let mut course = self.course();
        let mut shown = reply.packet;
        shown[24..32].copy_from_slice(&course.origin);
        course.reply = Some(reply);
        let shown = shown.get(..buffer.len()).ok_or(sntpc::Error::IncorrectPayload)?;
        buffer.copy_from_slice(shown);
        Ok((LEN, self.server))
    }
}

/// T1 and T4 as sntpc wants them; only its own checks see them.
#[derive(Clone, Copy)]
struct Stamps<'a> {
    socket: &'a Socket,
    at: i64,
}

impl NtpTimestampGenerator for Stamps<'_> {
    fn init(&mut self) {
        let read = self.socket.course().reply.as_ref().map(|r| r.after);
        self.at = read.unwrap_or_else(clock::read).utc.as_nanos().max(0);
    }
    fn timestamp_sec(&self) -> u64 {
        self.at.cast_unsigned() / 1_000_000_000
    }
    fn timestamp_subsec_micros(&self) -> u32 {
        (self.at % 1_000_000_000 / 1_000) as u32
    }
}

fn nonce() -> io::Result<u64> {
    loop {
        // Zero is what a server sends that echoes nothing.
        match getrandom::u64().map_err(|e| io::Error::other(e.to_string()))? {
            0 => {}
            nonce => return Ok(nonce),
        }
    }
}

/// Reads a datagram (or, with `MSG_ERRQUEUE`, a transmit stamp) without waiting: its length even
/// beyond the buffer's, its source, the kernel's software stamp.
fn receive(
    udp: &UdpSocket,
    buffer: &mut [u8; ROOM],
    flags: MsgFlags,
) -> io::Result<(usize, Option<SocketAddr>, Option<UtcTime>)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control =
        nix::cmsg_space!(Timestamps, Timestamps, libc::sock_extended_err, libc::sockaddr_in6);
    let flags = flags | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let got = recvmsg::<SockaddrStorage>(udp.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut stamp = None;
    for message in got.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmTimestampsns(Timestamps { system: t, .. }) = message {
            let at = t.tv_sec() * 1_000_000_000 + t.tv_nsec();
            stamp = (at != 0).then_some(UtcTime::from_nanos(at));
        }
    }
    Ok((got.bytes, got.address.as_ref().and_then(address), stamp))
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
}

/// Asks for software stamps both ways. Where there are none, our own readings serve.
fn stamp(udp: &impl AsFd) {
    let flags = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY;
    let _ = setsockopt(udp, sockopt::Timestamping, &flags);
}

/// The kernel stamps arrivals only while some socket wants it, and switching on takes it a while:
/// one idle socket keeps it on, else the first reply of each burst would go without.
fn keep_stamps_on() {
    static IDLE: OnceLock<Option<UdpSocket>> = OnceLock::new();
    IDLE.get_or_init(|| {
        let idle = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        stamp(&idle);
        Some(idle)
    });
}

/// Where a stamp of the steered clock lies on the raw one, by a reading taken close to it.
fn raw_near(reading: Reading, stamp: UtcTime) -> RawTime {
    reading.raw - (reading.utc - stamp)
}

/// Whether the clock was set between two readings: moved by more than the kernel's fastest
/// slewing (tick ±10 %, frequency and adjtime ±500 ppm each) explains.
fn stepped_between(before: Reading, after: Reading) -> bool {
    let moved = (after.utc_minus_raw() - before.utc_minus_raw()).abs();
    let slewed = Nanos::new((after.raw - before.raw).get() / 1_000 * 101);
    moved > slewed + Nanos::new(50_000)
}

/// What an error of the socket means.
fn why(e: &io::Error) -> Why {
    let unreachable = |text: &str| Why::Unreachable(text.to_owned());
    let local = |text: &str| Why::Local(text.to_owned());
    match e.raw_os_error() {
        Some(libc::ECONNREFUSED) => Why::Refused,
        Some(libc::ENETUNREACH) => unreachable("no route to its network"),
        Some(libc::EHOSTUNREACH) => unreachable("no route to its host"),
        Some(libc::EHOSTDOWN) => unreachable("its host is down"),
        Some(libc::ENETDOWN) => unreachable("the network is down"),
        Some(libc::EADDRNOTAVAIL) => unreachable("this machine has no address to ask from"),
        Some(libc::EAFNOSUPPORT) => unreachable("this machine does not speak its kind of address"),
        Some(libc::EPERM | libc::EACCES) => local("a firewall on this machine forbids it"),
        Some(libc::EMSGSIZE) => local("the network does not carry 48 bytes in one piece"),
        Some(libc::EMFILE | libc::ENFILE) => local("too many files are open"),
        Some(libc::ENOBUFS | libc::ENOMEM) => local("the kernel has no memory for it"),
        _ => Why::Local(e.to_string()),
    }
}

/// The exchange may run in a task of its own.
const _: fn() = || {
    fn sendable<F: Future + Send>(_: impl FnOnce(SocketAddr, tokio::time::Sleep) -> F) {}
    sendable(exchange);
};

#[cfg(test)]
mod tests;
