//! Who is asked when: the base interval, bursts, courtesy, company.
use super::{Engine, Output, Phase, ServerId, splitmix};
use crate::units::{Nanos, RawTime, Reading};

/// A neighbour that leads the range is asked so often until so many answers: agreement within a
/// minute, and before the crystal is known.
const NEARBY: [(u64, Nanos); 2] = [(24, Nanos::from_secs(2)), (64, Nanos::from_secs(8))];
/// Contradictory servers are asked again this soon.
const QUARREL_POLL: Nanos = Nanos::from_secs(32);

impl Engine {
    pub(super) fn plan(&mut self, now: Reading, id: ServerId) {
        let base = self.settings.sync_interval;
        let wanted = if !self.fixed() || self.sources[id].requests < 4 {
            self.sources[id].eager_interval(base)
        } else if self.phase == Phase::Frozen {
            QUARREL_POLL.min(base)
        } else if self.sources[id].silent() > 0 {
            // Weather: at the usual pace, a little apart.
            base
        } else {
            self.estimator.wanted_poll(now.raw, base)
        };
        // On our own network the rules of courtesy are ours. Who only passes UTC on is asked as any
        // other server.
        let leads = self.leads_the_range(id);
        let replies = self.sources[id].replies;
        let nearby = NEARBY.iter().find(|(n, _)| leads && replies < *n);
        let wanted = nearby.map_or(wanted, |(_, most)| wanted.min(*most));
        self.interval = wanted.max(base);
        let wanted = self.in_company(now.raw, id, wanted);
        self.sources[id].plan(now.raw, wanted);
    }

    /// The span, shortened by up to 4 % so that clients started together do not stay together (RFC
    /// 8633 §3); servers whose turns are that close are asked at one wake-up.
    fn in_company(&mut self, now: RawTime, id: ServerId, wanted: Nanos) -> Nanos {
        let last = self.sources[id].last_asked.unwrap_or(now);
        let earliest = Nanos::new(wanted.get() / 100 * 96);
        let others = self.sources.iter().enumerate().filter(|(other, s)| {
            *other != id && s.asked.is_none() && !s.retired && !s.spec.passive
        });
        let spans = others.map(|(_, s)| s.next_poll - last);
        let joined = spans.filter(|span| (earliest..=wanted).contains(span)).max();
        joined.unwrap_or_else(|| self.jittered(wanted))
    }

    fn jittered(&mut self, span: Nanos) -> Nanos {
        self.seed = splitmix(self.seed);
        let part = (self.seed >> 11) as f64 / (1_u64 << 53) as f64;
        span - Nanos::new((span.get() as f64 * 0.04 * part) as i64)
    }

    pub(super) fn ask(&mut self, now: Reading) {
        for id in 0..self.sources.len() {
            let s = &mut self.sources[id];
            if s.asked.is_none() && !s.retired && s.next_poll <= now.raw {
                s.ask(now.raw);
                self.first_asked.get_or_insert(now.raw);
                self.outputs.push(Output::Ask(id));
            }
        }
    }
}
