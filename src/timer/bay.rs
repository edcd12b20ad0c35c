//! One timer on its bay: its strings, each dated.
use super::epoch::{Dating, Delay, Estimate};
use super::frame::Centis;
use super::record::{End, Record, ShotRecord};
use super::string::{Happening, Strings};
use crate::units::{Nanos, RawTime};

/// A shot with its place on the raw timeline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DatedShot {
    /// Its number, from 1.
    pub number: u8,
    /// Since the beep.
    pub time: Centis,
    /// Since the shot before, if that one is known.
    pub split: Option<Centis>,
    /// When it fell.
    pub at: RawTime,
    /// 95 % bound of that, with everything d0 may be.
    pub bound: Nanos,
    /// When its push was heard.
    pub arrival: Option<RawTime>,
    /// It contradicts what else is known.
    pub suspect: bool,
}

/// A string with its place on the raw timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct DatedString {
    /// The timer's number for it.
    pub number: u16,
    /// The beep.
    pub estimate: Estimate,
    /// How it ended.
    pub end: End,
    /// In order.
    pub shots: Vec<DatedShot>,
}

/// One timer.
#[derive(Clone, Debug, Default)]
pub struct Bay {
    strings: Strings,
    dating: Dating,
    /// The last ended string's beep, once another string runs.
    finished: Option<(u16, Estimate)>,
    /// The string whose arrivals `dating` holds.
    dates: Option<u16>,
}

impl Bay {
    /// A timer whose SHOT frames have this delay.
    #[must_use]
    pub fn new(delay: Delay) -> Self {
        Self { dating: Dating::new(delay), ..Self::default() }
    }
    /// Its strings.
    #[must_use]
    pub fn strings(&self) -> &Strings {
        &self.strings
    }
    /// `REQ STRING HEX` was written.
    pub fn list_asked(&mut self, at: RawTime) {
        self.strings.list_asked(at);
    }
    /// Its dating.
    #[must_use]
    pub fn dating(&self) -> &Dating {
        &self.dating
    }
    /// Its dating, to set what was learned or calibrated before.
    pub fn dating_mut(&mut self) -> &mut Dating {
        &mut self.dating
    }

    /// The link is up.
    pub fn link_up(&mut self) {
        self.strings.link_up();
        self.dating.connected();
    }
    /// The link is gone.
    pub fn link_lost(&mut self, at: RawTime) {
        self.strings.link_lost(at);
    }

    /// A notification was heard.
    pub fn hear(&mut self, at: RawTime, bytes: &[u8]) -> Vec<Happening> {
        let mut said = self.strings.hear(at, bytes);
        self.follow(&mut said);
        let record = self.dates.and_then(|n| self.strings.record(n));
        let told = said.iter().find_map(|h| match h {
            Happening::Shot { shot, .. } => Some(*shot),
            _ => None,
        });
        // A shot of a string that had ended is not told by its number.
        let amended = said.iter().any(|h| matches!(h, Happening::Amended { .. }));
        let this =
            |s: &&ShotRecord| s.arrival == Some(at) && told.map_or(amended, |n| n == s.number);
        let shot = record.and_then(|r| r.shots.iter().rfind(this)).copied();
        match (record, shot) {
            // Whoever said it twice, it may not have been the radio.
            _ if said.contains(&Happening::Duplicate) => {}
            (_, Some(shot)) if !shot.suspect => self.dating.shot(at, shot.time),
            (Some(record), None) if record.started == Some(at) => self.dating.start(at),
            _ => self.dating.other(at),
        }
        self.look_for_outsiders(&mut said);
        said
    }

    /// Time passes.
    pub fn tick(&mut self, now: RawTime) -> Vec<Happening> {
        let mut said = self.strings.tick(now);
        self.follow(&mut said);
        said
    }

    fn follow(&mut self, said: &mut Vec<Happening>) {
        let mut more = Vec::new();
        for happening in said.iter() {
            match happening {
                Happening::Ended { string, .. } if self.dates == Some(*string) => {
                    self.finished = self.dating.estimate().map(|e| (*string, e));
                    if let Some(ms) = self.dating.end() {
                        more.push(Happening::Alert(format!(
                            "string {string} disagrees with the strings before it by {ms:.0} ms \
                             (start against shots)"
                        )));
                    }
                }
                Happening::Started { string, .. } => {
                    self.dating.begin();
                    self.dates = Some(*string);
                }
                _ => {}
            }
        }
        said.extend(more);
    }

    /// At the end of a string: shots that cannot have been heard when they were.
    fn look_for_outsiders(&self, said: &mut Vec<Happening>) {
        let ended = said.iter().find_map(|h| match h {
            Happening::Ended { string, end: End::Stopped } => Some(*string),
            _ => None,
        });
        let Some(record) = ended.and_then(|n| self.strings.record(n)) else { return };
        let Some(estimate) = self.dating.estimate() else { return };
        for shot in record.shots.iter().filter(|s| !s.suspect) {
            if shot.arrival.is_some_and(|at| self.dating.is_outside_of(&estimate, at, shot.time)) {
                said.push(Happening::Alert(format!(
                    "shot {} of string {} was heard when it cannot have been",
                    shot.number, record.number
                )));
            }
        }
    }

    /// The beep of a string, running or just ended.
    #[must_use]
    pub fn estimate(&self, string: u16) -> Option<Estimate> {
        if self.dates == Some(string) {
            return self.dating.estimate();
        }
        self.finished.filter(|(n, _)| *n == string).map(|(_, e)| e)
    }

    /// A string with its shots dated; `None` while nothing tells of its beep.
    #[must_use]
    pub fn dated(&self, string: u16) -> Option<DatedString> {
        let record = self.strings.record(string)?;
        Some(dated(record, self.estimate(string)?))
    }
}

/// A record and the time of its beep.
#[must_use]
pub fn dated(record: &Record, estimate: Estimate) -> DatedString {
    let shots = record.shots.iter().map(|s| {
        let (at, bound) = estimate.shot(s.time);
        DatedShot {
            number: s.number,
            time: s.time,
            split: record.split(s.number),
            at,
            bound,
            arrival: s.arrival,
            suspect: s.suspect,
        }
    });
    DatedString { number: record.number, estimate, end: record.end, shots: shots.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::shooter::{Habit, Radio, Shooter};
    use crate::timer::frame::{Frame, decode, from_hex};

    /// A bay that has heard so many strings, and the shooter at it.
    fn after(strings: i64) -> (Bay, Shooter) {
        let habit = Habit { num_shots: 6, random_timing: true, ..Habit::default() };
        let mut shooter = Shooter::new(habit, Radio::default(), 21);
        let mut bay = Bay::new(Delay::default());
        for n in 0..strings {
            assert_eq!(
                alerts(&mut bay, &mut shooter, n, |_, _| Nanos::ZERO),
                [""; 0],
                "string {n}"
            );
        }
        (bay, shooter)
    }

    /// What is alerted when the n-th string's frames come later than they should by what `late` says
    /// (of the start: shot 0).
    fn alerts(
        bay: &mut Bay,
        shooter: &mut Shooter,
        n: i64,
        late: impl Fn(u8, RawTime) -> Nanos,
    ) -> Vec<String> {
        let fired = shooter.fire(RawTime::from_nanos(n * 60_000_000_000));
        let mut frames: Vec<_> = fired
            .heard
            .iter()
            .map(|h| {
                let by = match decode(&h.bytes).frame {
                    Frame::Start { .. } => late(0, h.at),
                    Frame::Shot { body, .. } => late(body.shot, h.at),
                    _ => Nanos::ZERO,
                };
                (h.at + by, &h.bytes)
            })
            .collect();
        frames.sort();
        let said: Vec<_> = frames.into_iter().flat_map(|(at, bytes)| bay.hear(at, bytes)).collect();
        said.into_iter()
            .filter_map(|h| match h {
                Happening::Alert(text) => Some(text),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn what_is_told_once_more_for_another_program_changes_nothing() {
        let habit = Habit { num_shots: 10, random_timing: true, ..Habit::default() };
        let mut shooter = Shooter::new(habit, Radio::default(), 22);
        let (mut once, mut twice) = (Bay::new(Delay::default()), Bay::new(Delay::default()));
        for n in 0..5 {
            let fired = shooter.fire(RawTime::from_nanos(n * 60_000_000_000));
            let asked = fired.stopped + Nanos::from_millis(300);
            let list = shooter.list(asked);
            for (i, h) in (0..).zip(fired.heard.iter().chain(&list)) {
                if i == fired.heard.len() as i64 {
                    once.list_asked(asked);
                    twice.list_asked(asked);
                }
                let said = once.hear(h.at, &h.bytes);
                assert_eq!(twice.hear(h.at, &h.bytes), said);
                let later = h.at + Nanos::from_millis(1 + 7 * (i % 5));
                assert_eq!(twice.hear(later, &h.bytes), [Happening::Duplicate], "{h:?}");
            }
            assert_eq!(twice.dated(fired.number), once.dated(fired.number));
        }
        assert_eq!(twice.dating().link().interval_ms(), once.dating().link().interval_ms());
        assert_eq!(twice.strings().tally().warnings, 0);
        assert!(twice.strings().tally().duplicates > 50);
    }

    #[test]
    fn frames_stamped_alike_are_told_apart() {
        // One connection event may bring two, and a recording has whole milliseconds.
        let ms = |ms: i64| RawTime::from_nanos(ms * 1_000_000);
        let (start, first, second, stop) = (
            "0105000000000000000000000001",
            "0103010100640064006400640001",
            "0103020200690005006400690001",
            "0108020200690005006400690001",
        );
        let hear = |frames: &[(i64, &str)]| {
            let mut bay = Bay::default();
            for (at, text) in frames {
                bay.hear(ms(*at), &from_hex(text).unwrap());
            }
            let e = bay.estimate(1).unwrap();
            (e.shots, e.epoch, e.inside)
        };
        let apart = hear(&[(0, start), (1100, first), (1101, second), (3000, stop)]);
        let alike = hear(&[(0, start), (1100, first), (1100, second), (3000, stop)]);
        assert_eq!((apart.0, alike.0), (2, 2));
        assert!((apart.1 - alike.1).abs() < Nanos::from_millis(2), "{apart:?} {alike:?}");
        assert!((apart.2 - alike.2).abs() < Nanos::from_millis(4), "{apart:?} {alike:?}");
        let once = hear(&[(0, start), (1030, first), (1100, second), (3000, stop)]);
        let twice = hear(&[
            (0, start),
            (0, start),
            (1030, first),
            (1030, first),
            (1100, second),
            (1100, second),
            (3000, stop),
            (3000, stop),
        ]);
        assert_eq!(twice, once);
        // The stop with the last shot.
        let (once, with) = (
            hear(&[(0, start), (1030, first), (1100, second)]),
            hear(&[(0, start), (1030, first), (1100, second), (1100, stop)]),
        );
        assert_eq!(with.0, once.0);
    }

    #[test]
    fn a_shot_heard_when_it_cannot_have_been_is_alerted_by_its_number() {
        for by in [700, -200] {
            let (mut bay, mut shooter) = after(1);
            let late = |shot, _| Nanos::from_millis(if shot == 3 { by } else { 0 });
            let said = alerts(&mut bay, &mut shooter, 1, late);
            assert_eq!(said, ["shot 3 of string 2 was heard when it cannot have been"], "{by} ms");
        }
    }

    #[test]
    fn a_string_that_disagrees_with_those_before_it_is_alerted() {
        // Beyond 20 ms, what is not known of the lag, and what the start may have waited.
        for (by, all) in [(200, true), (-120, false), (300, false)] {
            let (mut bay, mut shooter) = after(12);
            let late = |shot, _| Nanos::from_millis(if all == (shot > 0) { by } else { 0 });
            let said = alerts(&mut bay, &mut shooter, 12, late);
            assert!(
                said.len() == 1
                    && said[0].starts_with("string 13 disagrees with the strings before it"),
                "shots {all}, {by} ms: {said:?}"
            );
            // The next one is judged by itself.
            assert_eq!(alerts(&mut bay, &mut shooter, 13, |_, _| Nanos::ZERO), [""; 0]);
        }
    }

    /// Of a hundred strings, each the thirteenth of a timer of its own and with shots (or the start) later
    /// by so much, how many are alerted.
    fn alerted(interval_ms: f64, by: i64, shots: bool) -> usize {
        let alerted = |seed: &u64| {
            let habit = Habit { num_shots: 6, random_timing: true, ..Habit::default() };
            let mut shooter = Shooter::new(habit, Radio { interval_ms, ..Radio::default() }, *seed);
            let mut bay = Bay::new(Delay::default());
            for n in 0..12 {
                alerts(&mut bay, &mut shooter, n, |_, _| Nanos::ZERO);
            }
            let late = |shot, _| Nanos::from_millis(if shots == (shot > 0) { by } else { 0 });
            let said = alerts(&mut bay, &mut shooter, 12, late);
            said.iter().any(|text| text.contains("disagrees"))
        };
        (0..100).filter(alerted).count()
    }

    #[test]
    fn strings_are_alerted_beyond_twenty_ms_and_what_a_start_may_wait() {
        for interval_ms in [15.0, 48.75] {
            for shots in [true, false] {
                for by in [0, 20] {
                    let alerted = alerted(interval_ms, by, shots);
                    assert!(alerted <= 1, "{interval_ms} ms, shots {shots}, {by} ms: {alerted}");
                }
            }
        }
        for (interval_ms, shots, by) in
            [(15.0, true, 50), (15.0, false, 100), (48.75, true, 100), (48.75, false, 230)]
        {
            let alerted = alerted(interval_ms, by, shots);
            println!("{interval_ms} ms, shots {shots}, {by} ms: {alerted}");
            assert!(alerted >= 80, "{interval_ms} ms, shots {shots}, {by} ms: {alerted}");
        }
    }
}
