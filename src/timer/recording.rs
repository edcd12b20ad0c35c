//! Recordings of notifications: text lines `host_time,hex`, written by whatever program.
use super::bay::{Bay, DatedString};
use super::epoch::Delay;
use super::frame::{Decoded, Frame, decode, from_hex};
use super::record::End;
use super::string::Happening;
use crate::units::{Nanos, RawTime, UtcTime};

const DAY_NS: i64 = 86_400_000_000_000;
/// A silence that a link does not survive.
const NEW_LINK: Nanos = Nanos::from_secs(15 * 60);

/// How a recording writes its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `21:51:56.532`.
    TimeOfDay,
    /// `2026-11-22T21:51:56.532Z`, or a number since 1970.
    Date,
    /// A number since some instant of its own.
    Number,
}

/// One notification of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Line of the file, from 1.
    pub line: usize,
    /// When it was heard, on the recording's own clock.
    pub at: RawTime,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A recording, read.
#[derive(Clone, Debug)]
pub struct Recording {
    /// How it writes its times.
    pub form: Form,
    /// In the order of the lines.
    pub entries: Vec<Entry>,
    /// Lines that could not be read, with the reason.
    pub bad: Vec<(usize, String)>,
}

/// A string of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// Line of its first frame.
    pub line: usize,
    /// Dated.
    pub string: DatedString,
    /// Its start frame is in the recording.
    pub start_heard: bool,
}

/// What a recording tells.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Its strings.
    pub strings: Vec<Replayed>,
    /// Sentences worth reading, each with its line.
    pub remarks: Vec<(usize, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stamp {
    Clock(i64),
    Date(i64),
    /// A bare number and the nanoseconds of its unit, if the header names it.
    Number(f64, Option<f64>),
}

#[derive(Clone, Copy, Debug)]
struct Columns {
    time: usize,
    hex: usize,
    unit: Option<f64>,
}

fn fields(line: &str) -> Vec<&str> {
    let separator = [',', ';', '\t'].into_iter().find(|c| line.contains(*c)).unwrap_or(' ');
    line.split(separator).map(|f| f.trim().trim_matches('"').trim()).collect()
}

/// The columns by their names; `None` if the line is not a header.
fn header(line: &str) -> Option<Columns> {
    let names: Vec<String> = fields(line).iter().map(|f| f.to_ascii_lowercase()).collect();
    let find = |known: &[&str]| known.iter().find_map(|k| names.iter().position(|n| n == k));
    let hex =
        find(&["hex", "frame_hex", "raw_hex", "hex_frame", "payload", "bytes", "raw", "data"])?;
    let time = find(&[
        "host_time",
        "host_time_us",
        "host_time_ms",
        "host_time_ns",
        "host_time_s",
        "arrival",
        "timestamp",
        "timestamp_us",
        "timestamp_ms",
        "timestamp_ns",
        "time_us",
        "time_ms",
        "time_ns",
        "t_us",
        "t_ms",
        "t_ns",
        "raw_ns",
        "utc",
        "time",
        "t",
    ])
    .or_else(|| names.iter().position(|n| n.contains("time")))?;
    let unit = match names[time].rsplit('_').next() {
        Some("ns") => Some(1.0),
        Some("us") => Some(1e3),
        Some("ms") => Some(1e6),
        Some("s") => Some(1e9),
        _ => None,
    };
    Some(Columns { time, hex, unit })
}

/// `HH:MM:SS.fff` after midnight, ns.
fn time_of_day(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let whole = |t: &str, below: i64| {
        let digits = !t.is_empty() && t.len() <= 2 && t.bytes().all(|b| b.is_ascii_digit());
        t.parse::<i64>().ok().filter(|n| digits && *n < below)
    };
    let (second, fraction) = second.split_once(['.', ',']).unwrap_or((second, "0"));
    let digits = !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit());
    let fraction = format!("{fraction:0<9.9}");
    let ns = fraction.parse::<i64>().ok().filter(|_| digits)?;
    let s = whole(hour, 24)? * 3600 + whole(minute, 60)? * 60 + whole(second, 61)?;
    Some(s * 1_000_000_000 + ns)
}

/// ISO 8601 with `Z`, an offset or neither.
fn iso(text: &str) -> Option<i64> {
    let (body, offset) = match text.rfind(['+', '-']) {
        Some(at) if at > 10 => {
            let zone = text[at + 1..].replace(':', "");
            let n: i64 = zone.parse().ok().filter(|_| zone.len() == 4 || zone.len() == 2)?;
            let minutes = if zone.len() == 2 { n * 60 } else { n / 100 * 60 + n % 100 };
            (&text[..at], if text[at..].starts_with('-') { -minutes } else { minutes })
        }
        _ => (text, 0),
    };
    Some(UtcTime::from_iso(body)?.as_nanos() - offset * 60_000_000_000)
}

fn stamp(text: &str, unit: Option<f64>) -> Result<Stamp, String> {
    if text.is_empty() {
        return Err("no time".into());
    }
    if let Some(ns) = time_of_day(text) {
        return Ok(Stamp::Clock(ns));
    }
    if let Some(ns) = iso(text) {
        return Ok(Stamp::Date(ns));
    }
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() && n.abs() < 9e18 => Ok(Stamp::Number(n, unit)),
        _ => Err(format!("{text:?} is not a time (HH:MM:SS.mmm, ISO 8601, or a number)")),
    }
}

/// Reads a recording. Nothing makes it fail: a bad line is kept with its reason.
#[must_use]
pub fn read(text: &str) -> Recording {
    let mut bad = Vec::new();
    let mut columns = Columns { time: 0, hex: 1, unit: None };
    let mut lines = Vec::new();
    let mut seen = false;
    for (line, content) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let content = content.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if !seen {
            seen = true;
            if let Some(named) = header(content) {
                columns = named;
                continue;
            }
        }
        let fields = fields(content);
        let one = || -> Result<(Stamp, Vec<u8>), String> {
            let time = fields.get(columns.time).copied().unwrap_or("");
            let Some(hex) = fields.get(columns.hex) else {
                return Err(format!(
                    "{} columns where {} are wanted",
                    fields.len(),
                    columns.hex + 1
                ));
            };
            let at = stamp(time, columns.unit)?;
            let bytes = from_hex(hex)?;
            // A BLE notification of default size; longer ones are not this timer's.
            if bytes.len() > 244 {
                Err("longer than a notification".into())
            } else {
                Ok((at, bytes))
            }
        };
        match one() {
            Ok((at, bytes)) => lines.push((line, at, bytes)),
            Err(why) => bad.push((line, why)),
        }
    }
    settle(lines, bad)
}

/// Puts all times on one axis.
fn settle(lines: Vec<(usize, Stamp, Vec<u8>)>, mut bad: Vec<(usize, String)>) -> Recording {
    let form = match lines.first().map(|l| l.1) {
        Some(Stamp::Clock(_)) => Form::TimeOfDay,
        Some(Stamp::Number(..)) => Form::Number,
        Some(Stamp::Date(_)) | None => Form::Date,
    };
    let unit = unit_of(&lines);
    let date_numbers =
        matches!(lines.first(), Some((_, Stamp::Number(n, _), _)) if n * unit > 0.9e18);
    let mut entries: Vec<Entry> = Vec::new();
    let mut day = 0;
    let mut last: Option<i64> = None;
    for (line, at, bytes) in lines {
        let ns = match (at, form) {
            (Stamp::Clock(ns), Form::TimeOfDay) => {
                // Past midnight the clock falls by nearly a day; a little disorder is no midnight.
                let mut ns_now = ns + day;
                if last.is_some_and(|last| ns_now < last - DAY_NS / 2) {
                    day += DAY_NS;
                    ns_now += DAY_NS;
                } else if last.is_some_and(|last| ns_now > last + DAY_NS / 2 && day > 0) {
                    ns_now -= DAY_NS;
                }
                ns_now
            }
            (Stamp::Date(ns), Form::Date) => ns,
            (Stamp::Number(n, _), Form::Number) => {
                let ns = n * unit;
                if ns.abs() > 9e18 {
                    bad.push((line, "the time is out of range".into()));
                    continue;
                }
                // Whole part and fraction apart: a double does not hold nanoseconds since 1970.
                (n.trunc() as i128 * unit as i128) as i64 + (n.fract() * unit).round() as i64
            }
            _ => {
                bad.push((line, "its time is written otherwise than the first line's".into()));
                continue;
            }
        };
        last = Some(last.map_or(ns, |last| last.max(ns)));
        entries.push(Entry { line, at: RawTime::from_nanos(ns), bytes });
    }
    bad.sort_by_key(|(line, _)| *line);
    let form = if form == Form::Number && date_numbers { Form::Date } else { form };
    Recording { form, entries, bad }
}

/// Nanoseconds of one unit of the numbers: as the header says, else as the timer's own times
/// show, else by their size.
fn unit_of(lines: &[(usize, Stamp, Vec<u8>)]) -> f64 {
    let mut first = None;
    let mut before: Option<(f64, u16, u16)> = None;
    let mut ratios = Vec::new();
    for (_, at, bytes) in lines {
        let Stamp::Number(n, unit) = *at else { continue };
        if let Some(unit) = unit {
            return unit;
        }
        first.get_or_insert(n);
        if let Frame::Shot { string, body } = decode(bytes).frame {
            if let Some((then, same, time)) = before
                && same == string
                && body.time.0 > time
                && n > then
            {
                ratios.push(f64::from(body.time.0 - time) * 1e7 / (n - then));
            }
            before = Some((n, string, body.time.0));
        }
    }
    ratios.sort_by(f64::total_cmp);
    let guess = ratios.get(ratios.len() / 2).copied().unwrap_or_else(|| {
        // Since 1970 in s, ms, µs or ns; a small number is taken for milliseconds.
        match first.unwrap_or(0.0).abs() {
            n if n > 1e17 => 1.0,
            n if n > 1e14 => 1e3,
            n if !(1e8..1e11).contains(&n) => 1e6,
            _ => 1e9,
        }
    });
    [1.0, 1e3, 1e6, 1e9]
        .into_iter()
        .min_by(|a, b| {
            libm::fabs(libm::log(a / guess)).total_cmp(&libm::fabs(libm::log(b / guess)))
        })
        .unwrap_or(1e6)
}

impl Recording {
    /// An instant of the recording, written as its times are; bare numbers as milliseconds.
    #[must_use]
    pub fn write(&self, at: RawTime) -> String {
        let ns = at.as_nanos();
        match self.form {
            Form::Date => UtcTime::from_nanos(ns).iso(6),
            Form::TimeOfDay => UtcTime::from_nanos(ns.rem_euclid(DAY_NS)).iso(6)[11..26].to_owned(),
            Form::Number => format!("{:.3}", ns as f64 * 1e-6),
        }
    }

    /// Dates its strings. The interval is measured from the whole recording first, where one
    /// stands out; the rest is as the daemon would have done it live.
    #[must_use]
    pub fn told(&self, delay: Delay) -> Told {
        let mut bay = Bay::new(delay);
        let told = self.pass(&mut bay);
        if bay.dating().link().interval_ms().is_none_or(|(_, sure)| sure < 0.95) {
            return told;
        }
        let mut again = Bay::new(delay);
        again.dating_mut().set_link(bay.dating().link().clone());
        self.pass(&mut again)
    }

    fn pass(&self, bay: &mut Bay) -> Told {
        let mut told = Told::default();
        let mut begun = 0;
        let mut last: Option<RawTime> = None;
        for entry in &self.entries {
            if last.is_some_and(|last| entry.at - last > NEW_LINK) {
                bay.link_up();
            }
            last = Some(entry.at);
            let said = bay.hear(entry.at, &entry.bytes);
            told.take(bay, &said, entry.line, &mut begun);
        }
        if let Some(last) = last {
            let open = bay.strings().current().map(|r| r.number);
            if let Some(string) = open {
                told.keep(bay, string, begun, End::Open);
                told.remarks.push((begun, format!("string {string} has no end in the recording")));
            }
            let said = bay.tick(last + super::string::LIST_PATIENCE);
            told.take(bay, &said, self.entries.last().map_or(0, |e| e.line), &mut begun);
        }
        told
    }
}

impl Told {
    fn take(&mut self, bay: &Bay, said: &[Happening], line: usize, begun: &mut usize) {
        for happening in said {
            match happening {
                Happening::Started { string, late } => {
                    *begun = line;
                    if *late {
                        self.remarks
                            .push((line, format!("string {string}: its start was not heard")));
                    }
                }
                Happening::Ended { string, end } => {
                    self.keep(bay, *string, *begun, *end);
                    if *end != End::Stopped {
                        let why = match end {
                            End::LostStop => "its stop was not heard",
                            End::TimedOut => "nothing more was heard of it",
                            _ => "the timer was switched off during it",
                        };
                        self.remarks.push((line, format!("string {string}: {why}")));
                    }
                }
                Happening::Amended { string } => self.keep(bay, *string, *begun, End::Stopped),
                Happening::WantList { string } => {
                    let missing = bay.strings().record(*string).map(super::record::Record::missing);
                    let text = format!(
                        "string {string}: shots {:?} were not heard",
                        missing.unwrap_or_default()
                    );
                    self.remarks.push((line, text));
                }
                Happening::Warning(text) | Happening::Alert(text) => {
                    self.remarks.push((line, text.clone()));
                }
                Happening::PowerCycled => {
                    self.remarks.push((line, "the timer was switched off and on".into()));
                }
                Happening::Duplicate => self.remarks.push((line, "said twice".into())),
                Happening::PushOff => {
                    self.remarks.push((line, super::string::PUSH_OFF.into()));
                }
                Happening::Shot { .. }
                | Happening::Screen(_)
                | Happening::Text(_)
                | Happening::List(_) => {}
            }
        }
    }

    fn keep(&mut self, bay: &Bay, number: u16, line: usize, end: End) {
        let Some(mut string) = bay.dated(number) else {
            self.remarks
                .push((line, format!("string {number}: no shot was heard, it cannot be dated")));
            return;
        };
        string.end = end;
        let start_heard = bay.strings().record(number).is_some_and(|r| r.started.is_some());
        let replayed = Replayed { line, string, start_heard };
        match self.strings.last_mut().filter(|s| s.string.number == number && s.line == line) {
            Some(known) => *known = replayed,
            None => self.strings.push(replayed),
        }
    }
}

/// The name of a frame's kind, as recordings write it.
#[must_use]
pub fn kind(read: &Decoded) -> &'static str {
    match read.frame {
        Frame::Start { .. } => "START",
        Frame::Shot { .. } => "SHOT",
        Frame::Stop { .. } => "STOP",
        Frame::Screen(_) => "SCREEN",
        Frame::List { .. } => "LIST",
        Frame::Text(_) => "TEXT",
        Frame::Unknown => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOT: &str = "0103010100e500e500e500e50001";

    #[test]
    fn columns_are_found_by_their_names() {
        let r = read(&format!("frame,kind,hex,host_time\nA1,SHOT,{SHOT},21:51:56.532\n"));
        assert!(r.bad.is_empty());
        assert_eq!((r.form, r.write(r.entries[0].at)), (Form::TimeOfDay, "21:51:56.532000".into()));
    }

    #[test]
    fn times_are_read_in_every_form() {
        for (text, written) in [
            ("2026-11-22T21:51:56.532Z", "2026-11-22T21:51:56.532000Z"),
            ("2026-11-22 22:51:56.532+01:00", "2026-11-22T21:51:56.532000Z"),
            ("1795384316532", "2026-11-22T21:51:56.532000Z"),
            ("1795384316532.25", "2026-11-22T21:51:56.532250Z"),
            ("1795384316532001", "2026-11-22T21:51:56.532001Z"),
            ("1795384316.5", "2026-11-22T21:51:56.500000Z"),
            ("5000.5", "5000.500"),
            ("00:00:01", "00:00:01.000000"),
        ] {
            let r = read(&format!("{text},{SHOT}"));
            assert_eq!(r.bad, [], "{text}");
            assert_eq!(r.write(r.entries[0].at), written, "{text}");
        }
    }

    #[test]
    fn small_numbers_are_measured_by_the_timer_itself() {
        let two = "0103020201c900e400e501c90001";
        for (first, second) in [("5000", "7280"), ("5000000", "7280000"), ("5.0", "7.28")] {
            let r = read(&format!("{first},{SHOT}\n{second},{two}"));
            assert_eq!((r.entries[1].at - r.entries[0].at).get(), 2_280_000_000, "{first}");
        }
    }

    #[test]
    fn midnight_does_not_turn_time_back() {
        let r = read(&format!("23:59:59.900,{SHOT}\n00:00:00.100,{SHOT}\n23:59:59.950,{SHOT}"));
        assert_eq!((r.entries[1].at - r.entries[0].at).get(), 200_000_000);
        assert_eq!((r.entries[2].at - r.entries[0].at).get(), 50_000_000);
        assert_eq!(r.write(r.entries[1].at), "00:00:00.100000");
    }

    #[test]
    fn bad_lines_are_named_with_a_reason() {
        let r = read(&format!(
            "host_time,hex\n25:00:00,{SHOT}\n21:00:00,01xx\n21:00:00\n21:00:01,010\nx\n21:00:02,{SHOT}"
        ));
        let lines: Vec<usize> = r.bad.iter().map(|b| b.0).collect();
        assert_eq!((lines, r.entries.len()), (vec![2, 3, 4, 5, 6], 1));
        assert!(r.bad.iter().all(|b| !b.1.is_empty()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-f:,;.TZ+\\- \n\"eE#]{0,300}") {
            let r = read(&text);
            let _ = r.told(Delay::default());
            for e in &r.entries { let _ = r.write(e.at); }
        }
    }
}
