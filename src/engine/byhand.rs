//! Time from people: `set-time`, a phone, somebody's `date -s`. It starts the timeline where no
//! server can, with its own bound, gives way to servers, and never moves a settled clock.
use super::estimator::Estimate;
use super::{DAY, Engine, Event, Phase};
use crate::units::{Nanos, Ppm, RawTime, Reading, UtcTime};

/// `date -s` says nothing of how well the time was known; a wall clock is read to the minute.
const DATE_COMMAND: Nanos = Nanos::from_secs(60);
/// Without a drift file the crystal is right to so many ppm (95 %).
const UNKNOWN_CRYSTAL: f64 = 118.0;
/// Words of people are at most so uncertain, and at least so much.
pub const RANGE: (Nanos, Nanos) = (Nanos::from_millis(1), Nanos::from_secs(3_600));

/// How a time came from people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `set-time`.
    Typed,
    /// A phone's clock, through the page.
    Phone,
    /// Somebody set the clock itself.
    Date,
    /// Another computer of the range, which had no UTC itself.
    Neighbour,
}

impl How {
    /// For JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Typed => "set-time",
            Self::Phone => "phone",
            Self::Date => "date",
            Self::Neighbour => "neighbour",
        }
    }
    /// For sentences: the time is … .
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Typed => "set by hand",
            Self::Phone => "taken from a phone",
            Self::Date => "set by another program or person",
            Self::Neighbour => "taken from another computer of the range",
        }
    }
}

/// What somebody says the time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// UTC …
    pub utc: UtcTime,
    /// … at this raw instant …
    pub at: RawTime,
    /// … give or take.
    pub uncertainty: Nanos,
    /// How it came.
    pub how: How,
}

impl Word {
    /// True − ours, if the word is true.
    fn offset(&self, now: Reading) -> Nanos {
        self.utc.minus_raw(self.at) - now.utc_minus_raw()
    }
}

/// What comes of a word that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// True − ours, if the word is true.
    pub offset: Nanos,
    /// Give or take.
    pub bound: Nanos,
    /// The clock is set; else only the timeline knows, and the clock stays as it is.
    pub moves: bool,
    /// It stays because it was synchronised since the boot.
    pub settled: bool,
}

/// A timeline that began with somebody's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByHand {
    /// When it was said.
    pub at: RawTime,
    /// True − raw at that instant.
    pub truth: Nanos,
    /// Its bound then.
    pub bound: Nanos,
    /// How it came.
    pub how: How,
}

impl ByHand {
    fn estimate(&self, at: RawTime, frequency: Ppm, frequency_bound: Ppm) -> Estimate {
        let age = at - self.at;
        Estimate {
            at,
            truth: self.truth + frequency.over(age),
            frequency,
            bound: self.bound + frequency_bound.over(age).abs(),
            frequency_bound,
            rate: 0.0,
            age: age.abs(),
        }
    }
}

impl Engine {
    /// The timeline of somebody's word, while no server has said better.
    pub(super) fn by_hand_estimate(&self, at: RawTime) -> Option<Estimate> {
        let said = self.by_hand?;
        // A crystal that was off is colder or warmer now.
        let known =
            self.settings.memory.as_ref().map(|m| (m.frequency_ppm, libm::hypot(m.sd_ppm, 0.5)));
        let (frequency, bound) =
            known.map_or((self.discipline.told.get(), UNKNOWN_CRYSTAL), |(f, sd)| (f, 1.96 * sd));
        Some(said.estimate(at, Ppm::new(frequency), Ppm::new(bound)))
    }

    /// How long |offset| + bound will stay within `limit` without another answer, as far as a week;
    /// `None` when it does not even now.
    #[must_use]
    pub fn keeps_within(&self, now: Reading, limit: Nanos) -> Option<Nanos> {
        let offset = (self.estimate(now.raw)?.truth - now.utc_minus_raw()).abs();
        let good =
            |span: Nanos| self.estimate(now.raw + span).is_some_and(|e| e.bound + offset < limit);
        if !good(Nanos::ZERO) {
            return None;
        }
        let (mut low, mut high) = (Nanos::ZERO, Nanos::from_secs(7 * 86_400));
        for _ in 0..14 {
            let middle = low + (high - low).half();
            if good(middle) { low = middle } else { high = middle }
        }
        Some(low)
    }

    /// The word that carries the timeline, if one does.
    #[must_use]
    pub fn by_hand(&self) -> Option<ByHand> {
        self.by_hand.filter(|_| !self.fixed())
    }

    /// Whether somebody's word would be taken.
    ///
    /// # Errors
    /// Why not, in a sentence.
    pub fn weigh(&self, now: Reading, word: &Word) -> Result<(), String> {
        if self.fixed() {
            return Err("servers have said what time it is since the start; what people say \
                        gives way to them"
                .into());
        }
        if !(RANGE.0..=RANGE.1).contains(&word.uncertainty) {
            return Err("the uncertainty must be from 1 ms to 1 h".into());
        }
        let (earliest, latest) = self.settings.dates();
        if word.utc < earliest || word.utc > latest {
            return Err(format!(
                "that cannot be: this program is from {}",
                self.settings.built.iso(0).chars().take(10).collect::<String>()
            ));
        }
        if let Some(mark) = self.settings.mark.filter(|m| word.utc < *m - DAY) {
            return Err(format!("it was later already: servers agreed on {}", mark.iso(0)));
        }
        let offset = word.offset(now);
        if self.discipline.settled && offset.abs() > word.uncertainty {
            return Err(format!(
                "the clock was synchronised since the boot and is {} away from that; it is not \
                 moved by hand",
                offset.rounded()
            ));
        }
        if let Some(lock) = self.discipline.locks.first()
            && !self.discipline.settled
            && offset.abs() > self.discipline.limits.step_above
        {
            return Err(format!(
                "the clock is held still for \"{}\"; end that lock first",
                lock.name
            ));
        }
        Ok(())
    }

    /// What would come of a word that is not refused.
    #[must_use]
    pub fn effect(&self, now: Reading, word: &Word) -> Effect {
        let (offset, settled) = (word.offset(now), self.discipline.settled);
        // A settled clock is kept as it is; the word says how far off it can be.
        let bound = word.uncertainty + if settled { offset.abs() } else { Nanos::ZERO };
        Effect { offset, bound, moves: self.steer && !settled, settled }
    }

    /// Takes somebody's word as the start of the timeline; the last word counts.
    pub(super) fn take_word(&mut self, now: Reading, word: &Word) {
        if self.weigh(now, word).is_err() {
            return;
        }
        let Effect { offset, bound, moves, settled } = self.effect(now, word);
        let truth = if settled { now.utc_minus_raw() } else { word.utc.minus_raw(word.at) };
        self.by_hand = Some(ByHand { at: word.at, truth, bound, how: word.how });
        self.tell(Event::ByHand { how: word.how, offset, bound });
        if moves {
            self.discipline.set_by_hand(now, offset, &mut self.outputs);
        }
        self.enter(Phase::Holdover, Some(format!("the time was {}", word.how.words())));
        self.publish(now);
    }

    /// Somebody set the clock before any server was heard: a candidate, until one is.
    ///
    /// A hardware clock whose driver comes late sets it too, and one with a dead battery sets it to
    /// a time long past: that is taken back, once, since whoever insists is not fought with.
    pub(super) fn take_date(&mut self, now: Reading, jump: Nanos) {
        if self.fixed() || self.discipline.settled {
            return;
        }
        let past = self.settings.mark.map_or(self.settings.built, |m| m.max(self.settings.built));
        if now.utc < past && now.utc - jump >= past && self.steer && !self.put_back {
            self.put_back = true;
            self.discipline.put_back(now, -jump, &mut self.outputs);
            return;
        }
        let word = Word { utc: now.utc, at: now.raw, uncertainty: DATE_COMMAND, how: How::Date };
        self.take_word(now, &word);
    }

    /// Nothing to go by, unless somebody's word is.
    pub(super) fn at_a_loss(&mut self, why: String) {
        if self.by_hand().is_none() {
            self.enter(Phase::Unsynchronised, Some(why));
        }
    }
}
