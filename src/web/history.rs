//! The history that the page shows: the record of days, and the measurements since.
use super::client;
use crate::record::{self, Day, Mark, Point};
use crate::state::Measurement;
use crate::units::{Nanos, UtcTime};
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;

/// More points than this are no use on a screen.
pub const MOST_POINTS: usize = 720;

/// Nor are more marks; the newest are shown.
pub const MOST_MARKS: usize = 300;

/// A stretch of the past.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Oldest first, thinned.
    pub points: Vec<Point>,
    /// Oldest first.
    pub marks: Vec<Mark>,
    /// When it begins, seconds since 1970.
    pub from_s: i64,
    /// When it ends, seconds since 1970.
    pub to_s: i64,
    /// The alert threshold, µs.
    pub threshold_us: f64,
}

/// Asks the daemon for the last `since`.
///
/// # Errors
/// As [`client::ask`].
pub async fn of(places: &[PathBuf], since: Nanos) -> io::Result<Past> {
    let value = |reply: String| -> io::Result<Value> { Ok(serde_json::from_str(&reply)?) };
    let status = value(client::ask(places, &json!({"do": "status"})).await?)?;
    let now = status["corrected_utc_ns"].as_i64().or(status["utc_ns"].as_i64()).unwrap_or(0);
    let now = UtcTime::from_nanos(now);
    let from = now - since;
    let mut history = value(client::ask(places, &json!({"do": "history"})).await?)?;
    let recent: Vec<Measurement> = serde_json::from_value(history["history"].take())?;
    let known = value(client::ask(places, &json!({"do": "record"})).await?)?;
    let known = known["days"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let wanted: Vec<&str> = known.filter(|day| *day >= &from.iso(0)[..10]).collect();
    let mut days: Vec<Day> = Vec::new();
    // Newest first; of each day only what is shown stays in memory.
    let mut room = MOST_MARKS;
    for day in wanted.iter().rev() {
        let reply = client::ask(places, &json!({"do": "record", "day": day})).await?;
        let mut day = serde_json::from_str::<Day>(&reply).unwrap_or_default();
        day.points = record::thinned(day.points, 2 * MOST_POINTS / wanted.len().min(30));
        day.marks.drain(..day.marks.len().saturating_sub(room));
        day.marks.shrink_to_fit();
        day.points.shrink_to_fit();
        room -= day.marks.len();
        days.push(day);
    }
    days.reverse();
    let (points, marks) = record::joined(days, &recent, from);
    Ok(Past {
        points: record::thinned(points, MOST_POINTS),
        marks,
        from_s: from.as_nanos().div_euclid(1_000_000_000),
        to_s: now.as_nanos().div_euclid(1_000_000_000),
        threshold_us: status["drift_threshold_ms"].as_f64().unwrap_or(20.0) * 1e3,
    })
}
