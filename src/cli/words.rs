//! The state in words: the verdict, and figures as people read them. Pure.
use crate::engine::byhand::Effect;
use crate::state::{ByHandStatus, Quality, Role, Status, SyncPhase};
use crate::units::{Nanos, UtcTime};
use serde_json::Value;

/// The whole state in one line, as a range officer asks: is the time right?
#[must_use]
pub fn verdict(status: &Status) -> String {
    let clock = match status.state {
        SyncPhase::Frozen => frozen(status),
        SyncPhase::Holdover => match &status.by_hand {
            Some(said) => by_hand(status, said),
            None => holdover(status),
        },
        SyncPhase::Synchronised => synchronised(status),
        SyncPhase::Starting => format!("Starting: {}", nobody(status)),
        SyncPhase::Restored => format!(
            "Time taken from the last run, behind by however long the power was off; {}",
            nobody(status)
        ),
        SyncPhase::Unsynchronised => format!("Not in sync: {}", nobody(status)),
    };
    std::iter::once(clock)
        .chain(status.timers.iter().filter_map(timer_clause))
        .collect::<Vec<_>>()
        .join(", ")
}

fn frozen(status: &Status) -> String {
    let why = status.frozen.as_deref().unwrap_or("what was heard makes no sense");
    format!("Frozen, nothing is corrected: {why}")
}

/// No server yet: somebody's word carries the time.
fn by_hand(status: &Status, said: &ByHandStatus) -> String {
    let how = match said.how.as_str() {
        "phone" => "taken from a phone",
        "neighbour" => "taken from another computer of the range",
        "date" => "set by another program or person",
        _ => "set by hand",
    };
    let within = match within_us(status) {
        Some(us) => format!("within {} now", at_most(us)),
        None => "how far off is unknown".into(),
    };
    let servers = if !status.ntp_enabled || status.servers.is_empty() {
        "no server is asked"
    } else {
        "no server has confirmed it"
    };
    format!("Time {how} at {}; {within}, {servers}", clock(&said.since))
}

/// What somebody's word would do, as a person is asked whether to do it.
#[must_use]
pub fn effect(effect: &Effect) -> String {
    let us = effect.offset.as_micros_f64();
    let (by, within) = (amount(us.abs()), at_most(effect.bound.as_micros_f64()));
    let until = format!("within {within}, until a server says better");
    if effect.settled {
        return format!(
            "The clock was synchronised since the boot and stays as it is, {} by this; it would \
             count as right {until}.",
            sided(us)
        );
    }
    let way = if us < 0.0 { "back" } else { "forward" };
    let what = if effect.moves {
        "The clock would be set"
    } else {
        "The clock itself is only watched; what it is corrected to would go"
    };
    format!("{what} {way} by {by} and be right {until}.")
}

fn holdover(status: &Status) -> String {
    let since = status.holdover.as_ref().map(|h| format!(" since {}", clock(&h.since)));
    let unreachable = status.servers.iter().all(|s| s.role == Role::Unreachable);
    let what = match unreachable {
        _ if beside(status) => "Nothing from the receiver",
        true => "No network",
        false => "No usable server",
    };
    let now = match within_us(status) {
        Some(us) => format!("within {} now", at_most(us)),
        None => "how far off is unknown".into(),
    };
    let threshold = at_most(status.drift_threshold_ms * 1e3);
    let ahead = status.holdover.as_ref().and_then(|h| h.within_threshold_for_s);
    let until = match ahead {
        Some(s) if s >= 2.0 * 86_400.0 => format!(", within {threshold} for {}", span(s)),
        Some(s) => {
            let end = UtcTime::from_nanos(status.utc_ns) + Nanos::from_secs_f64(s);
            format!(", within {threshold} until about {}", clock(&end.iso(0)))
        }
        None if within_us(status).is_some() => format!(", no longer within {threshold}"),
        None => String::new(),
    };
    format!("{what}{}; {now}{until}", since.unwrap_or_default())
}

fn synchronised(status: &Status) -> String {
    let voices = voices(status);
    let (Some(within), Some(offset)) = (within_us(status), status.offset_us) else {
        return format!("In sync, but how well is unknown: {voices}");
    };
    if within <= status.drift_threshold_ms * 1e3 {
        return format!("In sync: within {} of UTC, {voices}", at_most(within));
    }
    let bound = status.error_bound_us.unwrap_or(0.0);
    let clock = if bound >= offset.abs() {
        format!("Not sure: somewhere within {} of UTC", at_most(within))
    } else {
        format!("Off by {}: the clock is {}", at_most(within), sided(offset))
    };
    let doing = match (status.steering, status.locks.first()) {
        (false, _) => "not corrected".into(),
        (true, Some(lock)) => format!("corrected after {}", lock.name),
        (true, None) => "being corrected".into(),
    };
    format!("{clock}, {doing}; {voices}")
}

/// The only source is a receiver of its own.
fn beside(status: &Status) -> bool {
    matches!(status.servers.as_slice(), [only] if only.beside())
}

/// How many servers agree, and whether that is worth anything.
fn voices(status: &Status) -> String {
    let all = status.servers.len();
    let agree = status.servers.iter().filter(|s| s.role == Role::Selected).count();
    let doubt = if status.verified { "" } else { " (no second opinion)" };
    match (agree, all) {
        (0, _) => "no server in use at the moment".into(),
        (1, 1) if beside(status) => format!("by its receiver{doubt}"),
        (1, 1) => format!("by its only server{doubt}"),
        (1, _) => format!("1 of {all} servers in use{doubt}"),
        _ => format!("{agree} of {all} servers agree{doubt}"),
    }
}

fn nobody(status: &Status) -> String {
    if beside(status) {
        return "nothing usable from its receiver yet".into();
    }
    if !status.ntp_enabled || status.servers.is_empty() {
        return "no server is asked, and nobody has set the time".into();
    }
    let heard = status.servers.iter().filter(|s| s.replies > 0).count();
    let all = status.servers.len();
    match heard {
        0 if all == 1 => "its server has not answered yet".into(),
        0 => format!("none of {all} servers has answered yet"),
        _ => format!("{heard} of {all} servers have answered, but none is believed yet"),
    }
}

/// A timer's part of the verdict, if there is something to say.
fn timer_clause(timer: &Value) -> Option<String> {
    let name = timer["name"].as_str().or_else(|| timer["timer_id"].as_str())?;
    // The default name is "timer": once is enough.
    let says_so = name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("timer"));
    let name = if says_so { name.to_owned() } else { format!("timer {name}") };
    if timer["connected"].as_bool() == Some(false) {
        return Some(format!("{name} not connected"));
    }
    let bound = timer["bound_ms"].as_f64()?;
    let calibrated = timer["calibrated"].as_bool() == Some(true);
    let doubt = if calibrated { "" } else { " (uncalibrated)" };
    Some(format!("{name} within {}{doubt}", at_most(bound * 1e3)))
}

/// |offset| + error bound, µs: what the alert judges. `None` while unknown.
#[must_use]
pub fn within_us(status: &Status) -> Option<f64> {
    Some(status.offset_us?.abs() + status.error_bound_us?)
}

/// A length of time, µs, rounded up: fit for "within …".
#[must_use]
pub fn at_most(us: f64) -> String {
    // A hair is taken off so that 5.0000001 does not become 6.
    let up = |x: f64| (x - 1e-6).ceil().max(1.0);
    match us {
        us if us.is_nan() => "an unknown time".into(),
        us if us < 100.0 => format!("{:.0} µs", up(us / 10.0) * 10.0),
        us if us < 1e3 => format!("{:.1} ms", up(us / 100.0) / 10.0),
        us if us <= 1e6 => format!("{:.0} ms", up(us / 1e3)),
        us if us < 60e6 => format!("{:.1} s", up(us / 1e5) / 10.0),
        us => span(us * 1e-6),
    }
}

/// A length of time, µs, with three digits or so.
#[must_use]
pub fn amount(us: f64) -> String {
    match us.abs() {
        a if a.is_nan() => "unknown".into(),
        a if a < 999.5 => format!("{us:.0} µs"),
        a if a < 9_995.0 => format!("{:.2} ms", us / 1e3),
        a if a < 99_950.0 => format!("{:.1} ms", us / 1e3),
        a if a < 999_500.0 => format!("{:.0} ms", us / 1e3),
        a if a < 99.95e6 => format!("{:.2} s", us / 1e6),
        _ => span(us * 1e-6),
    }
}

/// An offset, µs, with its side in words: "0.42 ms behind".
#[must_use]
pub fn sided(us: f64) -> String {
    if us.abs() < 0.5 { "0 µs off".into() } else { format!("{} {}", amount(us.abs()), side(us)) }
}

/// Positive: our clock is behind.
fn side(offset_us: f64) -> &'static str {
    if offset_us >= 0.0 { "behind" } else { "ahead" }
}

/// A span, s, in its two largest units: "3 h 12 min".
#[must_use]
pub fn span(seconds: f64) -> String {
    if seconds.is_nan() {
        return "unknown".into();
    }
    let s = seconds.abs().round() as u64;
    let two = |big: u64, unit: &str, small: u64, part: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {part}"),
    };
    match s {
        0..120 => format!("{s} s"),
        120..600 => two(s / 60, "min", s % 60, "s"),
        600..7_200 => format!("{} min", s / 60),
        7_200..172_800 => two(s / 3_600, "h", s / 60 % 60, "min"),
        172_800..34_560_000 => two(s / 86_400, "days", s / 3_600 % 24, "h"),
        _ => format!("{:.1} years", s as f64 / 31_556_952.0),
    }
}

/// The time of day of an ISO time, as "09:40 UTC"; what is not one stays as it is.
#[must_use]
pub fn clock(iso: &str) -> String {
    match iso.split_once('T') {
        Some((_, time)) if time.len() >= 5 && time.is_char_boundary(5) => {
            format!("{} UTC", &time[..5])
        }
        _ => iso.to_owned(),
    }
}

/// The grade as a word.
#[must_use]
pub fn grade(quality: Quality) -> &'static str {
    match quality {
        Quality::Excellent => "excellent",
        Quality::Good => "good",
        Quality::Fair => "fair",
        Quality::Poor => "poor",
        Quality::Critical => "critical",
        Quality::Unknown => "unknown",
    }
}

/// What a server is good for, in words.
#[must_use]
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Waiting => "not heard yet",
        Role::Selected => "in use",
        Role::Unused => "not used",
        Role::Falseticker => "outvoted",
        Role::Unreachable => "silent",
        Role::Rejected => "unusable",
    }
}

/// The exit code that a state deserves: 0 good or better, 3 fair, 4 poor, 5 critical, 6 unknown,
/// 7 frozen.
#[must_use]
pub fn exit_code(status: &Status) -> u8 {
    match (status.state, status.quality) {
        (SyncPhase::Frozen, _) => 7,
        (_, Quality::Excellent | Quality::Good) => 0,
        (_, Quality::Fair) => 3,
        (_, Quality::Poor) => 4,
        (_, Quality::Critical) => 5,
        (_, Quality::Unknown) => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_timer_is_called_so_once() {
        let said = |name: &str| {
            timer_clause(
                &json!({"name": name, "connected": true, "bound_ms": 12.0, "calibrated": true}),
            )
        };
        assert_eq!(said("timer").as_deref(), Some("timer within 12 ms"));
        assert_eq!(said("Timer 2").as_deref(), Some("Timer 2 within 12 ms"));
        assert_eq!(said("Bay 2").as_deref(), Some("timer Bay 2 within 12 ms"));
        let away = timer_clause(&json!({"name": "timer", "connected": false}));
        assert_eq!(away.as_deref(), Some("timer not connected"));
    }
}
