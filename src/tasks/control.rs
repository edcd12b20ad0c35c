//! The control socket: one JSON object per line each way. Nothing a client does disturbs the clock.
use crate::engine::Phase;
use crate::engine::byhand::{How, Word};
use crate::os::control::{Connection, Listener, Rights};
use crate::os::{clock, heap};
use crate::state::{
    AlertStatus, Answer, ByHandStatus, HoldoverStatus, PROTOCOL, Quality, Request, Shared, Status,
    SyncPhase,
};
use crate::units::{Nanos, RawTime, UtcTime};
use serde_json::{Map, Value, json};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

/// Longest lock.
const LONGEST_LOCK_S: f64 = 7.0 * 86_400.0;
/// A time of another program may be this old or this far ahead.
const STAMP_RANGE: i64 = 48 * 3_600_000_000_000;

/// What the control task knows beside the state.
#[derive(Clone)]
pub struct Desk {
    /// The state.
    pub shared: Shared,
    /// Start of the daemon, CLOCK_MONOTONIC ns.
    pub started: i64,
    /// Length of a lock when none is given.
    pub default_lock: Nanos,
    /// Where the record of days is, if one is kept.
    pub record: Option<std::path::PathBuf>,
    /// Answers requests about timers, if the bridge runs.
    pub timers: Option<super::TimerDesk>,
}

/// Serves clients until told to stop.
pub async fn run(listener: Listener, desk: Desk, mut stop: watch::Receiver<bool>) {
    let mut clients = JoinSet::new();
    let mut gone = 0_u32;
    loop {
        tokio::select! {
            biased;
            _ = stop.changed() => return,
            Some(_) = clients.join_next() => {
                gone = gone.wrapping_add(1);
                if clients.is_empty() || gone.is_multiple_of(16) {
                    heap::give_back();
                }
            }
            connection = listener.accept() => {
                let desk = desk.clone();
                clients.spawn_local(async move { serve(connection, desk).await });
            }
        }
    }
}

async fn serve(mut connection: Connection, desk: Desk) {
    loop {
        let line = match connection.next_line().await {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(e) => {
                let _ = connection.send_line(&refusal(&e.to_string(), None).to_string()).await;
                return;
            }
        };
        if line.trim().is_empty() {
            continue;
        }
        let request = match read(&line) {
            Ok(request) => request,
            Err(refused) => {
                if send(&mut connection, &refused).await.is_err() {
                    return;
                }
                continue;
            }
        };
        if request.get("do").and_then(Value::as_str) == Some("subscribe") {
            let events = desk.shared.subscribe();
            let hello = json!({"v": PROTOCOL, "reply": "subscribed"});
            if send(&mut connection, &hello).await.is_ok() {
                follow(connection, events).await;
            }
            return;
        }
        let answer = desk.answer(&request, connection.peer().rights).await;
        if send(&mut connection, &answer).await.is_err() {
            return;
        }
    }
}

/// A line as a request.
///
/// # Errors
/// The refusal to send back.
pub fn read(line: &str) -> Result<Map<String, Value>, Value> {
    match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(request)) => Ok(request),
        Ok(_) => {
            let hint = Some("a request is an object: {\"do\":\"status\"}");
            Err(refusal("not a JSON object", hint))
        }
        Err(e) => {
            let hint = Some("one JSON object per line: {\"do\":\"status\"}");
            Err(refusal(&format!("not JSON: {e}"), hint))
        }
    }
}

async fn send(connection: &mut Connection, answer: &Value) -> std::io::Result<()> {
    connection.send_line(&answer.to_string()).await
}

/// Passes events on until the client is gone or too slow.
async fn follow(mut connection: Connection, mut events: broadcast::Receiver<std::sync::Arc<str>>) {
    loop {
        tokio::select! {
            line = connection.next_line() => {
                if !matches!(line, Ok(Some(_))) {
                    return;
                }
            }
            event = events.recv() => match event {
                Ok(event) => {
                    if connection.send_line(&event).await.is_err() {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(n)) => {
                    let line = json!({"v": PROTOCOL, "event": "lost", "count": n}).to_string();
                    if connection.send_line(&line).await.is_err() {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

fn refusal(error: &str, hint: Option<&str>) -> Value {
    json!({"v": PROTOCOL, "reply": "error", "error": error, "hint": hint})
}

fn done(message: impl Into<String>) -> Value {
    json!({"v": PROTOCOL, "reply": "ok", "message": message.into()})
}

fn answered(answer: Answer, message: &str) -> Value {
    match answer {
        Answer::Refused(why) => refusal(&why, None),
        _ => done(message),
    }
}

fn name_of(request: &Map<String, Value>, default: &str) -> Result<String, Value> {
    match request.get("name") {
        None | Some(Value::Null) => Ok(default.to_owned()),
        Some(Value::String(name))
            if !name.is_empty() && name.len() <= 64 && !name.chars().any(char::is_control) =>
        {
            Ok(name.clone())
        }
        Some(_) => Err(refusal("a name is a text of 1 to 64 characters", None)),
    }
}

impl Desk {
    /// Answers one request.
    pub async fn answer(&self, request: &Map<String, Value>, rights: Rights) -> Value {
        let Some(verb) = request.get("do").and_then(Value::as_str) else {
            return refusal("the request does not say what to do", Some("{\"do\":\"status\"}"));
        };
        match verb {
            "status" => {
                let mut value = serde_json::to_value(self.status().await).unwrap_or_default();
                if let Some(object) = value.as_object_mut() {
                    object.insert("reply".into(), "status".into());
                }
                return value;
            }
            "sources" => {
                let servers = self.status().await.servers;
                return json!({"v": PROTOCOL, "reply": "sources", "servers": servers});
            }
            "history" => {
                let history: Vec<Value> = self.shared.read(|s| {
                    let lines = s.drift.history.iter();
                    lines.filter_map(|m| serde_json::to_value(m).ok()).collect()
                });
                return json!({"v": PROTOCOL, "reply": "history", "history": history});
            }
            "record" => return self.record(request).await,
            "stamp" => return self.stamp(request).await,
            "timer-events" => return self.timers(verb, request).await,
            _ => {}
        }
        let known = [
            "sync-now",
            "lock",
            "unlock",
            "step",
            "reset",
            "set-time",
            "timer-scan",
            "timer-send",
            "timer-calibrate",
        ];
        if !known.contains(&verb) {
            let hint = "status, sources, history, record, subscribe, stamp, sync-now, lock, unlock, step, \
                        reset, set-time, timer-events, timer-scan, timer-send, timer-calibrate";
            return refusal(&format!("unknown request \"{verb}\""), Some(hint));
        }
        let from_phone = || verb == "set-time" && request.get("how") == Some(&json!("phone"));
        if rights == Rights::Phone && !from_phone() {
            return refusal("the page may pass on what time a phone shows, and nothing else", None);
        }
        if rights == Rights::Ask {
            return refusal(
                "only root and the group leadville may do that",
                Some("sudo usermod -aG leadville $USER, then log in again"),
            );
        }
        match verb {
            "sync-now" => {
                let answer = self.shared.ask(Request::SyncNow).await;
                answered(answer, "asking all servers as soon as their spacing allows")
            }
            "lock" => self.lock(request).await,
            "unlock" => match name_of(request, "match") {
                Err(refused) => refused,
                Ok(name) => {
                    let answer = self.shared.ask(Request::Unlock(name)).await;
                    answered(answer, "the clock is free again")
                }
            },
            "step" => answered(self.shared.ask(Request::Step).await, "the clock was stepped"),
            "reset" => {
                let answer = self.shared.ask(Request::Reset).await;
                answered(answer, "history and sums are empty; the clock runs on as it is")
            }
            "set-time" => self.set_time(request).await,
            _ => self.timers(verb, request).await,
        }
    }

    async fn timers(&self, verb: &str, request: &Map<String, Value>) -> Value {
        match &self.timers {
            Some(timers) => timers.answer(verb, request).await,
            None => refusal(
                "the timer bridge is off",
                Some("set enabled = true under [bluetooth] and name a [[timer]]"),
            ),
        }
    }

    /// The days on disk, or one of them. The disk must not hold up the clock: another thread reads.
    async fn record(&self, request: &Map<String, Value>) -> Value {
        let Some(dir) = self.record.clone() else {
            return json!({"v": PROTOCOL, "reply": "record", "days": []});
        };
        let day = request.get("day").and_then(Value::as_str).map(str::to_owned);
        let read = tokio::task::spawn_blocking(move || match day {
            None => Ok(json!({"days": crate::record::days(&dir)})),
            Some(day) => crate::record::read_day(&dir, &day)
                .map(|read| serde_json::to_value(read).unwrap_or_default()),
        });
        match read.await {
            Ok(Ok(mut value)) => {
                if let Some(object) = value.as_object_mut() {
                    object.insert("v".into(), PROTOCOL.into());
                    object.insert("reply".into(), "record".into());
                }
                value
            }
            Ok(Err(e)) => refusal(&format!("that day cannot be read: {e}"), None),
            Err(_) => refusal("the daemon is stopping", None),
        }
    }

    async fn lock(&self, request: &Map<String, Value>) -> Value {
        let name = match name_of(request, "match") {
            Ok(name) => name,
            Err(refused) => return refused,
        };
        let seconds = match request.get("for_s") {
            None | Some(Value::Null) => self.default_lock.as_secs_f64(),
            Some(value) => match value.as_f64() {
                Some(s) if s > 0.0 && s <= LONGEST_LOCK_S => s,
                _ => {
                    return refusal("for_s is a number of seconds, above 0 and up to 7 days", None);
                }
            },
        };
        let answer = self.shared.ask(Request::Lock(name, Nanos::from_secs_f64(seconds))).await;
        answered(answer, "the clock is held still: no step, no slew")
    }

    /// Somebody's word: `utc` and `uncertainty_s`; `how` is `set-time` or `phone`; with
    /// `monotonic_ns` the word is of that instant, else of now. With `try` nothing is done: the
    /// answer says what would be.
    async fn set_time(&self, request: &Map<String, Value>) -> Value {
        let Some(utc) = request.get("utc").and_then(Value::as_str).and_then(UtcTime::from_iso)
        else {
            return refusal("utc is a time such as 2026-11-22T09:00:05Z", None);
        };
        let uncertainty = match request.get("uncertainty_s") {
            None | Some(Value::Null) => 2.0,
            Some(value) => match value.as_f64() {
                Some(s) if s > 0.0 && s <= 3_600.0 => s,
                _ => {
                    return refusal("uncertainty_s is a number of seconds, up to an hour", None);
                }
            },
        };
        let how = match request.get("how").and_then(Value::as_str) {
            None | Some("set-time") => How::Typed,
            Some("phone") => How::Phone,
            Some(_) => return refusal("how is set-time or phone", None),
        };
        let raw_now = self.raw_now();
        let at = match request.get("monotonic_ns") {
            None | Some(Value::Null) => raw_now,
            Some(value) => {
                let age = value.as_i64().map(|m| clock::monotonic_now().saturating_sub(m));
                match age.filter(|age| (0..60_000_000_000).contains(age)) {
                    Some(age) => raw_now - age,
                    None => return refusal("monotonic_ns is an instant of the last minute", None),
                }
            }
        };
        let only_try = match request.get("try") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(yes)) => *yes,
            Some(_) => return refusal("try is true or false", None),
        };
        let uncertainty = Nanos::from_secs_f64(uncertainty);
        let word = Word { utc, at: RawTime::from_nanos(at), uncertainty, how };
        let request = if only_try { Request::Weigh(word) } else { Request::ByHand(word) };
        match self.shared.ask(request).await {
            Answer::Refused(why) => refusal(&why, None),
            Answer::Weighed(effect) => json!({"v": PROTOCOL, "reply": "weighed",
                "offset_us": effect.offset.as_micros_f64(), "bound_us": effect.bound.as_micros_f64(),
                "moves": effect.moves, "message": crate::cli::words::effect(&effect)}),
            _ => done(format!(
                "the time is {}, within {}, until a server says better",
                how.words(),
                crate::cli::words::at_most(uncertainty.as_micros_f64())
            )),
        }
    }

    /// The raw clock now, ns; in the simulated world it is the simulated one.
    fn raw_now(&self) -> i64 {
        let (now, monotonic) = (clock::raw_now().as_nanos(), clock::monotonic_now());
        let raw_now = self.shared.read(|s| {
            s.clock.as_ref().map(|c| c.reading.raw.as_nanos() + (monotonic - c.monotonic_ns))
        });
        raw_now.filter(|r| (r - now).abs() > 1_000_000_000).unwrap_or(now)
    }

    async fn stamp(&self, request: &Map<String, Value>) -> Value {
        let number = |key: &str| request.get(key).and_then(Value::as_i64);
        let (raw_now, monotonic) = (self.raw_now(), clock::monotonic_now());
        let raw = match (number("raw_ns"), number("monotonic_ns")) {
            (Some(raw), None) => raw,
            // Both count seconds; the monotonic one is slewed with the clock, by far less than
            // the bound over the age allowed here.
            (None, Some(m)) => m.saturating_sub(monotonic).saturating_add(raw_now),
            _ => return refusal("stamp wants raw_ns or monotonic_ns, a whole number", None),
        };
        if raw.saturating_sub(raw_now).saturating_abs() > STAMP_RANGE {
            return refusal(
                "that instant is more than two days away",
                Some(
                    "raw_ns counts CLOCK_MONOTONIC_RAW, monotonic_ns CLOCK_MONOTONIC, of this boot",
                ),
            );
        }
        match self.shared.stamp(RawTime::from_nanos(raw)).await {
            Some(stamp) => json!({"v": PROTOCOL, "reply": "stamp", "utc": stamp.utc.iso(9),
                "utc_ns": stamp.utc.as_nanos(), "bound_us": stamp.bound.as_micros_f64()}),
            None => {
                refusal("the time is not known yet", Some("wait for the first synchronisation"))
            }
        }
    }

    /// The numbers of this moment.
    pub async fn status(&self) -> Status {
        let _ = self.shared.ask(Request::Refresh).await;
        let monotonic = clock::monotonic_now();
        self.shared.read(|s| {
            let mut status = Status {
                v: PROTOCOL,
                version: env!("CARGO_PKG_VERSION").into(),
                ntp_enabled: s.ntp_enabled,
                drift_threshold_ms: s.drift.alarm.limits.threshold.as_millis_f64(),
                sync_interval_s: s.sync_interval.as_secs_f64(),
                drift_history_count: s.drift.history.len(),
                max_drift_ms: s.drift.history.max_ms(),
                avg_drift_ms: s.drift.history.mean_ms(),
                timers: s.timers.clone(),
                uptime_s: Nanos::new(monotonic - self.started).as_secs_f64(),
                ..Status::default()
            };
            if let Some(clock) = &s.clock {
                let view = &clock.view;
                let bound = view.estimate.map(|e| e.bound);
                let worst = view.offset.zip(bound).map(|(o, b)| o.abs() + b);
                let quality = worst.map_or(Quality::Unknown, Quality::of);
                let now = clock.reading;
                let true_now = now.utc + view.offset.unwrap_or(Nanos::ZERO);
                status.state = phase(view.phase);
                status.verified = view.verified && view.phase == Phase::Synchronised;
                status.settled = view.settled;
                status.takes_word = view.takes_word;
                status.quality = quality;
                status.sync_quality = quality;
                status.ntp_quality = bound.map_or(Quality::Unknown, Quality::of);
                status.steering = clock.steering;
                status.steering_why.clone_from(&clock.steering_why);
                status.utc_ns = now.utc.as_nanos();
                status.raw_ns = now.raw.as_nanos();
                status.monotonic_ns = clock.monotonic_ns;
                status.corrected_utc_ns = view.offset.map(|_| true_now.as_nanos());
                status.offset_us = view.offset.map(Nanos::as_micros_f64);
                status.ntp_offset_ms = view.offset.map(Nanos::as_millis_f64);
                status.error_bound_us = bound.map(Nanos::as_micros_f64);
                status.max_error_us = view.max_error.map(Nanos::as_micros_f64);
                status.frequency_ppm = view.estimate.map(|e| e.frequency.get());
                status.frequency_bound_ppm = view.estimate.map(|e| e.frequency_bound.get());
                status.temperature_c = clock.temperature_c;
                status.leap = match view.leap {
                    crate::engine::packet::Leap::None => 0,
                    crate::engine::packet::Leap::Insert => 1,
                    crate::engine::packet::Leap::Delete => -1,
                };
                status.last_sync_time = clock.last_sync.map(|t| t.iso(3));
                status.clock_drift_ms = clock.last_offset.map(Nanos::as_millis_f64);
                status.sync_count = clock.sync_count;
                status.correction_applied_ms = view.corrected.as_millis_f64();
                status.steps = view.steps;
                status.locks.clone_from(&clock.locks);
                status.servers.clone_from(&clock.servers);
                status.packets = clock.packets;
                status.serve.clone_from(&clock.serve);
                status.by_hand = view.by_hand.map(|said| ByHandStatus {
                    since: (true_now - (now.raw - said.at)).iso(0),
                    how: said.how.name().into(),
                    uncertainty_us: said.bound.as_micros_f64(),
                });
                status.frozen = (view.phase == Phase::Frozen).then(|| view.why.clone()).flatten();
                status.holdover = (view.phase == Phase::Holdover)
                    .then(|| {
                        let last = view.last_used?;
                        let age = now.raw - last;
                        let since: UtcTime = true_now - age;
                        Some(HoldoverStatus {
                            since: since.iso(0),
                            age_s: age.as_secs_f64(),
                            within_threshold_for_s: clock.good_for.map(Nanos::as_secs_f64),
                        })
                    })
                    .flatten();
                status.alert = s.drift.alarm.episode.map(|e| AlertStatus {
                    level: if e.severe { "severe" } else { "drift" }.into(),
                    since: e.since.iso(0),
                    worst_us: e.worst.as_micros_f64(),
                    message: format!(
                        "the clock may be {} wrong; the limit is {}",
                        super::tell::ms(worst.unwrap_or(e.worst)),
                        super::tell::ms(s.drift.alarm.limits.threshold)
                    ),
                });
                status.hints = hints(&status, clock, view.why.as_deref());
            }
            status.verdict = crate::cli::words::verdict(&status);
            status
        })
    }
}

pub(super) fn phase(phase: Phase) -> SyncPhase {
    match phase {
        Phase::Starting => SyncPhase::Starting,
        Phase::Restored => SyncPhase::Restored,
        Phase::Unsynchronised => SyncPhase::Unsynchronised,
        Phase::Synchronised => SyncPhase::Synchronised,
        Phase::Holdover => SyncPhase::Holdover,
        Phase::Frozen => SyncPhase::Frozen,
    }
}

/// What to do next, one sentence each.
fn hints(status: &Status, clock: &crate::state::ClockSection, why: Option<&str>) -> Vec<String> {
    let mut hints = Vec::new();
    if status.state == SyncPhase::Unsynchronised
        && let Some(why) = why
    {
        hints.push(format!("Not synchronised: {why}."));
    }
    if let Some(why) = &status.steering_why {
        hints.push(format!("The clock is only watched: {why}."));
    }
    if let Some(trouble) = &clock.trouble {
        hints.push(format!("State: {trouble}."));
    }
    if clock.foreign_steering {
        hints.push(
            "Another program steers this clock too: stop chronyd, ntpd, ntpsec or systemd-timesyncd."
                .into(),
        );
    }
    if status.state == SyncPhase::Synchronised && !status.verified {
        hints.push("Only one source: name two more servers, or set trust = true for it.".into());
    }
    if clock.serves_in_vain {
        hints.push(
            "[serve] is enabled, but no time is served: the journal says why, or a restart is due."
                .into(),
        );
    }
    if status.frozen.is_some() {
        hints.push(
            "Look at `leadville-timesync sources`; if the servers are right, \
             `leadville-timesync step` follows them."
                .into(),
        );
    }
    hints
}
