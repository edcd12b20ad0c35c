//! The record of days on disk: a point at most every five minutes, and what happened.
//!
//! One file per day, only ever appended to; each line carries a check sum, so that a power cut
//! costs the last lines and nothing else. A day is bounded in bytes, and so is the number of days.
use crate::state::{Measurement, Quality, SyncPhase, keep};
use crate::units::{Nanos, RawTime, UtcTime};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// At most one write in this time: memory cards wear.
pub const EVERY: Nanos = Nanos::from_secs(300);
/// A day's file is never larger: 30 days stay below 5 MB.
pub const LARGEST_DAY: u64 = 160_000;
/// Above this a day takes points only, no marks.
const MARKS_UP_TO: u64 = 110_000;
/// Marks waiting for the next write; the oldest give way.
pub(crate) const MOST_MARKS: usize = 100;
const PREFIX: &str = "record-";

/// The clock at one moment, and the measurements since the point before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// ISO 8601 UTC, whole seconds.
    pub time: String,
    /// True − ours, µs.
    pub offset_us: Option<f64>,
    /// 95 % bound of it, µs.
    pub error_bound_us: Option<f64>,
    /// Lowest offset measured since the point before, µs; `null` without measurements.
    pub low_us: Option<f64>,
    /// Highest offset measured since the point before, µs.
    pub high_us: Option<f64>,
    /// What the kernel was told, ppm.
    pub frequency_ppm: Option<f64>,
    /// Temperature of the processor, °C.
    pub temperature_c: Option<f64>,
    /// Where the daemon stood.
    pub state: SyncPhase,
    /// Measurements since the point before.
    pub measurements: u32,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// ISO 8601 UTC, whole seconds.
    pub time: String,
    /// `step`, `foreign_step`, `alert`, `alert_cleared`, `state`, `lock`, `unlock`, `string`.
    pub kind: String,
    /// In words.
    pub text: String,
}

/// A day, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Day {
    /// Oldest first.
    pub points: Vec<Point>,
    /// Oldest first.
    pub marks: Vec<Mark>,
    /// Lines that were torn or spoilt.
    pub damaged: usize,
}

impl Point {
    /// Grade of |offset| + bound.
    #[must_use]
    pub fn quality(&self) -> Quality {
        match (self.offset_us, self.error_bound_us) {
            (Some(offset), Some(bound)) => {
                Quality::of(Nanos::new(((offset.abs() + bound) * 1e3) as i64))
            }
            _ => Quality::Unknown,
        }
    }

    /// Seconds since 1970; 0 if the time is none.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        seconds(&self.time)
    }

    /// One measurement as a point.
    #[must_use]
    pub fn of(m: &Measurement) -> Self {
        Self {
            time: m.time.to_string(),
            offset_us: Some(m.offset_us),
            error_bound_us: Some(m.error_bound_us),
            low_us: Some(m.offset_us),
            high_us: Some(m.offset_us),
            frequency_ppm: Some(m.frequency_ppm),
            temperature_c: m.temperature_c,
            state: SyncPhase::Synchronised,
            measurements: 1,
        }
    }
}

impl Mark {
    /// Seconds since 1970; 0 if the time is none.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        seconds(&self.time)
    }

    /// The mark that an event leaves, if it is of those that are kept.
    #[must_use]
    pub fn of(event: &Value) -> Option<Self> {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let ms = |key: &str| {
            event[key].as_f64().map_or(String::new(), |us| format!("{:+.3} ms", us / 1e3))
        };
        let kind = event["event"].as_str()?;
        let words = match kind {
            "step" => format!("{}: {}", ms("offset_us"), text("why")),
            "foreign_step" => format!("somebody else set the clock by {}", ms("offset_us")),
            "alert" => {
                format!("{}, up to {} wrong", text("level"), ms("worst_us").trim_start_matches('+'))
            }
            "alert_cleared" => {
                format!("was up to {} wrong", ms("worst_us").trim_start_matches('+'))
            }
            "state" => text("state"),
            "lock" | "unlock" => text("name"),
            "timer" if event["type"] == "string" => {
                let shots = event["shots"].as_u64();
                let shots = shots.map_or(String::new(), |n| format!(", {n} shots"));
                format!("{}{shots}", text("name"))
            }
            _ => return None,
        };
        // A string is worth remembering, the rest of what a timer says is not.
        let kind = if kind == "timer" { "string" } else { kind };
        let time = UtcTime::from_iso(event["utc"].as_str()?)?.iso(0);
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let words = words.chars().take(160).map(clean).collect();
        Some(Self { time, kind: kind.to_owned(), text: words })
    }
}

fn seconds(iso: &str) -> i64 {
    UtcTime::from_iso(iso).map_or(0, |t| t.as_nanos().div_euclid(1_000_000_000))
}

/// Collects, and writes when it is time.
#[derive(Debug)]
pub struct Recorder {
    dir: PathBuf,
    keep: Nanos,
    due: Option<RawTime>,
    range: Option<(f64, f64)>,
    count: u32,
    marks: VecDeque<Mark>,
}

impl Recorder {
    /// Records into `dir`, and forgets days older than `keep`. The first write is due [`EVERY`] after
    /// `started`, so that restarts in a row do not write in a row.
    #[must_use]
    pub fn new(dir: PathBuf, keep: Nanos, started: RawTime) -> Self {
        Self {
            dir,
            keep,
            due: Some(started + EVERY),
            range: None,
            count: 0,
            marks: VecDeque::new(),
        }
    }

    /// Takes a measurement in.
    pub fn measured(&mut self, m: &Measurement) {
        let (low, high) = self.range.unwrap_or((m.offset_us, m.offset_us));
        self.range = Some((low.min(m.offset_us), high.max(m.offset_us)));
        self.count += 1;
    }

    /// Takes in what happened.
    pub fn happened(&mut self, mark: Mark) {
        keep(&mut self.marks, [mark], MOST_MARKS);
    }

    /// Whether a write is due.
    #[must_use]
    pub fn due(&self, now: RawTime) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    /// Writes `point` and the marks collected. The point's range and count are filled in here.
    ///
    /// # Errors
    /// What the disk says; what was collected is gone then, and the next write is due as usual.
    pub fn write(&mut self, now: RawTime, mut point: Point) -> io::Result<()> {
        self.due = Some(now + EVERY);
        let range = self.range.take();
        (point.low_us, point.high_us) = (range.map(|r| r.0), range.map(|r| r.1));
        point.measurements = std::mem::take(&mut self.count);
        let marks = std::mem::take(&mut self.marks);
        let Some(day) = day_of(&point.time) else { return Ok(()) };
        let path = self.dir.join(format!("{PREFIX}{day}"));
        if !path.exists() {
            self.forget(&day);
        }
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(&path)?;
        let size = file.metadata()?.len();
        let mut text = String::new();
        if size > 0 {
            // A line torn by a power cut must not take the next one with it.
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                text.push('\n');
            }
        }
        if size < MARKS_UP_TO {
            for mark in &marks {
                push_line(&mut text, &format!("E {} {} {}", mark.time, mark.kind, mark.text));
            }
        }
        push_line(&mut text, &line_of(&point));
        if size + text.len() as u64 > LARGEST_DAY {
            return Ok(());
        }
        file.write_all(text.as_bytes())
    }

    /// Removes the days that are too old, and those beyond what may be kept.
    fn forget(&self, today: &str) {
        let keep = (self.keep.get() / 86_400_000_000_000).max(1) as usize;
        let oldest = UtcTime::from_iso(&format!("{today}T00:00:00Z"))
            .map(|t| (t - self.keep).iso(0)[..10].to_owned());
        let all = days(&self.dir);
        let surplus = all.len().saturating_sub(keep);
        for (index, day) in all.iter().enumerate() {
            if index < surplus || oldest.as_ref().is_some_and(|oldest| day < oldest) {
                let _ = fs::remove_file(self.dir.join(format!("{PREFIX}{day}")));
            }
        }
    }
}

/// The days there are, oldest first, as `2026-11-25`.
#[must_use]
pub fn days(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let mut days: Vec<String> = names
        .filter_map(|n| n.strip_prefix(PREFIX).filter(|d| is_day(d)).map(str::to_owned))
        .collect();
    days.sort_unstable();
    days
}

/// Whether `text` is a day as `2026-11-25`.
#[must_use]
pub fn is_day(text: &str) -> bool {
    text.len() == 10 && UtcTime::from_iso(&format!("{text}T00:00:00Z")).is_some()
}

/// What is known of a day; a day without a file is empty.
///
/// # Errors
/// What the disk says, and when `day` is none.
pub fn read_day(dir: &Path, day: &str) -> io::Result<Day> {
    if !is_day(day) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a day as 2026-11-25"));
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let path = dir.join(format!("{PREFIX}{day}"));
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Day::default()),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(LARGEST_DAY).read_to_end(&mut bytes)?;
    let mut read = Day::default();
    for line in String::from_utf8_lossy(&bytes).lines().filter(|l| !l.is_empty()) {
        match checked(line).and_then(parse) {
            Some(Line::Point(point)) => read.points.push(point),
            Some(Line::Mark(mark)) => read.marks.push(mark),
            None => read.damaged += 1,
        }
    }
    Ok(read)
}

/// The record and the measurements since its last point, from `from` on, oldest first.
#[must_use]
pub fn joined(days: Vec<Day>, recent: &[Measurement], from: UtcTime) -> (Vec<Point>, Vec<Mark>) {
    let from = from.as_nanos().div_euclid(1_000_000_000);
    let (mut points, mut marks) = (Vec::new(), Vec::new());
    for day in days {
        points.extend(day.points);
        marks.extend(day.marks);
    }
    points.retain(|p: &Point| p.seconds() >= from);
    marks.retain(|m: &Mark| m.seconds() >= from);
    // A clock that was set back leaves a day out of order.
    points.sort_by_key(Point::seconds);
    marks.sort_by_key(Mark::seconds);
    let last = points.last().map_or(from, |p| p.seconds() + 1);
    points.extend(recent.iter().map(Point::of).filter(|p| p.seconds() >= last));
    (points, marks)
}

/// Neighbours put together until there are at most `most`: the widest range and bound are kept.
#[must_use]
pub fn thinned(points: Vec<Point>, most: usize) -> Vec<Point> {
    let each = points.len().div_ceil(most.max(1));
    if each <= 1 {
        return points;
    }
    let pick = |a: Option<f64>, b: Option<f64>, f: fn(f64, f64) -> f64| match (a, b) {
        (Some(a), Some(b)) => Some(f(a, b)),
        (a, b) => a.or(b),
    };
    let together = |group: &[Point]| {
        group.iter().skip(1).fold(group[0].clone(), |sum, p| Point {
            error_bound_us: pick(sum.error_bound_us, p.error_bound_us, f64::max),
            low_us: pick(sum.low_us, p.low_us, f64::min),
            high_us: pick(sum.high_us, p.high_us, f64::max),
            measurements: sum.measurements + p.measurements,
            ..p.clone()
        })
    };
    points.chunks(each).map(together).collect()
}

enum Line {
    Point(Point),
    Mark(Mark),
}

/// FNV-1a: enough to know a torn line.
fn sum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

fn push_line(out: &mut String, line: &str) {
    let _ = writeln!(out, "{line} *{:08x}", sum(line));
}

fn checked(line: &str) -> Option<&str> {
    let (text, check) = line.rsplit_once(" *")?;
    (u32::from_str_radix(check, 16).ok()? == sum(text)).then_some(text)
}

fn line_of(p: &Point) -> String {
    let field = |value: Option<f64>, decimals: usize| match value {
        Some(v) if v.is_finite() => format!("{v:.decimals$}"),
        _ => "-".into(),
    };
    format!(
        "P {} {} {} {} {} {} {} {} {}",
        p.time,
        field(p.offset_us, 1),
        field(p.error_bound_us, 1),
        field(p.low_us, 1),
        field(p.high_us, 1),
        field(p.frequency_ppm, 4),
        field(p.temperature_c, 1),
        serde_json::to_value(p.state)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default(),
        p.measurements
    )
}

fn parse(line: &str) -> Option<Line> {
    let (kind, rest) = line.split_once(' ')?;
    if kind == "E" {
        let mut parts = rest.splitn(3, ' ');
        let (time, kind, text) = (parts.next()?, parts.next()?, parts.next()?);
        UtcTime::from_iso(time)?;
        return Some(Line::Mark(Mark { time: time.into(), kind: kind.into(), text: text.into() }));
    }
    let parts: Vec<&str> = rest.split(' ').collect();
    let [time, offset, bound, low, high, ppm, celsius, state, count] = parts[..] else {
        return None;
    };
    UtcTime::from_iso(time)?;
    let number = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite());
    (kind == "P").then_some(())?;
    Some(Line::Point(Point {
        time: time.into(),
        offset_us: number(offset),
        error_bound_us: number(bound),
        low_us: number(low),
        high_us: number(high),
        frequency_ppm: number(ppm),
        temperature_c: number(celsius),
        state: serde_json::from_value(state.into()).ok()?,
        measurements: count.parse().ok()?,
    }))
}

fn day_of(iso: &str) -> Option<String> {
    iso.get(..10).filter(|day| is_day(day)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Tells the recorder of an event, if it is of those that are kept.
    fn happened(recorder: &mut Recorder, event: &Value) {
        Mark::of(event).into_iter().for_each(|mark| recorder.happened(mark));
    }

    fn at(s: i64) -> String {
        UtcTime::from_nanos((1_795_000_000 + s) * 1_000_000_000).iso(0)
    }
    fn raw(s: i64) -> RawTime {
        RawTime::from_nanos(s * 1_000_000_000)
    }
    fn point(s: i64) -> Point {
        let (offset_us, error_bound_us) = (Some(-12.5), Some(800.0));
        let (frequency_ppm, temperature_c) = (Some(1.2345), Some(48.5));
        let state = SyncPhase::Synchronised;
        let time = at(s);
        Point {
            time,
            offset_us,
            error_bound_us,
            frequency_ppm,
            temperature_c,
            state,
            ..Point::default()
        }
    }
    fn one_file(dir: &Path) -> PathBuf {
        let day = days(dir).pop().unwrap();
        dir.join(format!("{PREFIX}{day}"))
    }

    #[test]
    fn what_is_written_is_read_with_the_range_of_the_measurements() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::new(dir.path().into(), Nanos::from_secs(86_400 * 30), raw(0));
        for offset_us in [5.0, -20.0, 7.25] {
            recorder.measured(&Measurement { offset_us, ..Measurement::default() });
        }
        happened(
            &mut recorder,
            &json!({"event": "step", "offset_us": 1500.0, "why": "first\nfix", "utc": at(1)}),
        );
        happened(&mut recorder, &json!({"event": "sync", "utc": at(1)}));
        assert!(!recorder.due(raw(299)) && recorder.due(raw(300)));
        recorder.write(raw(300), point(300)).unwrap();
        assert!(!recorder.due(raw(599)));
        let day = read_day(dir.path(), &days(dir.path())[0]).unwrap();
        let wanted =
            Point { low_us: Some(-20.0), high_us: Some(7.2), measurements: 3, ..point(300) };
        assert_eq!(day.points, [wanted]);
        assert_eq!(day.marks.len(), 1);
        assert_eq!(day.marks[0].text, "+1.500 ms: first fix");
        assert_eq!(day.damaged, 0);
    }

    #[test]
    fn a_torn_line_costs_itself_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::new(dir.path().into(), Nanos::from_secs(86_400 * 30), raw(0));
        recorder.write(raw(300), point(0)).unwrap();
        recorder.write(raw(600), point(300)).unwrap();
        let file = one_file(dir.path());
        let whole = fs::read(&file).unwrap();
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in first + 1..whole.len() - 1 {
            fs::write(&file, &whole[..cut]).unwrap();
            recorder.write(raw(900), point(600)).unwrap();
            let day = read_day(dir.path(), &days(dir.path())[0]).unwrap();
            let times: Vec<_> = day.points.iter().map(|p| p.time.clone()).collect();
            assert_eq!((times, day.damaged), (vec![at(0), at(600)], 1), "cut at {cut}");
        }
        // Zeros in place of what was not on the card yet.
        let mut zeros = whole.clone();
        zeros[first..].fill(0);
        fs::write(&file, zeros).unwrap();
        recorder.write(raw(1_200), point(900)).unwrap();
        let day = read_day(dir.path(), &days(dir.path())[0]).unwrap();
        assert_eq!((day.points.len(), day.damaged), (2, 1));
    }

    #[test]
    fn thirty_days_of_full_record_stay_below_five_megabytes_and_older_days_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::new(dir.path().into(), Nanos::from_secs(86_400 * 30), raw(0));
        for n in 0..288 * 40 {
            for k in 0..9 {
                happened(
                    &mut recorder,
                    &json!({"event": "state", "state": "x".repeat(100), "utc": at(300 * n), "k": k}),
                );
            }
            recorder.measured(&Measurement { offset_us: -12_345.6, ..Measurement::default() });
            recorder.write(raw(300 * n), point(300 * n)).unwrap();
        }
        let all = days(dir.path());
        assert!((30..=31).contains(&all.len()), "{} days", all.len());
        let bytes: u64 = all
            .iter()
            .map(|d| fs::metadata(dir.path().join(format!("{PREFIX}{d}"))).unwrap().len())
            .sum();
        assert!(bytes < 5_000_000, "{bytes}");
        // However much happens, no point of a day is lost.
        assert_eq!(read_day(dir.path(), &all[5]).unwrap().points.len(), 288);
    }

    #[test]
    fn however_much_happens_the_card_is_written_once_in_five_minutes() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::new(dir.path().into(), Nanos::from_secs(86_400), raw(0));
        let mut written: Vec<i64> = Vec::new();
        for s in 0..7_200 {
            recorder.measured(&Measurement::default());
            happened(&mut recorder, &json!({"event": "lock", "name": "match", "utc": at(s)}));
            if recorder.due(raw(s)) {
                recorder.write(raw(s), point(s)).unwrap();
                written.push(s);
            }
        }
        assert_eq!(written.len(), 23, "{written:?}");
        assert!(written.windows(2).all(|w| w[1] - w[0] >= 300), "{written:?}");
        // A restart does not write either, for as long.
        let again = Recorder::new(dir.path().into(), Nanos::from_secs(86_400), raw(7_200));
        assert!(!again.due(raw(7_499)) && again.due(raw(7_500)));
    }

    #[test]
    fn a_link_in_place_of_a_day_is_neither_read_nor_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::new(dir.path().into(), Nanos::from_secs(86_400), raw(0));
        recorder.write(raw(0), point(0)).unwrap();
        let file = one_file(dir.path());
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/null", &file).unwrap();
        assert!(recorder.write(raw(300), point(300)).is_err());
        assert!(read_day(dir.path(), &day_of(&at(0)).unwrap()).is_err());
        assert!(read_day(dir.path(), "../../etc").is_err());
    }
}
