//! What was measured: the last 100 measurements, the record of days before them, and a chart of both.
use super::ask::{connect, history_of, pretty, request, status_of};
use super::positive_span;
use super::say::{Done, Failure, say, say_line};
use super::svg;
use super::words::{amount, grade, sided};
use crate::os::control::Client;
use crate::record::{self, Day, Mark, Point};
use crate::state::{self, Measurement};
use crate::units::{Nanos, UtcTime};
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A chart has no use for more points.
const MOST_POINTS: usize = 1_440;

/// `history`
#[derive(Args, Debug)]
pub struct History {
    /// Only what is younger; reaches back into the record of days [default: the last 100 measurements]
    #[arg(long, value_name = "SPAN", value_parser = positive_span)]
    since: Option<Nanos>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Draw a chart into this file, of 24h unless --since says otherwise; - is standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "csv"])]
    svg: Option<PathBuf>,
}

/// What is known from a moment on: measurements in memory, and the record before and beside them.
struct Past {
    recent: Vec<Measurement>,
    points: Vec<Point>,
    marks: Vec<Mark>,
}

pub fn history(socket: Option<&Path>, args: &History) -> Done {
    let mut client = connect(socket)?;
    if let Some(file) = &args.svg {
        return draw(&mut client, args.since.unwrap_or(Nanos::from_secs(86_400)), file);
    }
    let past = match args.since {
        Some(since) => {
            let now = UtcTime::from_nanos(status_of(&mut client)?.0.utc_ns);
            past(&mut client, now - since)?
        }
        None => Past { recent: history_of(&mut client)?, points: Vec::new(), marks: Vec::new() },
    };
    let first = past.recent.first().map_or(i64::MAX, |m| Point::of(m).seconds());
    let before: Vec<&Point> = past.points.iter().filter(|p| p.seconds() < first).collect();
    if args.json {
        let mut reply = json!({"v": state::PROTOCOL, "reply": "history", "history": past.recent});
        if args.since.is_some() {
            reply["points"] = json!(past.points);
            reply["marks"] = json!(past.marks);
        }
        say_line(&pretty(&reply))?;
    } else if args.csv {
        say(&csv(&before, &past.recent))?;
    } else if past.recent.is_empty() && before.is_empty() {
        say_line("Nothing was measured.")?;
    } else {
        for point in before {
            say_line(&point_line(point))?;
        }
        for measurement in &past.recent {
            say_line(&history_line(measurement))?;
        }
    }
    Ok(0)
}

/// The days on disk since `from`, if the daemon keeps any, and the measurements in its memory.
fn past(client: &mut Client, from: UtcTime) -> Result<Past, Failure> {
    let mut recent = history_of(client)?;
    let known = request(client, &json!({"do": "record"}))?;
    let mut days = Vec::new();
    for day in known["days"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if day >= &from.iso(0)[..10] {
            let reply = request(client, &json!({"do": "record", "day": day}))?;
            days.push(serde_json::from_value::<Day>(reply).unwrap_or_default());
        }
    }
    let (points, marks) = record::joined(days, &recent, from);
    recent.retain(|m| m.time.0 >= from);
    Ok(Past { recent, points, marks })
}

fn draw(client: &mut Client, since: Nanos, file: &Path) -> Done {
    let (status, _) = status_of(client)?;
    let now = UtcTime::from_nanos(status.corrected_utc_ns.unwrap_or(status.utc_ns));
    let past = past(client, now - since)?;
    let second = |time: UtcTime| time.as_nanos().div_euclid(1_000_000_000);
    let look = svg::Look {
        from_s: second(now - since),
        to_s: second(now),
        width: 1_100,
        threshold_us: status.drift_threshold_ms * 1e3,
    };
    let points = record::thinned(past.points, MOST_POINTS);
    let drawn = svg::chart(&points, &past.marks, look.fitted(&points));
    if file == Path::new("-") {
        say(&drawn)?;
        return Ok(0);
    }
    std::fs::write(file, drawn)
        .map_err(|e| Failure::new(format!("{} cannot be written: {e}", file.display())))?;
    say_line(&format!("{} points drawn into {}.", points.len(), file.display()))?;
    Ok(0)
}

fn history_line(m: &Measurement) -> String {
    let mut line = format!(
        "{}  {:9}  {:>18}, give or take {:>8}; rate {:+.3} ppm",
        m.time,
        grade(m.quality),
        sided(m.offset_us),
        amount(m.error_bound_us),
        m.frequency_ppm
    );
    if let Some(celsius) = m.temperature_c {
        let _ = write!(line, "; {celsius:.1} °C");
    }
    line
}

/// A point of the record: the clock at that moment.
fn point_line(p: &Point) -> String {
    let unknown = || "unknown".to_owned();
    let mut line = format!(
        "{}  {:9}  {:>18}, give or take {:>8}",
        p.time,
        grade(p.quality()),
        p.offset_us.map_or_else(unknown, sided),
        p.error_bound_us.map_or_else(unknown, amount)
    );
    if let Some(ppm) = p.frequency_ppm {
        let _ = write!(line, "; rate {ppm:+.3} ppm");
    }
    if let Some(celsius) = p.temperature_c {
        let _ = write!(line, "; {celsius:.1} °C");
    }
    line
}

/// Comma-separated values with a heading; empty fields are unknown.
fn csv(before: &[&Point], history: &[Measurement]) -> String {
    let mut out =
        String::from("time,raw_ns,offset_us,error_bound_us,frequency_ppm,quality,temperature_c\n");
    let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    for p in before {
        let _ = writeln!(
            out,
            "{},,{},{},{},{},{}",
            p.time,
            number(p.offset_us),
            number(p.error_bound_us),
            number(p.frequency_ppm),
            p.quality().name(),
            number(p.temperature_c)
        );
    }
    for m in history {
        let _ = writeln!(
            out,
            "{},{},{},{},{},{},{}",
            m.time,
            m.raw_ns,
            m.offset_us,
            m.error_bound_us,
            m.frequency_ppm,
            m.quality.name(),
            number(m.temperature_c)
        );
    }
    out
}
