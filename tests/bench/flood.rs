//! Sends requests for the time to 127.0.0.1 at a rate, from many addresses of this machine, and
//! counts the answers: `flood PORT RATE SECONDS ADDRESSES`. Used by `make bench-serve`.
#![allow(clippy::disallowed_methods, reason = "a load is measured in real time")]
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// Datagrams in a row from one address when there is much to send.
const BURST: u64 = 8;

fn main() {
    let words: Vec<u64> = std::env::args().skip(1).map(|w| w.parse().expect("a number")).collect();
    let [port, rate, seconds, addresses] = words[..] else {
        panic!("flood PORT RATE SECONDS ADDRESSES");
    };
    let mut request = [0; 48];
    request[0] = 0x23;
    request[40..].copy_from_slice(b"leadvill");
    let socket = |n: u64| {
        let socket = UdpSocket::bind(format!("127.{}.{}.2:0", n / 256, n % 256)).expect("a socket");
        socket.connect(("127.0.0.1", port as u16)).expect("a port");
        socket.set_nonblocking(true).expect("it need not wait");
        socket
    };
    let sockets: Vec<UdpSocket> = (0..addresses).map(socket).collect();
    let (begun, length) = (Instant::now(), Duration::from_secs(seconds));
    let (mut sent, mut refused, mut answered, mut turn) = (0_u64, 0_u64, 0_u64, 0);
    let mut reply = [0; 64];
    while begun.elapsed() < length {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        if sent >= due {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        let socket = &sockets[turn];
        turn = (turn + 1) % sockets.len();
        for _ in 0..(due - sent).min(BURST) {
            refused += u64::from(socket.send(&request).is_err());
            sent += 1;
        }
        while socket.recv(&mut reply).is_ok() {
            answered += 1;
        }
    }
    std::thread::sleep(Duration::from_millis(100));
    for socket in &sockets {
        while socket.recv(&mut reply).is_ok() {
            answered += 1;
        }
    }
    println!("{{\"sent\": {}, \"answered\": {}}}", (sent - refused) / seconds, answered / seconds);
}
