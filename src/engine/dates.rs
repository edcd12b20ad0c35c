//! Dates that cannot be: when all servers give one, and when three operators know better than our build.
use super::discipline::Refusal;
use super::source::Source;
use super::{Engine, Event, OVERRIDE_AFTER, ServerId};
use crate::units::{Nanos, RawTime, Reading, UtcTime};

/// A date that was refused counts as a server's word for so long.
const FRESH: Nanos = Nanos::from_secs(1_200);
/// Dates agree within this.
const AGREE: Nanos = Nanos::from_millis(1_500);
/// Operators whose agreement overrides what we hold for possible …
const OVERRIDERS: usize = 3;
/// … and who at least are not overruled by fewer who happen to fit a mark.
const DOUBTERS: usize = 2;

/// Servers that agree on a date that is refused.
struct Crowd {
    ids: Vec<ServerId>,
    /// True − raw, by the earliest of them.
    minus_raw: Nanos,
    /// More than those who give a date that is believed.
    prevails: bool,
}

impl Engine {
    /// Three operators who agree for ten minutes know the date better than our build does.
    pub(super) fn consider_override(&mut self, now: Reading) {
        let crowd = self.misdated_crowd(now.raw);
        let crowd = crowd.filter(|c| c.prevails && self.operators(&c.ids) >= OVERRIDERS);
        let Some(crowd) = crowd else {
            self.override_since = None;
            return;
        };
        let since = *self.override_since.get_or_insert(now.raw);
        if now.raw - since >= OVERRIDE_AFTER {
            self.settings.mark = None;
            let date = UtcTime::from_nanos(now.raw.as_nanos() + crowd.minus_raw.get());
            // Some centuries are enough; a date far beyond would leave the range of nanoseconds.
            self.settings.built = date.min(UtcTime::from_nanos(4_102_444_800_000_000_000));
            self.override_since = None;
            self.tell(Event::DateOverridden);
            for s in &mut self.sources {
                s.hurry(now.raw);
            }
        }
    }

    /// The largest crowd of servers that agree on a date which is refused.
    fn misdated_crowd(&self, now: RawTime) -> Option<Crowd> {
        let fresh = |s: &Source| s.misdated.filter(|(at, _)| now - *at < FRESH && !s.retired);
        let sources = self.sources.iter().enumerate();
        let mut all: Vec<(Nanos, ServerId)> =
            sources.filter_map(|(id, s)| fresh(s).map(|(_, t)| (t, id))).collect();
        all.sort_unstable();
        let many = |i: usize| all[i..].iter().take_while(|(t, _)| *t - all[i].0 < AGREE).count();
        let first = (0..all.len()).max_by_key(|&i| many(i))?;
        let ids: Vec<ServerId> = all[first..][..many(first)].iter().map(|(_, id)| *id).collect();
        let others = self.sources.iter().filter(|s| s.reach != 0 && s.sample_count() > 0);
        let prevails = others.clone().count() < ids.len() && !others.clone().any(|s| s.spec.trust);
        Some(Crowd { ids, minus_raw: all[first].0, prevails })
    }

    /// Whether more servers contradict those whose date is believed than there are of them, and
    /// might be right: the mark was once a liar's word, or they could override it.
    pub(super) fn contradicted(&self, now: RawTime) -> bool {
        let Some(crowd) = self.misdated_crowd(now).filter(|c| c.prevails) else { return false };
        let (earliest, latest) = self.settings.dates();
        let date = UtcTime::from_nanos(now.as_nanos().saturating_add(crowd.minus_raw.get()));
        let possible = earliest <= date && date <= latest;
        self.operators(&crowd.ids) >= if possible { DOUBTERS } else { OVERRIDERS }
    }

    /// Every server that answers gives a date that cannot be: nothing to go by, and worth saying.
    pub(super) fn despair_of_dates(&mut self, now: Reading, id: ServerId) {
        // Who was heard a few requests ago has lost packets, and is no less a witness.
        let answering = |s: &&Source| !s.retired && s.replies > 0 && s.reach != 0;
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
