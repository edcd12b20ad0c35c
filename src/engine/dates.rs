//! Dates that cannot be: when all servers give one, and when three operators know better than our build.
use super::discipline::Refusal;
use super::source::Source;
use super::{Engine, Event, OVERRIDE_AFTER, ServerId};
use crate::units::{Nanos, Reading, UtcTime};

impl Engine {
    /// Three operators who agree for ten minutes know the date better than our build does.
    pub(super) fn consider_override(&mut self, now: Reading) {
        let fresh = |s: &Source| {
            s.misdated.filter(|(at, _)| now.raw - *at < Nanos::from_secs(1200)).map(|(_, t)| t)
        };
        let ids: Vec<ServerId> =
            (0..self.sources.len()).filter(|&i| fresh(&self.sources[i]).is_some()).collect();
        let offsets: Vec<Nanos> = ids.iter().filter_map(|&i| fresh(&self.sources[i])).collect();
        let spread = offsets.iter().max().zip(offsets.iter().min()).map(|(a, b)| *a - *b);
        let others = self.sources.iter().any(|s| s.sample_count() > 0);
        let agree = self.operators(&ids) >= 3
            && spread.is_some_and(|s| s < Nanos::from_millis(1_500))
            && !others;
        if !agree {
            self.override_since = None;
            return;
        }
        let since = *self.override_since.get_or_insert(now.raw);
        if now.raw - since >= OVERRIDE_AFTER {
            self.settings.mark = None;
            let date = UtcTime::from_nanos(now.raw.as_nanos() + offsets[0].get());
            // Some centuries are enough; a date far beyond would leave the range of nanoseconds.
            self.settings.built = date.min(UtcTime::from_nanos(4_102_444_800_000_000_000));
            self.override_since = None;
            self.tell(Event::DateOverridden);
            for s in &mut self.sources {
                s.hurry(now.raw);
            }
        }
    }

    /// Every server that answers gives a date that cannot be: nothing to go by, and worth saying.
    pub(super) fn despair_of_dates(&mut self, now: Reading, id: ServerId) {
        let answering = |s: &&Source| !s.retired && s.replies > 0 && s.silent() == 0;
        let absurd = self.sources.iter().filter(answering).all(|s| s.misdated.is_some());
        let Some((_, minus_raw)) = self.sources[id].misdated.filter(|_| absurd) else { return };
        let date = UtcTime::from_nanos(now.raw.as_nanos().saturating_add(minus_raw.get()));
        let refusal = Refusal::Date(date.iso(0).chars().take(10).collect());
        if self.fixed() {
            self.freeze(refusal);
            self.publish(now);
        } else {
            self.at_a_loss(refusal.to_string());
        }
    }
}
