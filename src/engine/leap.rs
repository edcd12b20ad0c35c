//! Leap seconds: announced by a majority, on the right day only; the timeline is renamed, no clock
//! was wrong before or is after.
use super::discipline::{LEAP_CALM, Leap};
use super::estimator::Estimate;
use super::{DAY, Engine};
use crate::units::{Nanos, RawTime, UtcTime};

impl Engine {
    /// Whether a leap second is so near that neither clock nor servers can be trusted.
    pub(super) fn leaping(&self, at: RawTime) -> bool {
        self.leap_moment.is_some_and(|m| (at - m).abs() < LEAP_CALM)
    }

    /// At a leap second every instant gets another name; no clock was wrong before or is after.
    pub(super) fn pass_leap(&mut self, now: RawTime) {
        let Some((at, by)) = self.announced.filter(|(at, _)| now >= *at) else { return };
        (self.announced, self.leapt) = (None, Some((at, by)));
        self.estimator.rename(by);
        self.shared = self.shared.map(|(then, low, high)| (then, low + by, high + by));
        for s in &mut self.sources {
            s.rename(by);
        }
        self.leap = Leap::None;
        self.leap_seen = Some(at);
    }

    /// What an instant on the other side of a leap second has its name off by.
    pub(super) fn named_otherwise(&self, at: RawTime) -> Nanos {
        let due = self.announced.filter(|(leap, _)| at >= *leap);
        let past = self.leapt.filter(|(leap, _)| at < *leap);
        due.map_or(Nanos::ZERO, |(_, by)| by) - past.map_or(Nanos::ZERO, |(_, by)| by)
    }

    /// Majority of the used servers; only on the last day of June or December.
    pub(super) fn leap_vote(&mut self, now: RawTime, estimate: &Estimate) {
        let count = |l: Leap| {
            self.selected.iter().filter(|&&i| self.sources[i].leap() == l).count() * 2
                > self.selected.len()
        };
        let truth = UtcTime::from_nanos(now.as_nanos() + estimate.truth.get());
        let announced = if !truth.is_leap_day() {
            Leap::None
        } else if count(Leap::Insert) {
            Leap::Insert
        } else if count(Leap::Delete) {
            Leap::Delete
        } else {
            Leap::None
        };
        if announced != Leap::None {
            self.leap_seen = Some(now);
        }
        // A lock keeps it from the kernel, which would step; the timeline leaps all the same.
        self.leap = if self.discipline.locked() { Leap::None } else { announced };
        let (second, by) = match announced {
            Leap::None => {
                self.announced = None;
                if !self.leaping(now) {
                    (self.discipline.leap, self.leap_moment) = (None, None);
                }
                return;
            }
            Leap::Insert => (86_400, Nanos::from_secs(-1)),
            Leap::Delete => (86_399, Nanos::from_secs(1)),
        };
        let midnight = truth.as_nanos().div_euclid(DAY.get()) * DAY.get();
        let at = UtcTime::from_nanos(midnight + second * 1_000_000_000);
        let at = now + (at - truth);
        (self.announced, self.leap_moment) = (Some((at, by)), Some(at));
        self.discipline.leap = (self.steer && self.leap != Leap::None).then_some((at, by));
    }
}
