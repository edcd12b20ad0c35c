//! The connection interval and the phase of its events, from arrivals alone.
//!
//! A notification reaches the host at a connection event; events lie on a grid of one
//! interval, a multiple of 1.25 ms. Every interval in question is followed as a hypothesis:
//! a two-state filter (phase, rate of the radio's crystal against ours) tells how well each
//! arrival falls on its grid, once for each scatter the host's stamps may have. What the waits
//! themselves say of the interval is added by [`super::epoch`]. It is told once it is sure, and
//! no longer while the arrivals speak against it.
use crate::units::{Nanos, RawTime};

/// Scatter of an arrival about its event, sd in ms, and what is expected of each before anything
/// is heard: 0.35-0.43 measured on a Pi, with a recording's whole milliseconds; the others where the
/// host is busy or emulated. On a grid narrower than [`VISIBLE`] of them no event can be told.
const SCATTER: [(f64, f64); 3] = [(0.5, 0.9), (2.0, 0.07), (6.0, 0.03)];
/// As often the scatter's sd an interval is long at least, if its events are to be told apart.
const VISIBLE: f64 = 4.0;
/// Of this probability an interval is told as measured.
const SURE: f64 = 0.98;
/// Part of the arrivals that were stamped late or are otherwise off the grid.
const OFF_GRID: f64 = 0.03;
/// The radio's crystal against the host's, sd: two of ±20 ppm.
const RATE_SD: f64 = 20e-6;
/// Their rate wanders by 0.3 ppm in ten minutes, as a variance per ms.
const RATE_WANDER: f64 = 0.3e-6 * 0.3e-6 / 600_000.0;
/// A hypothesis this much less likely than the best is dropped.
const NEGLIGIBLE: f64 = 1e-6;
/// What the arrivals say for a grid against none at all, ln; so little means that the interval was
/// renegotiated. Three arrivals off a sharp grid do it.
const RENEGOTIATED: f64 = -10.0;
/// With so little nothing is told.
const DOUBTFUL: f64 = -3.0;
/// A wait is expected to be at least so likely, ln, in the mean.
const WAIT: f64 = -1.5;
/// One wait alone counts for no less: a frame may be held up.
const LEAST_WAIT: f64 = 0.01;
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
    /// One for each scatter.
    tracks: [Track; SCATTER.len()],
}

/// A grid as it is seen if the stamps scatter by so much.
#[derive(Clone, Copy, Debug)]
struct Track {
    /// Its probability if the interval is this.
    share: f64,
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
    /// [`RENEGOTIATED`]; never above 0.
    credit: f64,
}

/// Intervals in question with what is expected of each before anything is heard, in ms.
///
/// The standard's 7.5 ms up to 200; Linux asks for 30-50 ms and a Pi usually gets 48.75.
fn candidates() -> impl Iterator<Item = (f64, f64)> {
    let short = (6..=80).map(|n| f64::from(n) * 1.25);
    let long = (21..=40).map(|n| f64::from(n) * 5.0);
    short.chain(long).map(|ms| {
        let hundredths = (ms * 100.0) as u32;
        let prior = match hundredths {
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
        let mut link = Self { hypotheses: Vec::new(), origin: None, credit: 0.0 };
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
        let scatter = self.scatter();
        let known = std::mem::take(&mut self.hypotheses);
        let kept = if known.is_empty() { 0.0 } else { kept };
        let total: f64 = candidates().map(|(_, prior)| prior).sum();
        // How the host stamps is its own manner: a new link changes little of it.
        let mut tracks = [Track { share: 0.0, phase: None }; SCATTER.len()];
        for ((track, now), (_, prior)) in tracks.iter_mut().zip(scatter).zip(SCATTER) {
            track.share = 0.9 * now + 0.1 * prior;
        }
        self.hypotheses = candidates()
            .enumerate()
            .map(|(index, (interval_ms, prior))| {
                let old = known.iter().find(|h| h.index == index).map_or(0.0, |h| h.weight);
                let weight = kept * old + (1.0 - kept) * prior / total;
                Hypothesis { interval_ms, weight, event: 0.0, index, tracks }
            })
            .collect();
        self.credit = 0.0;
    }

    /// Intervals still in question.
    #[must_use]
    pub fn hypotheses(&self) -> &[Hypothesis] {
        &self.hypotheses
    }
    pub(super) fn hypotheses_mut(&mut self) -> &mut Vec<Hypothesis> {
        &mut self.hypotheses
    }

    /// The interval in force and its probability, once that is sure.
    #[must_use]
    pub fn interval_ms(&self) -> Option<(f64, f64)> {
        let best = self.hypotheses.iter().max_by(|a, b| a.weight.total_cmp(&b.weight))?;
        (best.weight > SURE && self.credit > DOUBTFUL).then_some((best.interval_ms, best.weight))
    }

    /// An interval that the one in force hardly exceeds, ms.
    #[must_use]
    pub fn at_most_ms(&self) -> f64 {
        let mut above = 0.0;
        let longest = self.hypotheses.iter().rev().find(|h| {
            above += h.weight;
            above > 0.1
        });
        longest.map_or(200.0, |h| h.interval_ms)
    }

    /// The probability of each scatter.
    fn scatter(&self) -> [f64; SCATTER.len()] {
        let mut chances = [0.0; SCATTER.len()];
        for (i, chance) in chances.iter_mut().enumerate() {
            *chance = self.hypotheses.iter().map(|h| h.weight * h.tracks[i].share).sum();
        }
        let total: f64 = chances.iter().sum();
        if total > 0.0 { chances.map(|c| c / total) } else { SCATTER.map(|(_, prior)| prior) }
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
        if self.credit < RENEGOTIATED {
            self.doubt(0.2);
            for h in &mut self.hypotheses {
                h.hear(a);
            }
            return true;
        }
        let (mut with, mut without) = (0.0, 0.0);
        for h in &mut self.hypotheses {
            without += h.weight / h.interval_ms;
            h.weight *= h.hear(a);
            with += h.weight;
        }
        self.credit = (self.credit + libm::log(with / without)).min(0.0);
        self.normalise();
        false
    }

    /// The wait that the last arrival means was so likely.
    pub(super) fn waited(&mut self, likelihood: f64) {
        self.credit = (self.credit + libm::log(likelihood.max(LEAST_WAIT)) - WAIT).min(0.0);
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
    /// By how much its stamps scatter, sd in ms, as far as it is more than usual.
    pub(super) fn rough_ms(&self) -> f64 {
        match self.likely() {
            0 => 0.0,
            i => SCATTER[i].0,
        }
    }

    fn likely(&self) -> usize {
        let shares = self.tracks.iter().map(|t| t.share).enumerate();
        shares.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(i, _)| i)
    }

    /// Density of an arrival at `a`, per ms.
    fn hear(&mut self, a: f64) -> f64 {
        let ci = self.interval_ms;
        let mut density = 0.0;
        let (mut best, mut event) = (-1.0, a);
        for (track, (sd, _)) in self.tracks.iter_mut().zip(SCATTER) {
            if track.share < NEGLIGIBLE {
                track.share = 0.0;
                continue;
            }
            let (likelihood, at) = track.hear(a, ci, sd);
            track.share *= likelihood;
            density += track.share;
            if track.share > best {
                (best, event) = (track.share, at);
            }
        }
        for track in &mut self.tracks {
            track.share /= density;
        }
        self.event = event;
        density
    }
}

impl Track {
    /// Density of an arrival at `a`, per ms, and the event that brought it.
    fn hear(&mut self, a: f64, ci: f64, sd: f64) -> (f64, f64) {
        if ci < VISIBLE * sd {
            return (1.0 / ci, a);
        }
        let noise = sd * sd;
        let fresh = |rate, var_rate| Phase { at: a, rate, var: noise, cov: 0.0, var_rate };
        let Some(p) = self.phase else {
            self.phase = Some(fresh(0.0, RATE_SD * RATE_SD));
            return (1.0 / ci, a);
        };
        let span = ((a - p.at) / (ci * (1.0 + p.rate))).round() * ci;
        let var_rate = p.var_rate + RATE_WANDER * span.abs();
        let at = p.at + span * (1.0 + p.rate);
        let var = p.var + 2.0 * span * p.cov + span * span * var_rate;
        let cov = p.cov + span * var_rate;
        if var > noise.max(ci * ci / 25.0) {
            // Too long ago to say which event this was.
            self.phase = Some(fresh(p.rate, var_rate.min(RATE_SD * RATE_SD)));
            return (1.0 / ci, a);
        }
        let residual = a - at;
        let s = var + noise;
        let z2 = residual * residual / s;
        let normal = if z2 > 60.0 { 0.0 } else { INV_SQRT_TAU * libm::exp(-0.5 * z2) / s.sqrt() };
        let on = normal * (1.0 - OFF_GRID) > OFF_GRID / ci;
        let event = if on {
            let (k, k_rate) = (var / s, cov / s);
            self.phase = Some(Phase {
                at: at + k * residual,
                rate: p.rate + k_rate * residual,
                var: var - k * var,
                cov: cov - k * cov,
                var_rate: var_rate - k_rate * cov,
            });
            at + k * residual
        } else if var < 4.0 {
            // Stamps come late, never early: the event before brought it.
            if residual < 0.0 { at - ci } else { at }
        } else {
            a
        };
        (normal * (1.0 - OFF_GRID) + OFF_GRID / ci, event)
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
            let weights = link.hypotheses().iter().map(|h| (h.interval_ms, h.weight));
            let (best, weight) = weights.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            assert!((best - interval).abs() < 1e-9 && weight > 0.5, "{best} {weight}");
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
