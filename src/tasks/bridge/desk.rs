//! Requests about timers: scan, send, events, calibrate.
use super::Bridge;
use super::keep::Known;
use crate::state::PROTOCOL;
use crate::timer::command;
use crate::units::{Nanos, RawTime, UtcTime};
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A client of the socket waits five seconds.
const PATIENCE: Duration = Duration::from_millis(4500);
/// A scan on request goes on so long after the last request for it.
const SCAN: Nanos = Nanos::from_secs(5);

/// A request with the way back.
pub(super) type Question = (String, Map<String, Value>, oneshot::Sender<Value>);

/// Where requests about timers go.
#[derive(Clone)]
pub struct TimerDesk {
    questions: mpsc::Sender<Question>,
}

/// The bridge's end.
pub struct Questions(pub(super) mpsc::Receiver<Question>);

impl TimerDesk {
    /// The desk and the bridge's end of it.
    #[must_use]
    pub fn new() -> (Self, Questions) {
        let (questions, inbox) = mpsc::channel(16);
        (Self { questions }, Questions(inbox))
    }

    /// Answers one request.
    pub async fn answer(&self, verb: &str, request: &Map<String, Value>) -> Value {
        let (back, answer) = oneshot::channel();
        if self.questions.send((verb.to_owned(), request.clone(), back)).await.is_err() {
            return refusal("the timer bridge has ended", None);
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            _ => refusal("the timer does not answer", None),
        }
    }
}

pub(super) fn refusal(error: &str, hint: Option<&str>) -> Value {
    json!({"v": PROTOCOL, "reply": "error", "error": error, "hint": hint})
}

fn done(message: &str) -> Value {
    json!({"v": PROTOCOL, "reply": "ok", "message": message})
}

impl Bridge {
    pub(super) fn asked(&mut self, question: Question) {
        let (verb, request, back) = question;
        let answer = match verb.as_str() {
            "timer-scan" => self.scan_asked(),
            "timer-send" => return self.send_asked(&request, back),
            "timer-events" => self.events_asked(&request),
            "timer-calibrate" => self.calibrate_asked(&request),
            _ => refusal("unknown request about timers", None),
        };
        let _ = back.send(answer);
    }

    fn scan_asked(&mut self) -> Value {
        if self.pretend.is_some() {
            let w = &self.watched[0];
            let device = json!({"address": w.address, "name": w.timer.name, "rssi_dbm": null,
                "connected": true, "adapter": null});
            return json!({"v": PROTOCOL, "reply": "ok", "message": "a simulated timer",
                "devices": [device]});
        }
        if let Some(trouble) = &self.trouble {
            return refusal(trouble, None);
        }
        self.scan_until = Some(self.now() + SCAN);
        let devices: Vec<Value> = self.bluez.as_ref().map_or_else(Vec::new, |bluez| {
            let timers = bluez.tree.devices.values().filter(|d| super::link::is_timer(d));
            timers
                .filter(|d| d.rssi.is_some() || d.connected)
                .map(|d| {
                    json!({"address": d.address, "name": d.name, "rssi_dbm": d.rssi,
                        "connected": d.connected, "adapter": d.adapter})
                })
                .collect()
        });
        json!({"v": PROTOCOL, "reply": "ok", "message": "scanning", "devices": devices})
    }

    /// The timer that a request means.
    fn meant(&self, request: &Map<String, Value>) -> Result<usize, Value> {
        let name = request.get("timer").and_then(Value::as_str);
        let fits = |i: &usize| {
            let w = &self.watched[*i];
            name.is_none_or(|n| w.timer.name == n || w.address.eq_ignore_ascii_case(n))
        };
        let found: Vec<usize> = (0..self.watched.len()).filter(fits).collect();
        match found[..] {
            [one] => Ok(one),
            [] => Err(refusal("no such timer", Some("leadville-timesync timer status lists them"))),
            _ => Err(refusal("there are several timers", Some("name one with --timer"))),
        }
    }

    fn send_asked(&mut self, request: &Map<String, Value>, back: oneshot::Sender<Value>) {
        let text = request.get("command").and_then(Value::as_str).unwrap_or("");
        let checked = command::checked(text).map_err(|why| refusal(&why, None));
        let found = checked.and_then(|text| self.meant(request).map(|i| (i, text)));
        let (index, text) = match found {
            Ok(found) => found,
            Err(refused) => {
                let _ = back.send(refused);
                return;
            }
        };
        let running = self.watched[index].bay.strings().current().is_some();
        let refused = if !self.watched[index].link.is_listening() {
            Some(refusal("the timer is not connected", Some("switch it on")))
        } else if running && command::needs_stopped(&text) {
            Some(refusal("a string is running", Some("wait for its stop")))
        } else if self.last_write.is_some_and(|at| self.now() - at < Nanos::from_millis(100)) {
            Some(refusal("the timer needs 100 ms between commands", Some("again")))
        } else {
            None
        };
        if let Some(refused) = refused {
            let _ = back.send(refused);
            return;
        }
        tracing::info!("{}: an operator sends {text}", self.watched[index].timer.name);
        self.write(index, text, Some(back));
    }

    fn events_asked(&self, request: &Map<String, Value>) -> Value {
        let since = match request.get("since") {
            None | Some(Value::Null) => None,
            Some(text) => match text.as_str().and_then(UtcTime::from_iso) {
                Some(utc) => Some(utc),
                None => return refusal("since is a time, ISO 8601 in UTC", None),
            },
        };
        let next = request.get("next").and_then(Value::as_u64).unwrap_or(0) as usize;
        let (mut events, next) = self.kept.since(since, next);
        for event in &mut events {
            event["v"] = PROTOCOL.into();
        }
        json!({"v": PROTOCOL, "reply": "timer-events", "events": events, "next": next})
    }

    fn calibrate_asked(&mut self, request: &Map<String, Value>) -> Value {
        let index = match self.meant(request) {
            Ok(index) => index,
            Err(refused) => return refused,
        };
        let address = self.watched[index].address.clone();
        if address.is_empty() {
            return refusal("the timer's address is not known yet", Some("switch it on"));
        }
        let number = |key: &str| request.get(key).and_then(Value::as_f64);
        let message = if request.get("forget").and_then(Value::as_bool) == Some(true) {
            self.kept.timers.entry(address).or_default().d0_ms = None;
            "forgotten: the fixed delay is unknown again".to_owned()
        } else {
            let measured = match (number("d0_ms"), request.get("pairs").and_then(Value::as_array)) {
                (Some(d0), _) => Ok((d0, number("bound_ms").unwrap_or(5.0), 0)),
                (None, Some(pairs)) => self.measured(&address, pairs),
                (None, None) => Err("calibrating wants pairs, d0_ms or forget".to_owned()),
            };
            let (d0, bound, count) = match measured {
                Ok((d0, bound, count)) if d0.abs() <= 500.0 => (d0, bound, count),
                Ok((d0, ..)) => {
                    return refusal(
                        &format!("a fixed delay of {d0:.0} ms is no delay of a timer"),
                        Some("check the reference's clock and the strings' numbers"),
                    );
                }
                Err(why) => return refusal(&why, None),
            };
            let known: &mut Known = self.kept.timers.entry(address).or_default();
            known.d0_ms = Some((d0, bound));
            let from = if count > 0 { format!(" from {count} shots") } else { String::new() };
            format!("the fixed delay is {d0:.1} ms ±{bound:.1} ms{from}")
        };
        self.kept.dirty = true;
        self.watched[index].learned(&self.kept);
        self.publish();
        done(&message)
    }

    /// The fixed delay by shots whose true time is known: mean and 95 % bound, ms.
    fn measured(&self, address: &str, pairs: &[Value]) -> Result<(f64, f64, usize), String> {
        let mut delays = Vec::new();
        for pair in pairs {
            let whole = |key: &str| pair.get(key).and_then(Value::as_i64);
            let (Some(string), Some(shot), Some(utc)) =
                (whole("string"), whole("shot"), whole("utc_ns"))
            else {
                return Err("a pair is {string, shot, utc_ns}".into());
            };
            // The newest string of that number: numbers begin anew at power-on.
            let kept = self.kept.strings.iter().rev().find(|s| {
                i64::from(s.string) == string
                    && s.timer_id == address
                    && s.utc_ns.is_some_and(|at| (at - utc).abs() < 700_000_000_000)
            });
            let Some((kept, beep)) = kept.and_then(|k| Some((k, k.utc_ns?))) else {
                return Err(format!("string {string} is not known with a time near that pair's"));
            };
            let Some(shot) = kept.shots.iter().find(|s| i64::from(s.n) == shot) else {
                return Err(format!("string {string} has no shot {shot}"));
            };
            // What was taken off then, put back on; half a hundredth for the cut.
            let taken = kept.taken_ns.unwrap_or(0);
            let told = beep + i64::from(shot.cs) * 10_000_000 + taken + 5_000_000;
            delays.push((told - utc) as f64 * 1e-6);
        }
        if delays.is_empty() {
            return Err("no pair was given".into());
        }
        let n = delays.len() as f64;
        let mean = delays.iter().sum::<f64>() / n;
        let square = delays.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>();
        // One pair is as good as one string, about 20 ms.
        let sd = if delays.len() < 3 { 10.0 } else { (square / (n - 1.0)).sqrt().max(3.0) };
        Ok((mean, 2.0 * sd / n.sqrt(), delays.len()))
    }

    /// Now on the raw timeline the timers' arrivals are on.
    pub(super) fn now(&self) -> RawTime {
        crate::os::clock::raw_now() + self.ahead
    }
}
