//! The hostile replies that four other clients were measured on, each from an only server, so
//! that no other could have saved us. `cargo test --test hostile table -- --nocapture` prints our
//! row of README's table.
use crate::daemon::{Daemon, Place, Row, every};
use crate::server::{Liar, Say};
use crate::wire::{ERA_1, now};
use leadville_timesync::engine::packet::ntp;
use leadville_timesync::units::Nanos;
use serde_json::Value;

/// A reply's name, whether a client should believe it (then how far it is ahead), the server.
type Case = (&'static str, Option<i64>, Liar);

fn cases() -> Vec<(&'static str, Vec<Case>)> {
    let cut = |n: usize| Liar::spoiling(move |r| r.resize(n, 0));
    let first = |byte: u8| Liar::spoiling(move |r| r[0] = byte);
    let at = |place: usize, bytes: &'static [u8]| {
        Liar::spoiling(move |r| r[place..place + bytes.len()].copy_from_slice(bytes))
    };
    let stay = |ns: i64| {
        Liar::saying(move |request| {
            let mut reply = request.good().to_vec();
            reply[40..48].copy_from_slice(&ntp(request.at + Nanos::new(ns)).to_be_bytes());
            reply
        })
    };
    let mac = || {
        Liar::spoiling(|r| {
            r.extend_from_slice(&[0, 0, 0, 1]);
            r.extend_from_slice(&[0xa5; 16]);
        })
    };
    let days = |n: i64| Liar::off(Nanos::from_secs(n * 86_400));
    let era = ERA_1 + 86_400 - now();
    vec![
        (
            "36, 40, 49 bytes",
            vec![("36", None, cut(36)), ("40", None, cut(40)), ("49", None, cut(49))],
        ),
        ("47 bytes", vec![("47", None, cut(47))]),
        ("unasked MAC, crypto-NAK", vec![("MAC", None, mac()), ("crypto-NAK", None, cut(52))]),
        (
            "T3 = 0; T2 = T3 = 0",
            vec![("T3", None, at(40, &[0; 8])), ("both", None, at(32, &[0; 16]))],
        ),
        (
            "mode 1,2,3,5,6,7; VN 0,5,7",
            vec![
                ("mode 1", None, first(0b00_100_001)),
                ("mode 2", None, first(0b00_100_010)),
                ("mode 3", None, first(0b00_100_011)),
                ("mode 5", None, first(0b00_100_101)),
                ("mode 6", None, first(0b00_100_110)),
                ("mode 7", None, first(0b00_100_111)),
                ("version 0", None, first(0b00_000_100)),
                ("version 5", None, first(0b00_101_100)),
                ("version 7", None, first(0b00_111_100)),
            ],
        ),
        (
            "root dispersion 20 s; root delay -1 s",
            vec![
                ("dispersion", None, at(8, &[0, 20, 0, 0])),
                ("delay", None, at(4, &[0xff, 0xff, 0, 0])),
            ],
        ),
        ("T3 = T2 + 10 s (delay -10 s)", vec![("stay", None, stay(10_000_000_000))]),
        ("T3 = T2 - 1 s", vec![("before", None, stay(-1_000_000_000))]),
        (
            "reply from another port",
            vec![(
                "port",
                None,
                Liar::new(|request| vec![Say::FromAnotherPort(request.good().to_vec())]),
            )],
        ),
        ("precision 127", vec![("precision", None, at(3, &[127]))]),
        (
            "server -10 years; GPS rollover (-1024 weeks)",
            vec![("ten years", None, days(-3_653)), ("rollover", None, days(-7_168))],
        ),
        ("server in era 1 (2036+)", vec![("era 1", Some(era), Liar::off(Nanos::from_secs(era)))]),
    ]
}

/// What the daemon made of an only server.
fn verdict(daemon: &Daemon<'_>, believed: Option<i64>) -> Result<&'static str, String> {
    let off = |s: &Value| s["offset_us"].as_f64().map(|us| us * 1e-6);
    match believed {
        Some(ahead) => {
            let status = daemon.synchronised()?;
            match off(&status) {
                Some(off) if (off - ahead as f64).abs() < 3.0 => Ok("read right"),
                other => Err(format!("offset {other:?} s instead of {ahead}")),
            }
        }
        None => {
            let asked = |s: &Value| s["servers"][0]["requests"].as_u64().unwrap_or(0) >= 3;
            let status = daemon.until(asked)?;
            let unmoved = status["offset_us"].is_null()
                && status["state"] != "synchronised"
                && status["corrected_utc_ns"].is_null()
                && status["steps"] == 0;
            let said = status["servers"][0]["why"].as_str().is_some_and(|w| !w.is_empty());
            if unmoved && said { Ok("dropped") } else { Err(format!("believed: {status}")) }
        }
    }
}

#[test]
fn every_row_of_the_measured_table_is_right_with_a_single_server() {
    let mut rows = Vec::new();
    for (reply, cases) in cases() {
        let judge = move || {
            let mut said = "";
            for (name, believed, server) in cases {
                let place = Place::new();
                let daemon = place.start(&[server.address.to_string()], "");
                said = verdict(&daemon, believed).map_err(|why| format!("{name}: {why}"))?;
                daemon.stop()?;
            }
            println!("| {reply} | {said} |");
            Ok(())
        };
        rows.push(Row { name: reply.to_owned(), judge: Box::new(judge) });
    }
    every(rows);
}
