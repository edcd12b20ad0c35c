//! The monitor's judgement: grades, the history of 100 measurements, the ±20 ms alert.
use crate::state::{Measurement, Quality};
use crate::units::{Nanos, UtcTime};
use std::collections::VecDeque;

/// Measurements kept.
pub const HISTORY: usize = 100;

impl Quality {
    /// The grade of |offset| + bound. A boundary belongs to the worse grade.
    #[must_use]
    pub fn of(worst: Nanos) -> Self {
        match worst.abs().get() {
            0..5_000_000 => Self::Excellent,
            5_000_000..10_000_000 => Self::Good,
            10_000_000..25_000_000 => Self::Fair,
            25_000_000..50_000_000 => Self::Poor,
            _ => Self::Critical,
        }
    }
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Excellent => "excellent",
            Self::Good => "good",
            Self::Fair => "fair",
            Self::Poor => "poor",
            Self::Critical => "critical",
            Self::Unknown => "unknown",
        }
    }
}

/// The last measurements.
#[derive(Clone, Debug, Default)]
pub struct History {
    kept: VecDeque<Measurement>,
}

impl History {
    /// Takes one in, and drops the oldest beyond 100.
    pub fn push(&mut self, measurement: Measurement) {
        if self.kept.len() == HISTORY {
            self.kept.pop_front();
        }
        self.kept.reserve_exact(HISTORY - self.kept.len());
        self.kept.push_back(measurement);
    }
    /// Oldest first.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Measurement> {
        self.kept.iter()
    }
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }
    /// Whether nothing was measured yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
    /// Largest |offset|, ms; `None` without measurements.
    #[must_use]
    pub fn max_ms(&self) -> Option<f64> {
        self.kept.iter().map(|m| m.offset_us.abs() * 1e-3).reduce(f64::max)
    }
    /// Mean signed offset, ms; `None` without measurements.
    #[must_use]
    pub fn mean_ms(&self) -> Option<f64> {
        let n = self.kept.len();
        (n > 0).then(|| self.kept.iter().map(|m| m.offset_us * 1e-3).sum::<f64>() / n as f64)
    }
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.kept.clear();
    }
}

/// When to alert and when to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlertLimits {
    /// In at this.
    pub threshold: Nanos,
    /// Out below this.
    pub clear_below: Nanos,
    /// A second, louder alert above this.
    pub severe: Nanos,
}

/// One alert episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Episode {
    /// When it began.
    pub since: UtcTime,
    /// The worst of it.
    pub worst: Nanos,
    /// The louder alert was given too.
    pub severe: bool,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Above the threshold: once per episode.
    Raised(Nanos),
    /// Above the severe limit: once per episode.
    Severe(Nanos),
    /// Below the clearing limit again; the worst of the episode.
    Cleared(Nanos),
}

/// The alert with its hysteresis.
#[derive(Clone, Copy, Debug)]
pub struct Alarm {
    /// The limits.
    pub limits: AlertLimits,
    /// The episode, while there is one.
    pub episode: Option<Episode>,
}

impl Alarm {
    /// Judges |offset| + bound of the moment. `None` for unknown changes nothing: what is not
    /// known is neither an alarm nor its end.
    pub fn judge(&mut self, now: UtcTime, worst: Option<Nanos>) -> Option<Notice> {
        let worst = worst?.abs();
        let Some(episode) = &mut self.episode else {
            if worst < self.limits.threshold {
                return None;
            }
            let severe = worst >= self.limits.severe;
            self.episode = Some(Episode { since: now, worst, severe });
            return Some(if severe { Notice::Severe(worst) } else { Notice::Raised(worst) });
        };
        episode.worst = episode.worst.max(worst);
        if worst < self.limits.clear_below {
            let worst = episode.worst;
            self.episode = None;
            return Some(Notice::Cleared(worst));
        }
        if worst >= self.limits.severe && !episode.severe {
            episode.severe = true;
            return Some(Notice::Severe(worst));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(i64) -> Nanos = Nanos::from_millis;
    const NOW: UtcTime = UtcTime::from_nanos(0);

    fn alarm() -> Alarm {
        let limits = AlertLimits { threshold: MS(20), clear_below: MS(15), severe: MS(50) };
        Alarm { limits, episode: None }
    }

    #[test]
    fn the_five_grades_stand_at_their_boundaries() {
        let grade = |us: i64| Quality::of(Nanos::new(us * 1000));
        assert_eq!(
            [2, 7, 15, 40, 100].map(|ms| grade(ms * 1000)),
            [Quality::Excellent, Quality::Good, Quality::Fair, Quality::Poor, Quality::Critical]
        );
        assert_eq!(grade(4_999), Quality::Excellent);
        assert_eq!(grade(5_000), Quality::Good);
        assert_eq!(grade(-10_000), Quality::Fair);
        assert_eq!(grade(25_000), Quality::Poor);
        assert_eq!(grade(50_000), Quality::Critical);
    }

    #[test]
    fn an_alert_is_given_once_and_ends_only_below_the_lower_limit() {
        let mut a = alarm();
        assert_eq!(a.judge(NOW, Some(MS(19))), None);
        assert_eq!(a.judge(NOW, Some(MS(-20))), Some(Notice::Raised(MS(20))));
        assert_eq!(a.judge(NOW, Some(MS(30))), None);
        assert_eq!(a.judge(NOW, Some(MS(16))), None);
        assert_eq!(a.judge(NOW, None), None);
        assert_eq!(a.judge(NOW, Some(MS(14))), Some(Notice::Cleared(MS(30))));
        assert_eq!(a.judge(NOW, Some(MS(14))), None);
    }

    #[test]
    fn fifty_milliseconds_alert_a_second_time_and_louder() {
        let mut a = alarm();
        assert_eq!(a.judge(NOW, Some(MS(25))), Some(Notice::Raised(MS(25))));
        assert_eq!(a.judge(NOW, Some(MS(55))), Some(Notice::Severe(MS(55))));
        assert_eq!(a.judge(NOW, Some(MS(60))), None);
    }

    #[test]
    fn the_history_keeps_a_hundred_and_its_mean_is_signed() {
        let mut h = History::default();
        assert_eq!((h.max_ms(), h.mean_ms()), (None, None));
        for n in 0..150 {
            let offset_us = if n % 2 == 0 { 1000.0 } else { -3000.0 };
            h.push(Measurement { offset_us, ..Measurement::default() });
        }
        assert_eq!(h.len(), 100);
        assert_eq!(h.max_ms(), Some(3.0));
        assert!((h.mean_ms().unwrap() + 1.0).abs() < 1e-9);
    }
}
