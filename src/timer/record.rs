//! What is known of one string, and whether a frame or a list can be of it.
use super::frame::{Centis, Shot};
use crate::units::{Nanos, RawTime};

/// Shots a timer counts.
pub const MOST_SHOTS: usize = 150;
/// A frame is held up for less: beyond that no radio keeps its link. What says of a beep so far off is
/// of another string.
const ANOTHER: Nanos = Nanos::from_secs(30);

/// One shot of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShotRecord {
    /// Its number, from 1.
    pub number: u8,
    /// Since the beep.
    pub time: Centis,
    /// When its push was heard; `None` if only a stop or a list told of it.
    pub arrival: Option<RawTime>,
    /// Its push contradicted itself or the string: no evidence of time.
    pub suspect: bool,
    /// The list has confirmed or given its time.
    pub listed: bool,
}

/// How a string came to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Still running.
    #[default]
    Open,
    /// The timer said so.
    Stopped,
    /// The next string began; the stop was lost.
    LostStop,
    /// Eleven minutes passed, or the link stayed away for one.
    TimedOut,
    /// The timer was switched off and on.
    PowerCycle,
}

/// All that is known of one string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The timer's number for it, from 1 at power-on.
    pub number: u16,
    /// When the start frame was heard; `None` if it was lost.
    pub started: Option<RawTime>,
    /// In order of their numbers.
    pub shots: Vec<ShotRecord>,
    /// How it ended.
    pub end: End,
    /// When the stop frame was heard.
    pub stopped: Option<RawTime>,
    /// The largest total any frame gave.
    pub total: u8,
}

impl Record {
    /// The shot with that number.
    #[must_use]
    pub fn shot(&self, number: u8) -> Option<&ShotRecord> {
        self.shots.iter().find(|s| s.number == number)
    }
    /// Time since the shot before; `None` while that one is not known.
    #[must_use]
    pub fn split(&self, number: u8) -> Option<Centis> {
        let time = self.shot(number)?.time;
        match number {
            1 => Some(time),
            n => Some(Centis(time.0.checked_sub(self.shot(n - 1)?.time.0)?)),
        }
    }
    /// Numbers from 1 to the total of which nothing is known.
    #[must_use]
    pub fn missing(&self) -> Vec<u8> {
        (1..=self.total).filter(|n| self.shot(*n).is_none()).collect()
    }
    /// A list would tell more: shots are missing or doubtful.
    #[must_use]
    pub fn wants_list(&self) -> bool {
        !self.missing().is_empty() || self.shots.iter().any(|s| s.suspect && !s.listed)
    }
    /// The beep, give or take what frames wait.
    fn beep(&self) -> Option<RawTime> {
        let heard = |s: &ShotRecord| s.arrival.filter(|_| !s.suspect).map(|at| at - s.time.span());
        self.started.or_else(|| self.shots.iter().find_map(heard))
    }
    /// What was heard then, so long after its beep, is of another string, whatever its number.
    pub(super) fn is_not_of(&self, at: RawTime, time: Centis) -> bool {
        self.beep().is_some_and(|beep| (at - time.span() - beep).abs() >= ANOTHER)
    }
    /// The same of a shot or a stop: with the first shot that is known it is of this one all the same.
    pub(super) fn is_another(&self, at: RawTime, body: &Shot) -> bool {
        let first = self.shot(1).filter(|first| !first.suspect);
        body.shot > 0
            && first.is_none_or(|first| first.time != body.first)
            && self.is_not_of(at, body.time)
    }
    /// It is over; the stop has the last word on how many shots there were. Returns whether its shot
    /// is news.
    pub(super) fn stop(&mut self, at: RawTime, body: &Shot, suspect: bool) -> bool {
        self.stopped = Some(at);
        self.end = End::Stopped;
        if suspect {
            return false;
        }
        let highest = self.shots.last().map_or(0, |s| s.number);
        self.total = body.total.max(body.shot).max(highest);
        let news = body.shot > highest && usize::from(body.shot) <= MOST_SHOTS;
        if news {
            self.put(ShotRecord {
                number: body.shot,
                time: body.time,
                arrival: None,
                suspect: false,
                listed: false,
            });
        }
        news
    }
    pub(super) fn put(&mut self, shot: ShotRecord) {
        let at = self.shots.partition_point(|s| s.number < shot.number);
        self.shots.insert(at, shot);
        self.total = self.total.max(shot.number);
    }
    /// The list is this string's: most of what was pushed stands in it.
    pub(super) fn fits(&self, times: &[Centis]) -> bool {
        let sound = self.shots.iter().filter(|s| !s.suspect);
        let (mut known, mut same) = (0, 0);
        for shot in sound {
            known += 1;
            same += usize::from(times.get(usize::from(shot.number) - 1) == Some(&shot.time));
        }
        2 * same >= known
    }
    /// What a body says against the string it belongs to.
    pub(super) fn contradiction(&self, body: &Shot) -> Option<&'static str> {
        let sound = |n: u8| self.shot(n).filter(|s| !s.suspect);
        if let Some(before) = body.shot.checked_sub(1).and_then(sound)
            && before.time.0.checked_add(body.split.0) != Some(body.time.0)
        {
            return Some("split is not the time since the shot before");
        }
        if let Some(first) = sound(1)
            && body.shot > 1
            && first.time != body.first
        {
            return Some("another first shot than was told");
        }
        let earlier = self.shots.iter().filter(|s| !s.suspect && s.number < body.shot);
        if earlier.map(|s| s.time).max().is_some_and(|t| t > body.time) {
            return Some("earlier than a shot before it");
        }
        // The list is asked for by the total: a wild one must not make up shots.
        let last = self.shots.last().map_or(0, |s| s.number);
        (body.shot > last.saturating_add(40)).then_some("shot number leaps")
    }
    /// The body carries this string on, whatever number it is under.
    pub(super) fn continues(&self, body: &Shot) -> bool {
        let (Some(first), Some(last)) = (self.shots.first(), self.shots.last()) else {
            return false;
        };
        first.number == 1
            && body.first == first.time
            && body.shot == last.number.wrapping_add(1)
            && last.time.0.checked_add(body.split.0) == Some(body.time.0)
    }
    /// Takes its list, which has the last word on times. Returns the shots it corrects.
    pub(super) fn take_list(&mut self, times: &[Centis]) -> Vec<u8> {
        let mut differing = Vec::new();
        for (number, time) in (1_u8..).zip(times) {
            match self.shots.iter_mut().find(|s| s.number == number) {
                Some(known) => {
                    if known.time != *time {
                        differing.push(number);
                    }
                    known.time = *time;
                    known.listed = true;
                    known.suspect = false;
                }
                None => self.put(ShotRecord {
                    number,
                    time: *time,
                    arrival: None,
                    suspect: false,
                    listed: true,
                }),
            }
        }
        // A number above the list's was a damaged frame.
        self.shots.retain(|s| usize::from(s.number) <= times.len());
        self.total = times.len() as u8;
        differing
    }
}
