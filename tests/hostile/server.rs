//! A server that lies: a real socket on the loopback whose every reply is scripted.
use leadville_timesync::engine::packet::{LEN, ntp};
use leadville_timesync::os::clock;
use leadville_timesync::units::{Nanos, UtcTime};
use nix::sys::socket::sockopt::IpFreebind;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request as it came.
pub struct Request {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Who asked.
    pub from: SocketAddr,
    /// When it came.
    pub at: UtcTime,
}

/// One datagram of an answer.
pub enum Say {
    /// From the server's own port.
    This(Vec<u8>),
    /// From another port of the same address.
    FromAnotherPort(Vec<u8>),
    /// From another address.
    FromAnotherAddress(Vec<u8>),
    /// Wait before going on.
    Wait(Duration),
}

impl Request {
    /// What a good server of stratum 1 answers.
    pub fn good(&self) -> [u8; LEN] {
        self.good_at(self.at)
    }

    /// What a good server answers if it is `t`.
    pub fn good_at(&self, t: UtcTime) -> [u8; LEN] {
        let mut reply = [0; LEN];
        (reply[0], reply[1], reply[2], reply[3]) = (0b00_100_100, 1, 6, (-20_i8).cast_unsigned());
        reply[12..16].copy_from_slice(b"GPS\0");
        reply[16..24].copy_from_slice(&ntp(t).to_be_bytes());
        reply[24..32].copy_from_slice(&self.bytes[40..48]);
        reply[32..40].copy_from_slice(&ntp(t).to_be_bytes());
        reply[40..48].copy_from_slice(&ntp(t + Nanos::new(1_000)).to_be_bytes());
        reply
    }
}

/// A lying server. Ends when dropped.
pub struct Liar {
    /// Where it listens.
    pub address: SocketAddr,
    socket: UdpSocket,
    asked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Liar {
    /// A server that answers each request as `answer` says.
    pub fn new(answer: impl Fn(&Request) -> Vec<Say> + Send + 'static) -> Self {
        Self::at("127.0.0.1:0", answer)
    }

    /// The same at a place of its own.
    pub fn at(place: &str, answer: impl Fn(&Request) -> Vec<Say> + Send + 'static) -> Self {
        let socket = UdpSocket::bind(place).or_else(|_| elsewhere_bound(place));
        let socket = socket.expect("a port of the loopback");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
        let address = socket.local_addr().expect("an address");
        let ours = socket.try_clone().expect("a second handle");
        let (asked, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (asked, stop) = (asked.clone(), stop.clone());
            move || serve(&socket, &asked, &stop, answer)
        });
        Self { address, socket: ours, asked, stop, thread: Some(thread) }
    }

    /// A server that answers one datagram.
    pub fn saying(reply: impl Fn(&Request) -> Vec<u8> + Send + 'static) -> Self {
        Self::new(move |request| vec![Say::This(reply(request))])
    }

    /// A server that is right.
    pub fn honest() -> Self {
        Self::saying(|request| request.good().to_vec())
    }

    /// The same at a place of its own.
    pub fn honest_at(place: &str) -> Self {
        Self::at(place, |request| vec![Say::This(request.good().to_vec())])
    }

    /// A good server whose reply is spoilt before it leaves.
    pub fn spoiling(spoil: impl Fn(&mut Vec<u8>) + Send + 'static) -> Self {
        Self::saying(move |request| {
            let mut reply = request.good().to_vec();
            spoil(&mut reply);
            reply
        })
    }

    /// A good server in all but the time, which is so much later than it should be.
    pub fn off(by: Nanos) -> Self {
        Self::saying(move |request| request.good_at(request.at + by).to_vec())
    }

    /// Its socket, to say more from the same place.
    pub fn socket(&self) -> UdpSocket {
        self.socket.try_clone().expect("one more handle")
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    socket: &UdpSocket,
    asked: &AtomicU64,
    stop: &AtomicBool,
    answer: impl Fn(&Request) -> Vec<Say>,
) {
    let mut buffer = [0; 1_500];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let at = clock::read().utc;
        asked.fetch_add(1, Ordering::Relaxed);
        if length != LEN {
            continue;
        }
        for say in answer(&Request { bytes: buffer[..length].to_vec(), from, at }) {
            // Whoever asked may be gone by now.
            let _ = match say {
                Say::This(bytes) => socket.send_to(&bytes, from),
                Say::FromAnotherPort(bytes) => elsewhere("127.0.0.1:0", &bytes, from),
                Say::FromAnotherAddress(bytes) => elsewhere("127.0.0.9:0", &bytes, from),
                Say::Wait(span) => {
                    std::thread::sleep(span);
                    Ok(0)
                }
            };
        }
    }
}

/// Bound to an address that leads here and is not this machine's own.
fn elsewhere_bound(place: &str) -> std::io::Result<UdpSocket> {
    let address: SocketAddr = place.parse().map_err(std::io::Error::other)?;
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, IpFreebind, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket.into())
}

fn elsewhere(place: &str, bytes: &[u8], to: SocketAddr) -> std::io::Result<usize> {
    UdpSocket::bind(place)?.send_to(bytes, to)
}
