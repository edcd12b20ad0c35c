//! The connection interval and the phase of its events, from arrivals alone.
//!
//! A notification reaches the host at a connection event; events lie on a grid of one
//! interval, a multiple of 1.25 ms. Every interval in question is followed as a hypothesis:
//! a two-state filter (phase, rate of the radio's crystal against ours) tells how well each
//! arrival falls on its grid. What the waits themselves say of the interval is added by
//! [`super::epoch`].
use crate::units::{Nanos, RawTime};

/// Scatter of an arrival about its event, ms: 0.35-0.43 measured on a Pi, and a recording's
/// whole milliseconds.
const JITTER_MS: f64 = 0.5;
/// Part of the arrivals that were stamped late or are otherwise off the grid.
const OFF_GRID: f64 = 0.03;
/// The radio's crystal against the host's, sd: two of ±20 ppm.
const RATE_SD: f64 = 20e-6;
/// Their rate wanders by 0.3 ppm in ten minutes, as a variance per ms.
const RATE_WANDER: f64 = 0.3e-6 * 0.3e-6 / 600_000.0;
/// A hypothesis this much less likely than the best is dropped.
const NEGLIGIBLE: f64 = 1e-6;
/// So many arrivals off the grid in a row mean that the interval was renegotiated.
const RENEGOTIATED: u32 = 4;
const INV_SQRT_TAU: f64 = 0.398_942_280_401_432_7;

/// One interval that may be in force.
#[derive(Clone, Debug)]
pub struct Hypothesis {
    /// The interval, ms.
    pub interval_ms: f64,
    /// Its probability.
    pub weight: f64,
    /// Event that brought the last arrival, ms after the origin.
    pub event: f64,
    /// Index in [`candidates`], stable while hypotheses come and go.
    pub index: usize,
    phase: Option<Phase>,
}

#[derive(Clone, Copy, Debug)]
struct Phase {
    /// An event near the last arrival, ms after the origin.
    at: f64,
    rate: f64,
    var: f64,
    cov: f64,
    var_rate: f64,
}

/// What a link's arrivals say of its interval.
#[derive(Clone, Debug)]
pub struct Link {
    hypotheses: Vec<Hypothesis>,
    origin: Option<RawTime>,
    off_grid: u32,
}

/// Intervals in question with what is expected of each before anything is heard, in ms.
///
/// The standard's 7.5 ms up to 200; Linux asks for 30-50 ms and a Pi usually gets 48.75.
fn candidates() -> impl Iterator<Item = (f64, f64)> {
    let short = (6..=80).map(|n| f64::from(n) * 1.25);
    let long = (21..=40).map(|n| f64::from(n) * 5.0);
    short.chain(long).map(|ms| {
        let tenths = (ms * 100.0) as u32;
        let prior = match tenths {
            4875 => 0.35,
            1500 => 0.08,
            3000 | 4500 | 5000 => 0.06,
            750 => 0.05,
            _ => 0.004,
        };
        (ms, prior)
    })
}

impl Default for Link {
    fn default() -> Self {
        let mut link = Self { hypotheses: Vec::new(), origin: None, off_grid: 0 };
        link.doubt(0.0);
        link
    }
}

impl Link {
    /// A link has come up: its phase is new, its interval probably the last one's.
    pub fn connected(&mut self) {
        self.doubt(0.8);
    }

    /// Spreads the weights over all candidates again, keeping `kept` of what was known.
    fn doubt(&mut self, kept: f64) {
        let known = std::mem::take(&mut self.hypotheses);
        let kept = if known.is_empty() { 0.0 } else { kept };
        let total: f64 = candidates().map(|(_, prior)| prior).sum();
        self.hypotheses = candidates()
            .enumerate()
            .map(|(index, (interval_ms, prior))| {
                let old = known.iter().find(|h| h.index == index).map_or(0.0, |h| h.weight);
                let weight = kept * old + (1.0 - kept) * prior / total;
                Hypothesis { interval_ms, weight, event: 0.0, index, phase: None }
            })
            .collect();
        self.off_grid = 0;
    }

    /// Intervals still in question.
    #[must_use]
    pub fn hypotheses(&self) -> &[Hypothesis] {
        &self.hypotheses
    }
    pub(super) fn hypotheses_mut(&mut self) -> &mut Vec<Hypothesis> {
        &mut self.hypotheses
    }

    /// The interval in force and its probability, once one stands out.
    #[must_use]
    pub fn interval_ms(&self) -> Option<(f64, f64)> {
        let best = self.hypotheses.iter().max_by(|a, b| a.weight.total_cmp(&b.weight))?;
        (best.weight > 0.5).then_some((best.interval_ms, best.weight))
    }

    /// Milliseconds from the link's own origin.
    #[must_use]
    pub fn millis(&self, at: RawTime) -> f64 {
        self.origin.map_or(0.0, |origin| (at - origin).as_secs_f64() * 1e3)
    }
    /// The instant so many milliseconds after the origin.
    #[must_use]
    pub fn instant(&self, ms: f64) -> Option<RawTime> {
        self.origin.map(|origin| origin + Nanos::new((ms * 1e6).round() as i64))
    }

    /// A notification of any kind arrived. `true`: the interval was renegotiated, and what
    /// was known of it is void.
    pub fn arrival(&mut self, at: RawTime) -> bool {
        self.origin.get_or_insert(at);
        let a = self.millis(at);
        let mut on_grid = 0.0;
        for h in &mut self.hypotheses {
            let (likelihood, on) = h.hear(a);
            if on {
                on_grid += h.weight;
            }
            h.weight *= likelihood;
        }
        self.off_grid = if on_grid > 0.5 { 0 } else { self.off_grid + 1 };
        if self.off_grid >= RENEGOTIATED {
            self.doubt(0.2);
            for h in &mut self.hypotheses {
                h.hear(a);
            }
            return true;
        }
        self.normalise();
        false
    }

    /// The last arrival's frame may have been ready at any time: an event then brings it the
    /// more likely the longer the interval before it.
    pub(super) fn whenever(&mut self) {
        for h in &mut self.hypotheses {
            h.weight *= h.interval_ms;
        }
        self.normalise();
    }

    /// Weights to sum 1; the negligible dropped.
    pub(super) fn normalise(&mut self) {
        let best = self.hypotheses.iter().map(|h| h.weight).fold(0.0, f64::max);
        if best <= 0.0 {
            return self.doubt(0.0);
        }
        self.hypotheses.retain(|h| h.weight > best * NEGLIGIBLE);
        let total: f64 = self.hypotheses.iter().map(|h| h.weight).sum();
        for h in &mut self.hypotheses {
            h.weight /= total;
        }
    }
}

impl Hypothesis {
    /// Density of an arrival at `a`, per ms, and whether it falls on the grid.
    fn hear(&mut self, a: f64) -> (f64, bool) {
        let ci = self.interval_ms;
        let noise = JITTER_MS * JITTER_MS;
        let fresh = |rate, var_rate| Phase { at: a, rate, var: noise, cov: 0.0, var_rate };
        let Some(p) = self.phase else {
            self.phase = Some(fresh(0.0, RATE_SD * RATE_SD));
            self.event = a;
            return (1.0 / ci, true);
        };
        let span = ((a - p.at) / (ci * (1.0 + p.rate))).round() * ci;
        let var_rate = p.var_rate + RATE_WANDER * span.abs();
        let at = p.at + span * (1.0 + p.rate);
        let var = p.var + 2.0 * span * p.cov + span * span * var_rate;
        let cov = p.cov + span * var_rate;
        if var > ci * ci / 25.0 {
            // Too long ago to say which event this was.
            self.phase = Some(fresh(p.rate, var_rate.min(RATE_SD * RATE_SD)));
            self.event = a;
            return (1.0 / ci, true);
        }
        let residual = a - at;
        let s = var + noise;
        let z2 = residual * residual / s;
        let normal = if z2 > 60.0 { 0.0 } else { INV_SQRT_TAU * libm::exp(-0.5 * z2) / s.sqrt() };
        let on = normal * (1.0 - OFF_GRID) > OFF_GRID / ci;
        if on {
            let (k, k_rate) = (var / s, cov / s);
            self.phase = Some(Phase {
                at: at + k * residual,
                rate: p.rate + k_rate * residual,
                var: var - k * var,
                cov: cov - k * cov,
                var_rate: var_rate - k_rate * cov,
            });
            self.event = at + k * residual;
        } else if var < 4.0 {
            // Stamps come late, never early: the event before brought it.
            self.event = if residual < 0.0 { at - ci } else { at };
        } else {
            self.event = a;
        }
        (normal * (1.0 - OFF_GRID) + OFF_GRID / ci, on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(link: &mut Link, ms: f64) -> bool {
        let void = link.arrival(RawTime::from_nanos((ms * 1e6) as i64));
        link.whenever();
        void
    }
    /// Event numbers without a common divisor, as shots fall.
    const EVENTS: [u32; 9] = [0, 7, 12, 31, 40, 67, 71, 90, 113];

    #[test]
    fn the_interval_of_a_string_is_found_from_its_arrivals() {
        for interval in [7.5, 11.25, 15.0, 30.0, 48.75, 50.0, 100.0] {
            let mut link = Link::default();
            for (i, k) in EVENTS.iter().enumerate() {
                let jitter = [0.3, -0.2, 0.4, -0.4, 0.1][i % 5];
                hear(&mut link, 5000.0 + f64::from(*k) * interval * 1.00001 + jitter);
            }
            assert!((link.interval_ms().unwrap().0 - interval).abs() < 1e-9);
        }
    }

    #[test]
    fn a_late_stamp_is_set_back_on_its_event() {
        let mut link = Link::default();
        for k in EVENTS {
            hear(&mut link, f64::from(k) * 48.75);
        }
        hear(&mut link, 150.0 * 48.75 + 6.0);
        let best = link.hypotheses().iter().find(|h| (h.interval_ms - 48.75).abs() < 1e-9).unwrap();
        assert!((best.event - 150.0 * 48.75).abs() < 0.5, "{}", best.event);
    }

    #[test]
    fn a_renegotiated_interval_is_noticed() {
        let mut link = Link::default();
        for k in EVENTS {
            hear(&mut link, f64::from(k) * 48.75);
        }
        let from = 113.0 * 48.75 + 3.0;
        let voids =
            EVENTS.iter().filter(|k| hear(&mut link, from + f64::from(**k + 1) * 20.0)).count();
        assert_eq!(voids, 1);
    }
}
