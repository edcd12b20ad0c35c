//! Every wrong datagram a server can send, each with the reason that `sources` must show for it.
use crate::daemon::{Place, Row, every};
use crate::server::{Liar, Say};
use leadville_timesync::engine::packet::{Rejected, ntp};
use leadville_timesync::units::{Nanos, UtcTime};
use serde_json::Value;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What must become of a reply.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// Heard, and not used for this reason.
    Refused(Rejected),
    /// Not taken for an answer, and counted.
    Skipped(Rejected),
    /// As if nothing had come.
    Unheard,
    /// The kernel said that nobody is there.
    Nobody,
    /// Used; the server's time is so many seconds ahead of ours.
    Used(i64),
}
use Fate::{Nobody, Refused, Skipped, Unheard, Used};

/// A server that lies and what must become of it.
pub struct Lie {
    pub name: String,
    /// `None`: nobody listens at the address.
    pub server: Option<Liar>,
    pub address: String,
    pub fate: Fate,
}

pub fn lie(name: impl Into<String>, fate: Fate, server: Liar) -> Lie {
    let address = server.address.to_string();
    Lie { name: name.into(), server: Some(server), address, fate }
}

/// A good reply with other bytes at a place.
pub fn with(name: impl Into<String>, fate: Fate, at: usize, bytes: &[u8]) -> Lie {
    let bytes = bytes.to_vec();
    lie(name, fate, Liar::spoiling(move |r| r[at..at + bytes.len()].copy_from_slice(&bytes)))
}

/// A good reply with something behind it.
pub fn behind(name: impl Into<String>, fate: Fate, tail: Vec<u8>) -> Lie {
    lie(name, fate, Liar::spoiling(move |r| r.extend_from_slice(&tail)))
}

/// Seconds of the first instant of NTP's era 1: 2036-02-07 06:28:16 UTC.
pub const ERA_1: i64 = 2_085_978_496;

/// An extension field of this claimed length.
pub fn field(claimed: u16, bytes: usize) -> Vec<u8> {
    let mut field = vec![0x42; bytes];
    field[..2].copy_from_slice(&[0x01, 0x04]);
    field[2..4].copy_from_slice(&claimed.to_be_bytes());
    field
}

fn lengths() -> Vec<Lie> {
    let mut all =
        vec![lie("an empty datagram", Skipped(Rejected::Length), Liar::saying(|_| vec![]))];
    for length in 1..48 {
        let name = format!("{length} bytes");
        let server = Liar::spoiling(move |r| r.truncate(length));
        all.push(lie(name, Skipped(Rejected::Length), server));
    }
    for extra in 1..=3 {
        all.push(behind(format!("48+{extra} bytes"), Skipped(Rejected::Length), vec![0; extra]));
    }
    all.push(behind("48+4: a crypto-NAK", Skipped(Rejected::Length), vec![0; 4]));
    for mac in [20, 24] {
        let tail = [&[0, 0, 0, 1][..], &vec![0xa5; mac - 4]].concat();
        all.push(behind(format!("48+{mac}: a MAC"), Skipped(Rejected::Length), tail));
    }
    for claimed in [0, 3, 0xffff] {
        let name = format!("an extension field that claims {claimed} bytes");
        all.push(behind(name, Skipped(Rejected::Length), field(claimed, 64)));
    }
    let overlapping = [field(48, 32), field(32, 32)].concat();
    all.push(behind("extension fields that overlap", Skipped(Rejected::Length), overlapping));
    let cut = field(64, 32);
    all.push(behind("cut off inside an extension field", Skipped(Rejected::Length), cut));
    let mut hundred: Vec<u8> = (0..99).flat_map(|_| field(16, 16)).collect();
    hundred.extend(field(28, 28));
    all.push(behind("100 sound extension fields", Used(0), hundred));
    all.push(behind("65507 bytes", Skipped(Rejected::Length), vec![0x42; 65_507 - 48]));
    all
}

fn headers() -> Vec<Lie> {
    let mut all = Vec::new();
    for mode in [0, 1, 2, 3, 5, 6, 7] {
        let first = 0b00_100_000 | mode;
        all.push(with(format!("mode {mode}"), Refused(Rejected::Mode), 0, &[first]));
    }
    for version in [0, 1, 2, 5, 6, 7] {
        let first = version << 3 | 4;
        all.push(with(format!("version {version}"), Refused(Rejected::Version), 0, &[first]));
    }
    all.push(with("version 3", Used(0), 0, &[0b00_011_100]));
    all.push(with("leap 3", Refused(Rejected::Unsynchronised), 0, &[0b11_100_100]));
    for stratum in [16, 17, 255] {
        let name = format!("stratum {stratum}");
        all.push(with(name, Refused(Rejected::Unsynchronised), 1, &[stratum]));
    }
    for precision in [-128_i8, 127] {
        let name = format!("precision {precision}");
        let bytes = [precision.cast_unsigned()];
        all.push(with(name, Refused(Rejected::Precision), 3, &bytes));
    }
    all.push(with("precision 0", Used(0), 3, &[0]));
    for poll in [0, 17, 255] {
        all.push(with(format!("poll {poll}"), Used(0), 2, &[poll]));
    }
    for (field, at) in [("root delay", 4), ("root dispersion", 8)] {
        all.push(with(format!("{field} 0"), Used(0), at, &[0; 4]));
        for (what, bytes) in [
            ("16 s", [0, 16, 0, 0]),
            ("65535 s", [0xff, 0xff, 0, 0]),
            ("-1 s", [0xff, 0xff, 0, 0]),
            ("at its largest", [0x7f, 0xff, 0xff, 0xff]),
        ] {
            let name = format!("{field} {what}");
            all.push(with(name, Refused(Rejected::RootDistance), at, &bytes));
        }
    }
    all.push(with("root delay 1.5 s", Used(0), 4, &[0, 1, 0x80, 0]));
    let far = Refused(Rejected::RootDistance);
    all.push(with("root dispersion 1.5 s", far, 8, &[0, 1, 0x80, 0]));
    let both = [0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff];
    all.push(with("root delay and dispersion that overflow together", far, 4, &both));
    all
}

fn kisses() -> Vec<Lie> {
    use leadville_timesync::engine::packet::Kiss;
    let mut all = Vec::new();
    let codes: [(&str, &[u8; 4], Kiss); 7] = [
        ("RATE", b"RATE", Kiss::Rate),
        ("DENY", b"DENY", Kiss::Deny),
        ("RSTR", b"RSTR", Kiss::Restrict),
        ("INIT", b"INIT", Kiss::Other),
        ("STEP", b"STEP", Kiss::Other),
        ("of zeros", b"\0\0\0\0", Kiss::Other),
        ("that is not ASCII", b"\xff\x1b[2", Kiss::Other),
    ];
    for (what, code, kiss) in codes {
        let spoil = move |r: &mut Vec<u8>| {
            r[1] = 0;
            r[12..16].copy_from_slice(code);
        };
        let fate = Refused(Rejected::Kissed(kiss));
        all.push(lie(format!("a kiss {what}"), fate, Liar::spoiling(spoil)));
        let forged = Liar::spoiling(move |r| {
            spoil(r);
            r[24] ^= 1;
        });
        let fate = Skipped(Rejected::Origin);
        all.push(lie(format!("a kiss {what} with a wrong origin"), fate, forged));
    }
    all
}

fn origins() -> Vec<Lie> {
    let skipped = Skipped(Rejected::Origin);
    let mut all = vec![with("an origin of zero", skipped, 24, &[0; 8])];
    let late = Liar::new(|request| {
        let good = request.good().to_vec();
        let mut zero = request.good_at(request.at + Nanos::from_secs(100)).to_vec();
        zero[24..32].fill(0);
        vec![Say::This(good), Say::Wait(Duration::from_millis(50)), Say::This(zero)]
    });
    all.push(lie("an origin of zero when nothing was asked", Used(0), late));
    let before: Mutex<Option<Vec<u8>>> = Mutex::default();
    let replay = Liar::new(move |request| {
        let old = before.lock().unwrap().replace(request.good().to_vec());
        old.map(Say::This).into_iter().collect()
    });
    all.push(lie("the reply to the request before", skipped, replay));
    let twice = Liar::new(|request| {
        let lie = request.good_at(request.at + Nanos::from_secs(100)).to_vec();
        vec![Say::This(request.good().to_vec()), Say::This(lie)]
    });
    all.push(lie("the right origin twice, the second time a lie", Used(0), twice));
    let shared: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let theirs = shared.clone();
    let one = Liar::saying(move |request| {
        *shared.lock().unwrap() = Some(request.bytes[40..48].to_vec());
        request.good().to_vec()
    });
    all.push(lie("a server whose requests another one sees", Used(0), one));
    let other = Liar::saying(move |request| {
        let mut reply = request.good_at(request.at + Nanos::from_secs(100)).to_vec();
        if let Some(nonce) = &*theirs.lock().unwrap() {
            reply[24..32].copy_from_slice(nonce);
        } else {
            reply[24] ^= 1;
        }
        reply
    });
    all.push(lie("the origin of another server's request", skipped, other));
    let guess = Liar::spoiling(|r| r[24..32].copy_from_slice(&[0x11; 8]));
    all.push(lie("a guessed origin", skipped, guess));
    let port = Liar::new(|request| vec![Say::FromAnotherPort(request.good().to_vec())]);
    all.push(lie("the right origin from another port", Unheard, port));
    let address = Liar::new(|request| vec![Say::FromAnotherAddress(request.good().to_vec())]);
    all.push(lie("the right origin from another address", Unheard, address));
    let late = Liar::new(|request| {
        vec![Say::Wait(Duration::from_millis(1_400)), Say::This(request.good().to_vec())]
    });
    all.push(lie("a reply after its time-out", Unheard, late));
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let name = "a closed port (ICMP unreachable)".to_owned();
    all.push(Lie { name, server: None, address: closed, fate: Nobody });
    all
}

fn times() -> Vec<Lie> {
    let mut all = Vec::new();
    for (what, value) in [("zero", 0), ("all ones", 0xff)] {
        let none = Refused(Rejected::NoTime);
        all.push(with(format!("T2 {what}"), none, 32, &[value; 8]));
        all.push(with(format!("T3 {what}"), none, 40, &[value; 8]));
        all.push(with(format!("T2 and T3 {what}"), none, 32, &[value; 16]));
    }
    let stay = |name: &str, fate, ns: i64| {
        let server = Liar::saying(move |request| {
            let mut reply = request.good().to_vec();
            reply[32..40].copy_from_slice(&ntp(request.at).to_be_bytes());
            reply[40..48].copy_from_slice(&ntp(request.at + Nanos::new(ns)).to_be_bytes());
            reply
        });
        lie(name, fate, server)
    };
    all.push(stay("T3 1 ns before T2", Refused(Rejected::Backwards), -1));
    all.push(stay("T3 1 ms before T2", Refused(Rejected::Backwards), -1_000_000));
    all.push(stay("T3 1 s before T2", Refused(Rejected::Backwards), -1_000_000_000));
    all.push(stay("T3 equal to T2", Used(0), 0));
    let longer = Refused(Rejected::NegativeDelay);
    all.push(stay("T3 - T2 longer than the round trip", longer, 900_000_000));
    all.push(stay("a delay of -10 s", Refused(Rejected::Slow), 10_000_000_000));
    for (name, seconds) in [
        ("a second before era 1", ERA_1 - 1),
        ("the first second of era 1", ERA_1),
        ("a second into era 1", ERA_1 + 1),
        ("a year into era 1", ERA_1 + 31_536_000),
    ] {
        let ahead = seconds - now();
        all.push(lie(name, Used(ahead), Liar::off(Nanos::from_secs(ahead))));
    }
    let ahead = ERA_1 - now();
    let straddling = Liar::new(move |request| {
        let mut reply = request.good().to_vec();
        let turn = UtcTime::from_nanos(ERA_1 * 1_000_000_000);
        reply[32..40].copy_from_slice(&ntp(turn - Nanos::new(500_000)).to_be_bytes());
        reply[40..48].copy_from_slice(&ntp(turn + Nanos::new(500_000)).to_be_bytes());
        vec![Say::Wait(Duration::from_millis(5)), Say::This(reply)]
    });
    all.push(lie("received in era 0 and sent in era 1", Used(ahead), straddling));
    for (name, days) in [
        ("ten years ago", -3_653),
        ("1024 weeks ago", -7_168),
        ("1970", -now() / 86_400),
        ("in thirty years", 10_957),
    ] {
        let server = Liar::off(Nanos::from_secs(days * 86_400));
        all.push(lie(name, Refused(Rejected::Date), server));
    }
    all
}

pub fn now() -> i64 {
    leadville_timesync::os::clock::read().utc.as_nanos() / 1_000_000_000
}

/// Whether one server's line of `sources` shows the fate wanted; `None`: it is too early to say.
fn judged(server: &Value, fate: Fate) -> Option<Result<(), String>> {
    let number = |key: &str| server[key].as_u64().unwrap_or(0);
    let (requests, replies) = (number("requests"), number("replies"));
    let counted = server["rejected"].as_object().map_or(0, serde_json::Map::len);
    let enough = requests >= 3 || replies > 0 || (counted > 0 && server["role"] != "waiting");
    if !enough {
        return None;
    }
    let shown = |why: &str| Err(format!("{why}; shown: {server}"));
    let why = server["why"].as_str().unwrap_or("");
    Some(match fate {
        Used(ahead) => {
            let off = server["offset_us"].as_f64().map(|us| us * 1e-6 - ahead as f64);
            match off {
                Some(off) if replies > 0 && off.abs() < 3.0 => Ok(()),
                _ if replies == 0 && requests < 12 => return None,
                _ => shown("should be used"),
            }
        }
        _ if replies > 0 => shown("was used"),
        Refused(reason) => {
            let name = Rejected::NAMES[reason.index()];
            let said = server["rejected"][name].as_u64().is_some_and(|n| n > 0);
            match said && server["role"] == "rejected" && why == reason.to_string() {
                true => Ok(()),
                false if requests < 3 => return None,
                false => shown(&format!("should say \"{name}\"")),
            }
        }
        Skipped(reason) => {
            let name = Rejected::NAMES[reason.index()];
            let said = server["rejected"][name].as_u64().is_some_and(|n| n > 0);
            match said && counted == 1 && server["role"] == "unreachable" {
                true => Ok(()),
                false if requests < 4 => return None,
                false => shown(&format!("should count \"{name}\"")),
            }
        }
        Unheard if counted == 0 && why.contains("no answer in time") => Ok(()),
        Nobody if counted == 0 && why.contains("nobody answers") => Ok(()),
        Unheard | Nobody if requests < 4 => return None,
        Unheard | Nobody => shown("should be unheard"),
    })
}

/// Lets one daemon ask up to sixteen liars and judges each.
fn ask_all(lies: Vec<Lie>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut lies = lies.into_iter().peekable();
    while lies.peek().is_some() {
        let group: Vec<Lie> = lies.by_ref().take(16).collect();
        let names: Vec<&str> = group.iter().map(|l| l.name.as_str()).collect();
        rows.push(Row { name: names.join(" / "), judge: Box::new(move || ask_group(&group)) });
    }
    rows
}

fn ask_group(group: &[Lie]) -> Result<(), String> {
    let place = Place::new();
    let servers: Vec<String> = group.iter().map(|l| l.address.clone()).collect();
    let daemon = place.start(&servers, "");
    let mut results: Vec<Option<Result<(), String>>> = vec![None; group.len()];
    let last = daemon.until(|status| {
        for (lie, result) in group.iter().zip(&mut results) {
            let shown = status["servers"].as_array().into_iter().flatten();
            let server = shown.into_iter().find(|s| s["name"] == lie.address.as_str());
            if let Some(judged) = server.and_then(|s| judged(s, lie.fate)) {
                // A failure may be early; the last word counts.
                *result = Some(judged);
            }
        }
        results.iter().all(|r| matches!(r, Some(Ok(()))))
    });
    let mut failed = Vec::new();
    for (lie, result) in group.iter().zip(results) {
        let _ = &lie.server;
        match result {
            Some(Ok(())) => {}
            Some(Err(why)) => failed.push(format!("{}: {why}", lie.name)),
            None => failed.push(format!("{}: never judged", lie.name)),
        }
    }
    if let (Err(why), true) = (&last, failed.is_empty()) {
        failed.push(why.clone());
    }
    daemon.stop()?;
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n    ")) }
}

#[test]
fn replies_of_every_wrong_length_are_no_answer() {
    every(ask_all(lengths()));
}

#[test]
fn every_absurd_header_is_refused_for_its_reason() {
    every(ask_all(headers()));
}

#[test]
fn every_kiss_of_death_counts_only_with_the_right_origin() {
    every(ask_all(kisses()));
}

#[test]
fn only_the_echo_of_our_number_from_the_right_place_and_in_time_is_an_answer() {
    every(ask_all(origins()));
}

#[test]
fn times_that_cannot_be_are_refused_and_both_sides_of_2036_are_read() {
    every(ask_all(times()));
}
