//! When the beep was: the exact posterior of one unknown, from one-way arrivals.
//!
//! ```text
//! arrival_i = epoch + d0 + time_i + q_i + wait_i
//! ```
//! `q_i` is what the timer cut off its hundredths (0…10 ms), `wait_i` lasts to the next
//! connection event, and an interval longer for each retry. The unknown followed here is
//! `epoch + d0`; `d0`, the fixed delay of SHOT frames, cannot be seen from one-way data and
//! enters at the end, with its range. The interval is itself measured ([`super::interval`]):
//! each interval in question has its own posterior, weighted by how well it explains grid
//! and waits. A START frame is evidence as far as the lag of SHOT behind START frames has
//! been learned from earlier strings.
use super::frame::Centis;
use super::interval::{Hypothesis, Link};
use super::lag::Lag;
use super::posterior::{Cells, Desk, Kernel, MOST_RETRIES, QUANTUM_MS, Summary, summary};
use crate::units::{Nanos, RawTime};

/// Chance that the beep lies within the bound, as computed; 95.5-97 % when tried, since the
/// model allows for more (bursts, stamps off the grid) than an ordinary string has.
const COVERAGE: f64 = 0.947;
/// The same while the interval is still in question: what is expected of it is a guess.
const COVERAGE_IN_DOUBT: f64 = 0.985;
/// The timer's crystal against ours, at most: 30 ppm (1-3 ms over a string were measured).
const CRYSTAL: f64 = 30e-6;
/// Coarse cells while more hypotheses than this are followed.
const MANY: usize = 6;
/// A frame less likely than this contradicts the others.
const CONTRADICTION: f64 = 3e-4;
/// So much likelier, ln, all is without a start frame that is out of line.
const OUT_OF_LINE: f64 = 3.4;
/// Nothing is less likely.
const LEAST: f64 = 1e-200;
/// Strings of one timer agree within this, beyond what waiting explains, ms. Below that sum a single
/// string cannot show that it disagrees: a start that just missed its event looks the same.
const STRINGS_AGREE_MS: f64 = 20.0;

/// The fixed delay of a SHOT frame, from the shot to the radio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delay {
    /// Taken off every epoch.
    pub value: Nanos,
    /// The least it may be.
    pub least: Nanos,
    /// The most it may be.
    pub most: Nanos,
    /// Measured against a reference, not assumed.
    pub calibrated: bool,
}

impl Default for Delay {
    /// Nothing taken off; 0…60 ms possible; not calibrated.
    fn default() -> Self {
        Self {
            value: Nanos::ZERO,
            least: Nanos::ZERO,
            most: Nanos::from_millis(60),
            calibrated: false,
        }
    }
}

impl Delay {
    /// A measured delay, good to `bound` (95 %).
    #[must_use]
    pub fn calibrated(value: Nanos, bound: Nanos) -> Self {
        Self { value, least: value - bound, most: value + bound, calibrated: true }
    }
    /// How far the truth may be from `value`.
    #[must_use]
    pub fn reach(&self) -> Nanos {
        (self.most - self.value).max(self.value - self.least).max(Nanos::ZERO)
    }
}

/// What is known of one beep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The beep.
    pub epoch: RawTime,
    /// 95 % bound of the beep as the frames tell it: d0 taken as known. Whole strings move
    /// by what d0 is wrong; times and splits within a string do not.
    pub inside: Nanos,
    /// 95 % bound with everything d0 may be.
    pub bound: Nanos,
    /// d0 was measured.
    pub calibrated: bool,
    /// The d0 taken off.
    pub taken: Nanos,
    /// Shots used.
    pub shots: usize,
    /// The start frame was used.
    pub start: bool,
    /// The connection interval, ms, once it stands out.
    pub interval_ms: Option<f64>,
}

impl Estimate {
    /// When a shot fell, with its 95 % bound: the timer's quantum and crystal added.
    #[must_use]
    pub fn shot(&self, time: Centis) -> (RawTime, Nanos) {
        (self.epoch + time.span(), self.bound + Self::within(time))
    }
    /// Bound of a shot against its own beep: the hundredth it was cut to, and the crystal.
    #[must_use]
    pub fn within(time: Centis) -> Nanos {
        Nanos::from_secs_f64(QUANTUM_MS * 1e-3 + time.seconds() * CRYSTAL)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Heard {
    Start(RawTime),
    Shot(RawTime, Centis),
}

impl Heard {
    fn is_shot(&self) -> bool {
        matches!(self, Self::Shot(..))
    }
}

/// Dates the strings of one timer.
#[derive(Clone, Debug, Default)]
pub struct Dating {
    link: Link,
    lag: Lag,
    delay: Delay,
    heard: Vec<Heard>,
    beliefs: Vec<Belief>,
    coarse: bool,
    desk: Desk,
    summary: Option<Summary>,
    /// A start frame that the shots contradict is left out.
    start_refused: bool,
}

/// The posterior of the epoch if one interval is in force.
#[derive(Clone, Debug)]
struct Belief {
    index: usize,
    cells: Cells,
    kernel: Kernel,
    /// Likelihood of this string's frames as far as it is in the hypothesis's weight; the best has 1.
    said: f64,
}

impl Dating {
    /// For a timer whose SHOT frames have this delay.
    #[must_use]
    pub fn new(delay: Delay) -> Self {
        Self { delay, ..Self::default() }
    }
    /// The delay as it is configured or was calibrated.
    pub fn set_delay(&mut self, delay: Delay) {
        self.delay = delay;
    }
    /// The delay in use.
    #[must_use]
    pub fn delay(&self) -> Delay {
        self.delay
    }
    /// The lag of SHOT behind START frames, as learned.
    #[must_use]
    pub fn lag(&self) -> &Lag {
        &self.lag
    }
    /// Takes a lag learned before.
    pub fn set_lag(&mut self, lag: Lag) {
        self.lag = lag;
    }
    /// Takes what another pass over the same link found of its interval.
    pub fn set_link(&mut self, link: Link) {
        self.link = link;
        self.link.connected();
    }
    /// The link's interval.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// A new link: its events lie on a new grid.
    pub fn connected(&mut self) {
        self.link.connected();
        self.rebuild(false);
    }

    /// A new string begins.
    pub fn begin(&mut self) {
        self.heard.clear();
        self.beliefs.clear();
        self.summary = None;
        self.start_refused = false;
    }

    /// A start frame arrived.
    pub fn start(&mut self, at: RawTime) {
        self.hear(at, Heard::Start(at));
    }
    /// A shot's push arrived, first told and not in doubt.
    pub fn shot(&mut self, at: RawTime, time: Centis) {
        self.hear(at, Heard::Shot(at, time));
    }
    /// Any other notification: it shows the grid, not the beep.
    pub fn other(&mut self, at: RawTime) {
        let void = self.link.arrival(at);
        self.link.whenever();
        if void {
            self.rebuild(false);
        }
    }

    /// The string is over: what it tells of the lag is learned. Returns by how many
    /// milliseconds it disagrees with the strings before, if by more than is credible.
    pub fn end(&mut self) -> Option<f64> {
        let start = self.heard.iter().find_map(|h| match h {
            Heard::Start(at) => Some(self.link.millis(*at)),
            Heard::Shot(..) => None,
        })?;
        let heavy = self.link.hypotheses().iter().max_by(|a, b| a.weight.total_cmp(&b.weight));
        let h = heavy.filter(|h| h.weight > 0.3)?.clone();
        // The shots alone: a start that had a say must not confirm itself.
        let shots = self.alone(&h)?;
        let (known, sd) = self.lag.mean_sd();
        let seen = shots.mean() - start + h.interval_ms * 0.6;
        let off = seen - known;
        // One start tells no more than its wait allows: none at all, or three retries (one in a
        // thousand has more); 0.6 of an interval was taken off. Beyond that it is significant.
        let waits = h.interval_ms * if off < 0.0 { 3.4 } else { 0.6 };
        let scatter = libm::sqrt(sd * sd + shots.variance());
        let credible = STRINGS_AGREE_MS + 2.0 * scatter + waits;
        let alarm = self.lag.strings() >= 3 && self.shots() >= 3 && off.abs() > credible;
        self.lag.learn(&shots, start, h.interval_ms);
        alarm.then_some(off)
    }

    /// The shots' posterior under one interval, without the start.
    fn alone(&self, h: &Hypothesis) -> Option<Cells> {
        let shots: Vec<_> = self.heard.iter().filter(|h| h.is_shot()).collect();
        let mut kernel = Kernel::new(h.interval_ms, false);
        let first = shots.iter().map(|shot| self.early(shot)).reduce(f64::min)?;
        let mut cells = kernel.range(first);
        let mut desk = Desk::default();
        for shot in shots {
            let Heard::Shot(_, time) = shot else { continue };
            kernel.soften(time.seconds() * CRYSTAL * 1e3);
            cells.multiply(&kernel, self.early(shot), &mut desk);
        }
        Some(cells)
    }

    /// Arrival less the timer's time, ms: no earlier than epoch + d0.
    fn early(&self, heard: &Heard) -> f64 {
        match heard {
            Heard::Start(at) => self.link.millis(*at),
            Heard::Shot(at, time) => self.link.millis(*at) - f64::from(time.0) * 10.0,
        }
    }

    fn shots(&self) -> usize {
        self.heard.iter().filter(|h| h.is_shot()).count()
    }

    fn hear(&mut self, at: RawTime, what: Heard) {
        let void = self.link.arrival(at);
        self.heard.push(what);
        let finer = self.coarse && self.link.hypotheses().len() <= MANY;
        if void || finer || self.beliefs.is_empty() {
            return self.rebuild(!void);
        }
        let likely = self.weigh(&what, true, true);
        if self.heard.len() > 1 {
            self.link.waited(likely);
        }
        self.refine(likely);
    }

    /// Multiplies one frame into every belief, and into the hypotheses' weights if it is to `count`.
    /// Returns its likelihood. Only the newest frame can be set on its event.
    fn weigh(&mut self, what: &Heard, newest: bool, count: bool) -> f64 {
        let early = self.early(what);
        let (arrival, time) = match *what {
            Heard::Start(at) => (self.link.millis(at), None),
            Heard::Shot(at, time) => (self.link.millis(at), Some(time)),
        };
        if time.is_none() && self.start_refused {
            return 1.0;
        }
        let hypotheses = self.link.hypotheses_mut();
        let (mut before, mut after, mut best) = (0.0, 0.0, 0.0_f64);
        self.beliefs.retain_mut(|belief| {
            let Ok(i) = hypotheses.binary_search_by_key(&belief.index, |h| h.index) else {
                return false;
            };
            let h = &mut hypotheses[i];
            // The vernier: a stamp is set on the event that brought it.
            let rough = h.rough_ms();
            let set_back =
                if newest { (h.event - arrival).clamp(-h.interval_ms, 0.5 + rough) } else { 0.0 };
            let likelihood = if let Some(time) = time {
                belief.kernel.soften(time.seconds() * CRYSTAL * 1e3 + 0.8 * rough);
                belief.cells.multiply(&belief.kernel, early + set_back, &mut self.desk)
            } else {
                let early = early + set_back;
                belief.cells.multiply_start(&belief.kernel, &self.lag, early, &mut self.desk)
            };
            before += h.weight;
            after += h.weight * likelihood;
            if count {
                h.weight *= likelihood;
                belief.said *= likelihood;
                best = best.max(belief.said);
            }
            true
        });
        if count && best > 0.0 {
            for belief in &mut self.beliefs {
                belief.said = (belief.said / best).max(LEAST);
            }
        }
        if before > 0.0 { after / before } else { 1.0 }
    }

    /// After the newest frame: a contradiction is looked into, the beliefs are summed up.
    fn refine(&mut self, likely: f64) {
        if likely < CONTRADICTION && self.heard.len() > 1 {
            self.resolve();
        }
        self.link.normalise();
        let beliefs = &self.beliefs;
        let in_doubt = self.link.hypotheses().iter().all(|h| h.weight < 0.95);
        let (chance, towards_middle) =
            if in_doubt { (COVERAGE_IN_DOUBT, 0.0) } else { (COVERAGE, 0.5) };
        self.summary = summary(
            self.link.hypotheses().iter().filter_map(|h| {
                let b = beliefs.binary_search_by_key(&h.index, |b| b.index).ok()?;
                Some((h.weight, &beliefs[b].cells))
            }),
            chance,
            towards_middle,
        );
    }

    /// One frame does not go with the others: the start is out of line, or the first shot
    /// came so late that the range looked at misses the beep.
    fn resolve(&mut self) {
        let refused = self.start_refused;
        let mut best = (f64::NEG_INFINITY, 0.0, refused);
        for (refuse, quantile) in [(false, 0.0), (false, 0.5), (true, 0.0), (true, 0.5)] {
            if refuse != refused && (refused || self.heard.iter().all(Heard::is_shot)) {
                continue;
            }
            self.start_refused = refuse;
            let against = if refuse == refused { 0.0 } else { OUT_OF_LINE };
            let likely = self.lay_out(quantile, true) - against;
            if likely > best.0 {
                best = (likely, quantile, refuse);
            }
        }
        self.start_refused = best.2;
        self.lay_out(best.1, true);
    }

    fn rebuild(&mut self, count: bool) {
        let likely = self.lay_out(0.0, count);
        if !self.beliefs.is_empty() {
            self.refine(libm::exp(likely));
        }
    }

    /// All beliefs anew from the frames kept, laid out below that quantile of the shots'
    /// earliest beeps; the frames `count` for the hypotheses' weights instead of what they counted
    /// before. Returns the ln of the frames' likelihood.
    fn lay_out(&mut self, quantile: f64, count: bool) -> f64 {
        for belief in std::mem::take(&mut self.beliefs) {
            let hypotheses = self.link.hypotheses_mut();
            if let Ok(i) = hypotheses.binary_search_by_key(&belief.index, |h| h.index)
                && count
            {
                hypotheses[i].weight /= belief.said;
            }
        }
        let mut early: Vec<f64> = Vec::with_capacity(self.heard.len());
        early.extend(self.heard.iter().filter(|h| h.is_shot()).map(|h| self.early(h)));
        early.sort_by(f64::total_cmp);
        let start = self.heard.iter().find(|h| !h.is_shot()).map(|h| self.early(h));
        self.coarse = self.link.hypotheses().len() > MANY;
        self.beliefs.reserve(self.link.hypotheses().len());
        for h in self.link.hypotheses() {
            let kernel = Kernel::new(h.interval_ms, self.coarse);
            let cells = match (early.get((early.len() as f64 * quantile) as usize), start) {
                (Some(shot), _) => kernel.range(*shot),
                (None, Some(start)) => kernel.range_of_start(start),
                (None, None) => return 0.0,
            };
            self.beliefs.push(Belief { index: h.index, cells, kernel, said: 1.0 });
        }
        let heard = self.heard.clone();
        let mut likely = 0.0;
        for (i, what) in heard.iter().enumerate() {
            let newest = i + 1 == heard.len();
            likely += libm::log(self.weigh(what, newest, count).max(LEAST));
        }
        likely
    }

    /// The beep as far as it is known; `None` before the first frame that tells of it.
    #[must_use]
    pub fn estimate(&self) -> Option<Estimate> {
        let s = self.summary?;
        let inside = Nanos::from_secs_f64(s.bound_ms * 1e-3);
        Some(Estimate {
            epoch: self.link.instant(s.value_ms)? - self.delay.value,
            inside,
            bound: inside + self.delay.reach(),
            calibrated: self.delay.calibrated,
            taken: self.delay.value,
            shots: self.shots(),
            start: !self.start_refused && self.heard.iter().any(|h| !h.is_shot()),
            interval_ms: self.link.interval_ms().map(|(ms, _)| ms),
        })
    }

    /// A push came when no shot of this string could have brought it.
    #[must_use]
    pub fn is_outside(&self, at: RawTime, time: Centis) -> bool {
        self.estimate().is_some_and(|e| self.is_outside_of(&e, at, time))
    }
    /// The same of the beep as it was found to be.
    pub(super) fn is_outside_of(&self, e: &Estimate, at: RawTime, time: Centis) -> bool {
        let slack = e.inside + Estimate::within(time) + Nanos::from_millis(3);
        let interval = self.link.at_most_ms();
        let longest = Nanos::from_secs_f64(interval * 1e-3 * (MOST_RETRIES as f64 + 1.0));
        let since = at - (e.epoch + self.delay.value) - time.span();
        since < -slack || since > longest + slack + Nanos::from_millis(10)
    }
}
