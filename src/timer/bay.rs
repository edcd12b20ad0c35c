//! One timer on its bay: its strings, each dated.
use super::epoch::{Dating, Delay, Estimate};
use super::frame::Centis;
use super::string::{End, Happening, Record, Strings};
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
        let shot = record.and_then(|r| r.shots.iter().find(|s| s.arrival == Some(at)));
        match (record, shot.copied()) {
            (_, Some(shot)) if !shot.suspect => self.dating.shot(at, shot.time),
            (Some(record), _) if record.started == Some(at) => self.dating.start(at),
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
        for shot in record.shots.iter().filter(|s| !s.suspect) {
            if shot.arrival.is_some_and(|at| self.dating.is_outside(at, shot.time)) {
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
