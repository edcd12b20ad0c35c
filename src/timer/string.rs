//! Frames into strings: what is known of each string whatever was lost on the way.
//!
//! Pushes say when a shot was heard here; the list of `REQ STRING HEX` says at what times
//! the shots fell. Both are merged into one [`Record`].
use super::frame::{Centis, Decoded, Frame, Shot, decode, hex};
use super::record::{End, MOST_SHOTS, Record, ShotRecord};
use crate::units::{Nanos, RawTime};
use std::collections::VecDeque;

/// A string lasts ten minutes at most; a minute later nothing is awaited.
pub const LONGEST: Nanos = Nanos::from_secs(11 * 60);
/// A lost link may come back in the midst of a string for so long.
pub const LINK_PATIENCE: Nanos = Nanos::from_secs(60);
/// A list that pauses for so long is over.
pub const LIST_PATIENCE: Nanos = Nanos::from_secs(2);
/// Unknown frames kept to be looked at.
const UNKNOWN_KEPT: usize = 16;
const PACKET_SHOTS: usize = 9;
/// A frame said twice comes within that. The same number later is another string: the timer was
/// switched off and on, and counts from 1.
const SAID_TWICE: Nanos = Nanos::from_secs(3);
/// BlueZ tells a notification once for every program that is subscribed, one right after the other.
/// The timer itself says nothing twice so soon.
const TOLD_TWICE: Nanos = Nanos::from_millis(500);
/// A list is asked for so often.
const LIST_TRIES: u8 = 3;

/// What a frame meant.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// A string began (at the beep, or at its first frame heard: `late`).
    Started {
        /// Its number.
        string: u16,
        /// Its start frame was lost.
        late: bool,
    },
    /// A shot of a string, new or with a better time.
    Shot {
        /// The string.
        string: u16,
        /// The shot's number.
        shot: u8,
    },
    /// A string is over.
    Ended {
        /// Its number.
        string: u16,
        /// How.
        end: End,
    },
    /// A string that had ended is known better.
    Amended {
        /// Its number.
        string: u16,
    },
    /// Shots are missing or doubtful: `REQ STRING HEX` is worth asking, now that it is over.
    WantList {
        /// The string.
        string: u16,
    },
    /// The timer was switched off and on.
    PowerCycled,
    /// The timer counts shots and pushes none.
    PushOff,
    /// Said once before.
    Duplicate,
    /// Something for the journal, with the frame in hex where there is one.
    Warning(String),
    /// The times of a string may be wrong: somebody should look.
    Alert(String),
    /// The screen, on request.
    Screen(Shot),
    /// Words of the timer.
    Text(String),
    /// A list that belongs to no known string, complete.
    List(Vec<Centis>),
}

/// The sentence for [`Happening::PushOff`].
pub const PUSH_OFF: &str =
    "the timer has counted shots without telling of them: turn on BLE push in the timer's menu";

/// Frames counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Notifications heard.
    pub frames: u64,
    /// Not understood.
    pub unknown: u64,
    /// The last of those, as hex.
    pub unknown_hex: VecDeque<String>,
    /// Said twice.
    pub duplicates: u64,
    /// Contradicting themselves or what was known.
    pub warnings: u64,
}

#[derive(Clone, Debug)]
struct Listing {
    next: u8,
    last: RawTime,
    times: Vec<Centis>,
    for_string: Option<u16>,
}

/// One timer as its frames describe it.
#[derive(Clone, Debug, Default)]
pub struct Strings {
    current: Option<Record>,
    previous: Option<Record>,
    highest: Option<u16>,
    listing: Option<Listing>,
    /// How often the last string's was asked for.
    lists_asked: u8,
    last_list: Option<Vec<Centis>>,
    pushes_since_list: u64,
    /// It has pushed something on this link.
    pushed: bool,
    link_lost: Option<RawTime>,
    last_frame: Option<RawTime>,
    last_told: Option<(RawTime, Vec<u8>)>,
    tally: Tally,
}

impl Strings {
    /// The string in progress.
    #[must_use]
    pub fn current(&self) -> Option<&Record> {
        self.current.as_ref()
    }
    /// The string with that number, of the running one and the one before.
    #[must_use]
    pub fn record(&self, string: u16) -> Option<&Record> {
        [self.current.as_ref(), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .find(|r| r.number == string)
    }
    /// What was counted.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// It has pushed a start, a shot or a stop on this link; a list on request is none.
    #[must_use]
    pub fn has_pushed(&self) -> bool {
        self.pushed
    }

    fn note_push(&mut self) {
        self.pushes_since_list += 1;
        self.pushed = true;
    }

    /// The link to the timer is gone.
    pub fn link_lost(&mut self, at: RawTime) {
        self.link_lost.get_or_insert(at);
        self.listing = None;
    }
    /// The link is back.
    pub fn link_up(&mut self) {
        self.link_lost = None;
        self.pushes_since_list = 0;
        self.pushed = false;
    }
    /// `REQ STRING HEX` was written at that instant.
    pub fn list_asked(&mut self, at: RawTime) {
        self.lists_asked = self.lists_asked.saturating_add(1);
        self.expect_list(at);
    }
    fn expect_list(&mut self, at: RawTime) {
        let for_string = match (&self.current, &self.previous) {
            (None, Some(ended)) => Some(ended.number),
            _ => None,
        };
        self.listing = Some(Listing { next: 0, last: at, times: Vec::new(), for_string });
    }

    /// When [`Self::tick`] is due next.
    #[must_use]
    pub fn next_tick(&self) -> Option<RawTime> {
        let list = self.listing.as_ref().map(|l| l.last + LIST_PATIENCE);
        let string = self.current.as_ref().and_then(|_| {
            let heard = self.last_frame? + LONGEST;
            Some(self.link_lost.map_or(heard, |lost| heard.min(lost + LINK_PATIENCE)))
        });
        [list, string].into_iter().flatten().min()
    }

    /// Time passes: lists and strings that were waited for in vain are ended.
    pub fn tick(&mut self, now: RawTime) -> Vec<Happening> {
        let mut said = Vec::new();
        if self.listing.as_ref().is_some_and(|l| now - l.last >= LIST_PATIENCE) {
            self.finish_list(&mut said);
        }
        if self.current.is_some() {
            let quiet = self.last_frame.is_some_and(|heard| now - heard >= LONGEST);
            let alone = self.link_lost.is_some_and(|lost| now - lost >= LINK_PATIENCE);
            if quiet || alone {
                self.close(End::TimedOut, None, &mut said);
            }
        }
        said
    }

    /// A notification was heard.
    pub fn hear(&mut self, at: RawTime, bytes: &[u8]) -> Vec<Happening> {
        let mut said = self.tick(at);
        self.tally.frames += 1;
        let again =
            |(before, told): &(RawTime, Vec<u8>)| told == bytes && at - *before < TOLD_TWICE;
        if self.last_told.as_ref().is_some_and(again) {
            self.duplicate(&mut said);
            return said;
        }
        self.last_told = Some((at, bytes.to_vec()));
        let read = decode(bytes);
        for doubt in &read.doubts {
            self.warn(&format!("{doubt}: {}", hex(bytes)), &mut said);
        }
        if !matches!(read.frame, Frame::Unknown) {
            self.last_frame = Some(at);
        }
        let Decoded { frame, .. } = &read;
        match frame {
            Frame::Start { string, stale } => {
                let number = string.unwrap_or_else(|| {
                    self.current.as_ref().map_or_else(
                        || self.highest.map_or(1, |h| h.wrapping_add(1)),
                        |open| open.number.wrapping_add(u16::from(open.started.is_some())),
                    )
                });
                self.start(at, number, string.and(Some(stale)), &mut said);
            }
            Frame::Shot { string, body } => self.shot(at, *string, *body, &read, bytes, &mut said),
            Frame::Stop { string, body } => {
                let number = string.or(self.current.as_ref().map(|c| c.number));
                if let Some(number) = number {
                    self.stop(at, number, *body, &read, bytes, &mut said);
                }
            }
            Frame::List { index, times } => self.list(at, *index, times, bytes, &mut said),
            Frame::Screen(screen) => said.push(Happening::Screen(*screen)),
            Frame::Text(text) => said.push(Happening::Text(text.clone())),
            Frame::Unknown => {
                self.tally.unknown += 1;
                if self.tally.unknown_hex.len() == UNKNOWN_KEPT {
                    self.tally.unknown_hex.pop_front();
                }
                self.tally.unknown_hex.push_back(hex(bytes));
                self.warn(&format!("not understood: {}", hex(bytes)), &mut said);
            }
        }
        said
    }

    fn warn(&mut self, text: &str, said: &mut Vec<Happening>) {
        self.tally.warnings += 1;
        said.push(Happening::Warning(text.to_owned()));
    }

    fn duplicate(&mut self, said: &mut Vec<Happening>) {
        self.tally.duplicates += 1;
        said.push(Happening::Duplicate);
    }

    fn start(&mut self, at: RawTime, number: u16, stale: Option<&Shot>, said: &mut Vec<Happening>) {
        self.note_push();
        let again = |r: &Record| {
            r.started.map_or(!r.is_not_of(at, Centis(0)), |started| at - started < SAID_TWICE)
        };
        if let Some(open) = self.current.as_mut().filter(|c| c.number == number && again(c)) {
            if open.started.is_some() {
                self.duplicate(said);
            } else {
                // Overtaken by its first shot, or heard again after a lost link.
                open.started = Some(at);
            }
            return;
        }
        let said_before = |p: &Record| p.number == number && p.started.is_some() && again(p);
        if self.previous.as_ref().is_some_and(said_before) {
            return self.duplicate(said);
        }
        if let (Some(stale), Some(before)) = (stale, self.record(number.wrapping_sub(1))) {
            let (heard, said_now) = (before.total, stale.total);
            if heard != said_now && number > 1 {
                let before = number - 1;
                self.warn(
                    &format!("string {before} had {said_now} shots, {heard} are known"),
                    said,
                );
            }
        }
        self.open(number, Some(at), said);
    }

    fn open(&mut self, number: u16, started: Option<RawTime>, said: &mut Vec<Happening>) {
        let cycled = self.highest.is_some_and(|highest| number <= highest);
        if self.current.is_some() {
            self.close(if cycled { End::PowerCycle } else { End::LostStop }, None, said);
        }
        if cycled {
            self.previous = None;
            self.last_list = None;
            said.push(Happening::PowerCycled);
        }
        self.listing = None;
        self.lists_asked = 0;
        self.highest = Some(number);
        self.current = Some(Record { number, started, ..Record::default() });
        said.push(Happening::Started { string: number, late: started.is_none() });
    }

    fn close(&mut self, end: End, stopped: Option<RawTime>, said: &mut Vec<Happening>) {
        let Some(mut record) = self.current.take() else { return };
        record.end = end;
        record.stopped = stopped;
        let string = record.number;
        let want = end == End::Stopped && record.wants_list();
        self.previous = Some(record);
        said.push(Happening::Ended { string, end });
        if want {
            said.push(Happening::WantList { string });
        }
    }

    /// The number of the string a shot belongs to: a number out of step with a body that
    /// continues the running string is a damaged number, not another string.
    fn string_of(&self, number: u16, body: &Shot) -> u16 {
        let Some(open) = self.current.as_ref().filter(|c| c.number != number) else {
            return number;
        };
        if open.continues(body) { open.number } else { number }
    }

    fn shot(
        &mut self,
        at: RawTime,
        number: u16,
        body: Shot,
        read: &Decoded,
        bytes: &[u8],
        said: &mut Vec<Happening>,
    ) {
        self.note_push();
        let string = self.string_of(number, &body);
        let mut suspect = read.suspect();
        if string != number {
            self.warn(
                &format!("string number {number} within string {string}: {}", hex(bytes)),
                said,
            );
        }
        let over = |r: &Record| {
            r.stopped.is_some_and(|stopped| at - stopped >= SAID_TWICE)
                || (!suspect && r.is_another(at, &body))
        };
        if self.record(string).is_none_or(over) {
            if suspect {
                // Two contradictions in one frame are no reason to open a string.
                return;
            }
            self.open(string, None, said);
        }
        let ended = self.current.as_ref().is_none_or(|c| c.number != string);
        let record = if ended { self.previous.as_mut() } else { self.current.as_mut() };
        let Some(record) = record else { return };
        if let Some(why) = record.contradiction(&body) {
            suspect = true;
            self.tally.warnings += 1;
            said.push(Happening::Warning(format!("{why}: {}", hex(bytes))));
        }
        if usize::from(body.shot) > MOST_SHOTS || body.shot == 0 {
            return;
        }
        match record.shots.iter_mut().find(|s| s.number == body.shot) {
            // Known from a push already.
            Some(known) if known.arrival.is_some() && (suspect || !known.suspect) => {
                if known.time != body.time && !suspect {
                    let text =
                        format!("shot {} was told twice, differently: {}", body.shot, hex(bytes));
                    return self.warn(&text, said);
                }
                return self.duplicate(said);
            }
            Some(known) => {
                known.arrival = Some(at);
                if !known.listed && !suspect {
                    known.time = body.time;
                }
                known.suspect = suspect && !known.listed;
            }
            None => record.put(ShotRecord {
                number: body.shot,
                time: body.time,
                arrival: Some(at),
                suspect,
                listed: false,
            }),
        }
        if !suspect {
            record.total = record.total.max(body.total);
        }
        said.push(if ended {
            Happening::Amended { string }
        } else {
            Happening::Shot { string, shot: body.shot }
        });
    }

    fn stop(
        &mut self,
        at: RawTime,
        number: u16,
        body: Shot,
        read: &Decoded,
        bytes: &[u8],
        said: &mut Vec<Happening>,
    ) {
        self.note_push();
        let its = |p: &&mut Record| p.number == number && !p.is_another(at, &body);
        if let Some(ended) = self.previous.as_mut().filter(its) {
            if ended.end == End::Stopped {
                return self.duplicate(said);
            }
            // It was given up, the link being away, or the next one has begun.
            ended.stop(at, &body, read.suspect());
            let want = self.current.is_none() && ended.wants_list();
            said.push(Happening::Amended { string: number });
            if want {
                said.push(Happening::WantList { string: number });
            }
            return;
        }
        if self.current.as_ref().is_none_or(|c| c.number != number) {
            if let Some(open) = self.current.as_ref() {
                let text = format!(
                    "stop of string {number} within string {}: {}",
                    open.number,
                    hex(bytes)
                );
                if number < open.number {
                    return self.warn(&text, said);
                }
                self.warn(&text, said);
            }
            if read.suspect() {
                return;
            }
            self.open(number, None, said);
        }
        if let Some(record) = self.current.as_mut()
            && record.stop(at, &body, read.suspect())
        {
            said.push(Happening::Shot { string: number, shot: body.shot });
        }
        self.close(End::Stopped, Some(at), said);
    }

    fn list(
        &mut self,
        at: RawTime,
        index: u8,
        times: &[Centis],
        bytes: &[u8],
        said: &mut Vec<Happening>,
    ) {
        if self.listing.is_none() && index == 0 {
            // Another program on the same link asked.
            self.expect_list(at);
        }
        let Some(listing) = self.listing.as_mut() else {
            return self.warn(&format!("a list nobody asked for: {}", hex(bytes)), said);
        };
        if index.checked_add(1) == Some(listing.next) {
            return self.duplicate(said);
        }
        if index != listing.next {
            let wanted = listing.next + 0x0A;
            self.listing = None;
            self.warn(
                &format!("list packet {wanted:#04x} is missing, the list is left: {}", hex(bytes)),
                said,
            );
            return self.ask_again(said);
        }
        listing.next += 1;
        listing.last = at;
        listing.times.extend_from_slice(times);
        let expected =
            listing.for_string.and_then(|s| self.previous.as_ref().filter(|p| p.number == s));
        let whole = expected.is_some_and(|e| listing.times.len() >= usize::from(e.total))
            && times.len() == PACKET_SHOTS;
        if whole || times.len() < PACKET_SHOTS || listing.times.len() >= MOST_SHOTS {
            self.finish_list(said);
        }
    }

    /// A list was lost on the way.
    fn ask_again(&self, said: &mut Vec<Happening>) {
        let Some(ended) = self.previous.as_ref().filter(|_| self.current.is_none()) else { return };
        if self.lists_asked < LIST_TRIES && ended.end == End::Stopped && ended.wants_list() {
            said.push(Happening::WantList { string: ended.number });
        }
    }

    fn finish_list(&mut self, said: &mut Vec<Happening>) {
        let Some(Listing { times, for_string, next, .. }) = self.listing.take() else { return };
        if next == 0 {
            self.warn("no reply to REQ STRING HEX", said);
            return self.ask_again(said);
        }
        if times.windows(2).any(|w| w[0] > w[1]) {
            return self.warn("the list's times go backwards; it is left", said);
        }
        let news = self.last_list.as_ref().is_some_and(|old| *old != times) && !times.is_empty();
        if news && self.pushes_since_list == 0 {
            said.push(Happening::PushOff);
        }
        self.last_list = Some(times.clone());
        self.pushes_since_list = 0;
        let belongs = self
            .previous
            .as_mut()
            .filter(|p| Some(p.number) == for_string)
            .filter(|p| self.current.is_none() && p.fits(&times));
        let Some(record) = belongs else {
            said.push(Happening::List(times));
            return;
        };
        let string = record.number;
        let differing = record.take_list(&times);
        said.push(Happening::Amended { string });
        if !differing.is_empty() {
            self.warn(&format!("string {string}: the list corrects shots {differing:?}"), said);
        }
    }
}

#[cfg(test)]
#[path = "string_tests.rs"]
mod tests;
