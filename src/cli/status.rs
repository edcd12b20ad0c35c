//! The state as people read it: the verdict, then the clock, the servers with their reasons, the
//! timers, alerts and locks, and what to do next. Words stand before figures. Pure.
use super::paint::{Paint, Tone, tone};
use super::words::{amount, at_most, clock, grade, role, sided, span, verdict, within_us};
use crate::state::{Role, ServerStatus, Status, SyncPhase};
use serde_json::Value;
use std::fmt::Write as _;

/// The whole status, one screen.
#[must_use]
pub fn text(status: &Status, paint: Paint) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    let said = if status.verdict.is_empty() { verdict(status) } else { status.verdict.clone() };
    line(paint.on(tone(status), &said));
    line(String::new());
    for (index, text) in clock_lines(status).iter().enumerate() {
        line(headed(paint, if index == 0 { "Clock" } else { "" }, text));
    }
    let asked = if status.servers.iter().all(ServerStatus::beside) {
        "none is asked".to_owned()
    } else {
        format!("asked every {}", span(status.sync_interval_s))
    };
    line(headed(paint, "Servers", &asked));
    for text in server_lines(&status.servers, paint) {
        line(headed(paint, "", &text));
    }
    if let Some(serve) = &status.serve {
        line(headed(paint, "Serving", &serve_line(serve)));
    }
    let timers: Vec<String> = status.timers.iter().map(timer_line).collect();
    section(&mut line, paint, "Timers", &timers, "none");
    let alerts: Vec<String> =
        status.alert.iter().map(|a| paint.on(Tone::Bad, &alert_line(a))).collect();
    section(&mut line, paint, "Alerts", &alerts, "none");
    let locks: Vec<String> = status
        .locks
        .iter()
        .map(|lock| format!("{} holds the clock still, {} left", lock.name, span(lock.ends_in_s)))
        .collect();
    section(&mut line, paint, "Locks", &locks, "none");
    section(&mut line, paint, "Next", &status.hints, "nothing to do");
    out
}

fn section(line: &mut impl FnMut(String), paint: Paint, head: &str, texts: &[String], none: &str) {
    if texts.is_empty() {
        line(headed(paint, head, &paint.on(Tone::Quiet, none)));
    }
    for (index, text) in texts.iter().enumerate() {
        line(headed(paint, if index == 0 { head } else { "" }, text));
    }
}

/// A line with its heading in a column of nine.
fn headed(paint: Paint, head: &str, text: &str) -> String {
    if head.is_empty() {
        return format!("         {text}");
    }
    let gap = " ".repeat(9_usize.saturating_sub(head.len()));
    format!("{}{gap}{text}", paint.on(Tone::Heading, head))
}

fn clock_lines(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    let mut first = match status.state {
        SyncPhase::Starting => "starting",
        SyncPhase::Restored => "time from the last run",
        SyncPhase::Unsynchronised => "not in sync",
        SyncPhase::Synchronised if status.verified => "in sync, verified",
        SyncPhase::Synchronised => "in sync, not verified",
        SyncPhase::Holdover if status.by_hand.is_some() => "told by a person",
        SyncPhase::Holdover => "carried by its learned rate",
        SyncPhase::Frozen => "frozen",
    }
    .to_owned();
    let _ = write!(first, "; quality {}", grade(status.quality));
    if let Some(within) = within_us(status) {
        let _ = write!(first, ", within {}", at_most(within));
    }
    lines.push(first);
    let mut second = match (status.offset_us, status.error_bound_us) {
        (Some(offset), Some(bound)) => {
            format!("{}, give or take {} (95 %)", sided(offset), amount(bound))
        }
        (Some(offset), None) => format!("{}, give or take unknown", sided(offset)),
        _ => "how far off is unknown".into(),
    };
    if let Some(most) = status.max_error_us {
        let _ = write!(second, "; guaranteed {}", at_most(most));
    }
    lines.push(second);
    let mut third = match (status.frequency_ppm, status.frequency_bound_ppm) {
        (Some(ppm), Some(bound)) => {
            format!("rate corrected by {ppm:+.3} ppm, give or take {bound:.3}")
        }
        (Some(ppm), None) => format!("rate corrected by {ppm:+.3} ppm"),
        _ => "rate of the crystal unknown".into(),
    };
    if let Some(celsius) = status.temperature_c {
        let _ = write!(third, "; processor at {celsius:.1} °C");
    }
    lines.push(third);
    let mut fourth = match (status.steering, &status.steering_why) {
        (true, _) => format!("being kept right, {}", times(status.steps, "step")),
        (false, Some(why)) => format!("only watched: {why}"),
        (false, None) => "only watched".into(),
    };
    match &status.last_sync_time {
        Some(time) => {
            let _ = write!(fourth, "; last measured {}", clock(time));
        }
        None => fourth.push_str("; never measured"),
    }
    lines.push(fourth);
    if let Some(holdover) = status.holdover.as_ref().filter(|_| status.by_hand.is_none()) {
        let limit = at_most(status.drift_threshold_ms * 1e3);
        let until = match holdover.within_threshold_for_s {
            Some(s) => format!("within ±{limit} for another {}", span(s)),
            None => format!("no longer within ±{limit}"),
        };
        lines.push(format!("holding over since {}, {until}", clock(&holdover.since)));
    }
    if status.leap != 0 {
        let what = if status.leap > 0 { "inserted" } else { "left out" };
        lines.push(format!("a leap second will be {what} at the end of today (UTC)"));
    }
    lines
}

fn times(n: u64, what: &str) -> String {
    match n {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// One line per server: a mark, its name, what it is good for, why not, figures.
#[must_use]
pub fn server_lines(servers: &[ServerStatus], paint: Paint) -> Vec<String> {
    let widest = servers.iter().map(|s| s.name.chars().count()).max().unwrap_or(0).min(40);
    servers.iter().map(|server| server_line(server, widest, paint)).collect()
}

fn server_line(server: &ServerStatus, widest: usize, paint: Paint) -> String {
    let (mark, tone) = match server.role {
        Role::Selected => ("+", Tone::Good),
        Role::Waiting | Role::Unused => ("-", Tone::Quiet),
        Role::Unreachable => ("?", Tone::Doubtful),
        Role::Falseticker | Role::Rejected => ("x", Tone::Bad),
    };
    let said = match (&server.why, server.role) {
        (Some(why), Role::Waiting) => why.clone(),
        (Some(why), other) => format!("{}: {why}", role(other)),
        (None, other) => role(other).to_owned(),
    };
    let mut figures = Vec::new();
    if let Some(offset) = server.offset_us {
        figures.push(sided(offset));
    }
    if let Some(delay) = server.delay_us {
        let what = if server.beside() { "seconds shake by" } else { "round trip" };
        figures.push(format!("{what} {}", amount(delay)));
    }
    if let Some(stratum) = server.stratum.filter(|_| !server.beside()) {
        figures.push(format!("stratum {stratum}"));
    }
    if let Some(age) = server.last_reply_s {
        figures.push(format!("heard {} ago", span(age)));
    }
    if server.trusted {
        figures.push("trusted".into());
    }
    let name = format!("{:widest$}", server.name);
    let mark = paint.on(tone, mark);
    let figures = if figures.is_empty() {
        String::new()
    } else {
        paint.on(Tone::Quiet, &format!(" ({})", figures.join(", ")))
    };
    format!("{mark} {name}  {said}{figures}")
}

fn serve_line(serve: &crate::state::ServeStatus) -> String {
    let what = match serve.stratum {
        Some(stratum) if stratum >= 10 => format!("stratum {stratum}, which no server confirmed"),
        Some(stratum) => format!("stratum {stratum}"),
        None => "silent, since there is no time to serve".into(),
    };
    let refused = serve.malformed + serve.strangers + serve.too_often + serve.no_time;
    let refused = if refused == 0 { String::new() } else { format!(", {refused} not answered") };
    format!("on {}: {what}; {} answered{refused}", serve.listen.join(", "), serve.answered)
}

fn alert_line(alert: &crate::state::AlertStatus) -> String {
    let worst = amount(alert.worst_us);
    format!("{} since {}, at worst {worst}: {}", alert.level, clock(&alert.since), alert.message)
}

/// A timer in words, from whatever its status holds.
#[must_use]
pub fn timer_line(timer: &Value) -> String {
    let text = |key: &str| timer[key].as_str();
    let name = text("name").or(text("timer_id")).unwrap_or("timer");
    let mut parts = Vec::new();
    match timer["connected"].as_bool() {
        Some(true) => parts.push("connected".to_owned()),
        Some(false) => parts.push("not connected".to_owned()),
        None => parts.extend(text("state").map(str::to_owned)),
    }
    if let Some(bound) = timer["bound_ms"].as_f64() {
        let calibrated = timer["calibrated"].as_bool() == Some(true);
        let doubt = if calibrated { "calibrated" } else { "uncalibrated" };
        parts.push(format!("shots within {} ({doubt})", at_most(bound * 1e3)));
    }
    if let Some(heard) = text("last_heard") {
        parts.push(format!("last heard {}", clock(heard)));
    }
    parts.extend(text("message").map(str::to_owned));
    if parts.is_empty() {
        parts.push("nothing known yet".into());
    }
    format!("{name}: {}", parts.join(", "))
}

/// The line of `status --check`: the grade, then the verdict.
#[must_use]
pub fn check_line(status: &Status) -> String {
    let said = if status.verdict.is_empty() { verdict(status) } else { status.verdict.clone() };
    match status.state {
        SyncPhase::Frozen => format!("FROZEN - {said}"),
        _ => format!("{} - {said}", grade(status.quality).to_uppercase()),
    }
}
