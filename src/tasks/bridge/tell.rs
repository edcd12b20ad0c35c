//! What a timer's frames mean to others: locks, journal, events, strings kept.
use super::Bridge;
use super::keep::KeptString;
use super::watched::Watched;
use crate::os::clock;
use crate::os::journal::{self, message_id};
use crate::state::Shared;
use crate::timer::record::End;
use crate::timer::string::{Happening, PUSH_OFF};
use crate::units::{Nanos, RawTime, UtcTime};
use serde_json::{Value, json};
use tracing::{info, warn};

/// The timer takes a request for its list this long after the stop.
const LIST_AFTER_STOP: Nanos = Nanos::from_millis(300);

impl Bridge {
    /// A notification of a timer.
    pub(super) async fn heard(&mut self, i: usize, at: RawTime, bytes: &[u8]) {
        let w = &mut self.watched[i];
        w.link.heard();
        let said = w.bay.hear(at, bytes);
        if said != [Happening::Duplicate] {
            w.note(at, bytes, said.iter().any(|h| matches!(h, Happening::Started { .. })));
        }
        w.heard = Some((at, w.heard.and_then(|h| h.1)));
        self.tell_all(i, &said, Some(at)).await;
        let utc = self.shared.stamp(at).await.map(|s| s.utc);
        self.watched[i].heard = Some((at, utc));
        self.publish();
    }

    /// The string as it is known now, with its UTC.
    async fn string(&self, i: usize, number: u16) -> Option<KeptString> {
        let mut kept = self.watched[i].kept(number, &self.boot)?;
        self.date(&mut kept).await;
        Some(kept)
    }

    async fn date(&self, kept: &mut KeptString) {
        if let Some(stamp) = self.shared.stamp(RawTime::from_nanos(kept.raw_ns)).await {
            kept.utc_ns = Some(stamp.utc.as_nanos());
            kept.utc_bound_ns = Some((stamp.bound + Nanos::new(kept.bound_ns)).get());
        }
    }

    /// Tells subscribers one event; the monotonic clock is added.
    fn send(&self, mut event: Value) {
        if let Some(raw) = event["raw_ns"].as_i64() {
            let since = self.now().as_nanos() - raw;
            event["monotonic_ns"] = (clock::monotonic_now() - since).into();
        }
        self.shared.tell(event);
    }

    pub(super) async fn tell_all(&mut self, i: usize, said: &[Happening], at: Option<RawTime>) {
        for happening in said {
            match happening {
                Happening::Started { string, late } => self.started(i, *string, *late, at).await,
                Happening::Shot { string, shot } => self.shot(i, *string, *shot).await,
                Happening::Ended { string, end } => self.ended(i, *string, *end).await,
                Happening::Amended { string } => self.amended(i, *string).await,
                Happening::WantList { .. } => {
                    self.watched[i].list_due = Some(self.now() + LIST_AFTER_STOP);
                }
                Happening::PushOff => {
                    self.watched[i].push_off = true;
                    self.say(i, "push_off", PUSH_OFF);
                }
                Happening::PowerCycled => {
                    self.say(i, "power_cycled", "the timer was switched off and on");
                }
                Happening::Warning(text) => self.say(i, "warning", text),
                Happening::Alert(text) => {
                    self.watched[i].alert = Some(text.clone());
                    self.say(i, "alert", text);
                }
                Happening::Text(text) => self.say(i, "text", text),
                Happening::Screen(s) => {
                    let text = format!("screen: shot {} of {}, {} s", s.shot, s.total, s.time);
                    self.say(i, "screen", &text);
                }
                Happening::List(times) => {
                    let times: Vec<f64> = times.iter().map(|t| t.seconds()).collect();
                    let w = &self.watched[i];
                    self.send(json!({"event": "timer", "type": "list", "source": "amg",
                        "timer_id": w.id(), "name": w.timer.name, "times_s": times}));
                }
                Happening::Duplicate => {}
            }
        }
    }

    fn say(&self, i: usize, kind: &str, text: &str) {
        let w = &self.watched[i];
        if kind == "text" || kind == "screen" {
            info!(TIMER = w.timer.name.as_str(), "{}: {text}", w.timer.name);
        } else if kind == "alert" {
            warn!(
                MESSAGE_ID = message_id(journal::Event::Alert),
                EVENT = "alert",
                TIMER = w.timer.name.as_str(),
                "{}: {text}",
                w.timer.name
            );
        } else {
            warn!(TIMER = w.timer.name.as_str(), "{}: {text}", w.timer.name);
        }
        self.send(json!({"event": "timer", "type": kind, "source": "amg", "timer_id": w.id(),
            "name": w.timer.name, "message": text}));
    }

    async fn started(&mut self, i: usize, string: u16, late: bool, at: Option<RawTime>) {
        self.hold(i, self.config.lock.string_longest).await;
        self.watched[i].push_off = false;
        self.watched[i].alert = None;
        self.watched[i].list_due = None;
        let seq = self.kept.next_seq();
        self.watched[i].begin(string, seq);
        let w = &self.watched[i];
        info!(
            MESSAGE_ID = message_id(journal::Event::TimerString),
            EVENT = "timer_string",
            TIMER = w.timer.name.as_str(),
            STRING = string,
            "{}: string {string} has begun{}",
            w.timer.name,
            if late { ", its start was not heard" } else { "" }
        );
        // Before any shot the beep is known from its start frame alone, if at all.
        if let Some(kept) = self.string(i, string).await
            && let Some(mut start) = kept.events().into_iter().next()
        {
            start["provisional"] = true.into();
            self.send(start);
        } else {
            let utc = match at {
                Some(at) => self.shared.stamp(at).await.map(|s| s.utc),
                None => None,
            };
            let w = &self.watched[i];
            self.send(json!({"event": "timer", "type": "start", "source": "amg",
                "timer_id": w.id(), "name": w.timer.name, "string_number": string,
                "utc": utc.map(|t| t.iso(6)), "utc_ns": utc.map(UtcTime::as_nanos),
                "t_ms": utc.map(|t| t.as_nanos().div_euclid(1_000_000)), "bound_us": Value::Null,
                "raw_ns": at.map(RawTime::as_nanos), "calibrated": false, "provisional": true}));
        }
    }

    async fn shot(&mut self, i: usize, string: u16, shot: u8) {
        let Some(kept) = self.string(i, string).await else { return };
        self.watched[i].bound = Some(Nanos::new(kept.bound_ns));
        let event = kept.events().into_iter().find(|e| e["shot_number"] == shot);
        if let Some(mut event) = event {
            event["provisional"] = true.into();
            self.send(event);
        }
    }

    async fn ended(&mut self, i: usize, string: u16, end: End) {
        self.hold(i, self.config.lock.string_after_stop).await;
        let name = self.watched[i].timer.name.clone();
        let Some(kept) = self.string(i, string).await else {
            info!("{name}: string {string} is over, nothing in it can be dated");
            return;
        };
        let w = &mut self.watched[i];
        w.bound = Some(Nanos::new(kept.bound_ns));
        let (mean, sd) = w.bay.dating().lag().mean_sd();
        let learned = (mean, sd, w.bay.dating().lag().strings());
        let address = w.address.clone();
        info!(
            MESSAGE_ID = message_id(journal::Event::TimerString),
            EVENT = "timer_string",
            TIMER = name.as_str(),
            STRING = string,
            SHOTS = kept.shots.len(),
            BOUND_US = Nanos::new(kept.bound_ns).as_micros_f64(),
            "{name}: string {string} is over, {} shots, the beep at {}",
            kept.shots.len(),
            kept.utc().map_or_else(|| "a time not known yet".to_owned(), |t| t.iso(3))
        );
        if !address.is_empty() && learned.2 > 0 {
            self.kept.timers.entry(address).or_default().lag_ms = Some(learned);
        }
        self.tell_string(&kept, "stop", end != End::Stopped);
        if let Some(sync) = kept.clock_sync() {
            self.send(sync);
        }
        self.kept.keep(kept);
    }

    /// The whole string, final: each shot, then the string as a whole.
    fn tell_string(&self, kept: &KeptString, kind: &str, cut_short: bool) {
        for mut event in kept.events().into_iter().skip(1) {
            if event["type"] == "string" {
                event["type"] = kind.into();
                event["cut_short"] = cut_short.into();
            } else if kind == "stop" {
                event["type"] = "shot_final".into();
            } else {
                event["type"] = "shot_revised".into();
            }
            self.send(event);
        }
    }

    async fn amended(&mut self, i: usize, string: u16) {
        let Some(kept) = self.string(i, string).await else { return };
        self.tell_string(&kept, "revised", false);
        self.kept.keep(kept);
    }

    /// Strings of this boot whose UTC is not known.
    pub(super) fn undated(&self) -> bool {
        let newest = self.kept.strings.iter().rev().take(50);
        newest.filter(|s| s.boot == self.boot).any(|s| s.utc_ns.is_none())
    }

    /// After a late first synchronisation: strings are told again with their time.
    pub(super) async fn revise(&mut self) {
        if self.shared.stamp(self.now()).await.is_none() {
            return;
        }
        for at in 0..self.kept.strings.len() {
            let mut kept = self.kept.strings[at].clone();
            if kept.boot != self.boot || kept.utc_ns.is_some() {
                continue;
            }
            self.date(&mut kept).await;
            if kept.utc_ns.is_none() {
                return;
            }
            info!("string {} of {} has its time now", kept.string, kept.name);
            self.tell_string(&kept, "revised", false);
            self.kept.strings[at] = kept;
            self.kept.dirty = true;
        }
    }
}

/// A link came or went: a line for the journal, which may say more, and an event.
pub(super) fn tell_link(shared: &Shared, watched: &Watched, kind: &str, message: &str, more: &str) {
    let name = watched.timer.name.as_str();
    info!(
        MESSAGE_ID = message_id(journal::Event::TimerLink),
        EVENT = "timer_link",
        TIMER = name,
        "{message}{more}"
    );
    shared.tell(json!({"event": "timer", "type": kind, "source": "amg",
        "timer_id": watched.id(), "name": name, "message": message}));
}
