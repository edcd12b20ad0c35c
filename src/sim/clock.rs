//! The kernel's clock: raw time plus frequency, a slew that ends by itself, and steps.
use crate::units::{Nanos, Ppm, RawTime, Reading, UtcTime};

/// `CLOCK_REALTIME` over a raw clock, with the kernel's semantics.
#[derive(Clone, Debug)]
pub struct SimClock {
    raw: i64,
    utc: i64,
    rest: f64,
    frequency: f64,
    slew: f64,
}

/// `adjtime`'s rate: 500 µs per second.
const SLEW: f64 = 500e-6;

impl SimClock {
    /// A clock that shows `utc` at `raw`, its frequency nominal.
    #[must_use]
    pub const fn new(raw: RawTime, utc: UtcTime) -> Self {
        Self { raw: raw.as_nanos(), utc: utc.as_nanos(), rest: 0.0, frequency: 0.0, slew: 0.0 }
    }
    /// Counts on to this raw instant (never back).
    pub fn advance(&mut self, raw: RawTime) {
        let passed = raw.as_nanos() - self.raw;
        if passed <= 0 {
            return;
        }
        let ns = passed as f64;
        let slewed = self.slew.clamp(-ns * SLEW, ns * SLEW);
        self.slew -= slewed;
        self.rest += ns * self.frequency + slewed;
        let whole = self.rest.floor();
        self.rest -= whole;
        self.utc += passed + whole as i64;
        self.raw += passed;
    }
    /// Both clocks at the instant advanced to.
    #[must_use]
    pub const fn reading(&self) -> Reading {
        Reading { raw: RawTime::from_nanos(self.raw), utc: UtcTime::from_nanos(self.utc) }
    }
    /// `ADJ_FREQUENCY` (and tick beyond 500 ppm): absolute.
    pub fn set_frequency(&mut self, frequency: Ppm) {
        self.frequency = frequency.get() * 1e-6;
    }
    /// The frequency last set.
    #[must_use]
    pub fn frequency(&self) -> Ppm {
        Ppm::from_slope(self.frequency)
    }
    /// `ADJ_OFFSET_SINGLESHOT`: whole microseconds; replaces what is pending.
    pub fn slew(&mut self, by: Nanos) {
        self.slew = (by.get() / 1000 * 1000) as f64;
    }
    /// What of the slew is still to come.
    #[must_use]
    pub fn slew_left(&self) -> Nanos {
        Nanos::new(self.slew.round() as i64)
    }
    /// `ADJ_SETOFFSET`: at once; a pending slew is forgotten, as the kernel does.
    pub fn step(&mut self, by: Nanos) {
        self.utc += by.get();
        self.slew = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(clock: &mut SimClock, s: i64) -> i64 {
        clock.advance(RawTime::from_nanos(s * 1_000_000_000));
        clock.reading().utc_minus_raw().get()
    }

    #[test]
    fn a_slew_runs_at_500_ppm_ends_by_itself_and_replaces_the_one_before() {
        let mut clock = SimClock::new(RawTime::from_nanos(0), UtcTime::from_nanos(0));
        clock.slew(Nanos::from_millis(20));
        assert_eq!(at(&mut clock, 10), 5_000_000);
        clock.slew(Nanos::from_millis(-1));
        assert_eq!(at(&mut clock, 12), 4_000_000);
        assert_eq!(at(&mut clock, 100), 4_000_000);
        assert_eq!(clock.slew_left(), Nanos::ZERO);
    }

    #[test]
    fn a_frequency_is_absolute_and_a_step_forgets_the_slew() {
        let mut clock = SimClock::new(RawTime::from_nanos(0), UtcTime::from_nanos(0));
        clock.set_frequency(Ppm::new(10.0));
        clock.set_frequency(Ppm::new(12.0));
        assert_eq!(at(&mut clock, 100), 1_200_000);
        clock.slew(Nanos::from_millis(5));
        clock.step(Nanos::from_millis(50));
        clock.set_frequency(Ppm::new(0.0));
        assert_eq!(at(&mut clock, 200), 51_200_000);
    }
}
