//! One member of the bank: one idea of how the crystal wanders, and what the window of
//! samples means under it.
//!
//! State: offset x, frequency f (a random walk), a swing g of the frequency with its rate r (a
//! damped oscillator; zero for plain random walks), and the base delay of each server. Every packet is a Gaussian *site* on x + B (outward) or −x + B
//! (homeward). Sites are found by expectation propagation: a forward Kalman pass, a backward
//! pass of the adjoint (modified Bryson-Frazier: no matrix is inverted), each site's cavity
//! seen through its packet, again.
use std::ops::Range;

use super::site::{Queue, Seen, see};
use super::thermal::{KINDS, Moment, SLOPE, SLOPE_WALK};

/// Servers that are estimated together.
pub(super) const SLOTS: usize = 8;
/// Rate of the swing, swing (or slope), frequency, offset: in this order, so that what a member has no
/// use for lies before all it counts with …
pub(super) const RATE: usize = 0;
pub(super) const SWING: usize = 1;
pub(super) const FREQUENCY: usize = 2;
pub(super) const OFFSET: usize = 3;
pub(super) const HEAD: usize = 4;
/// … and base delays.
pub(super) const DIM: usize = HEAD + SLOTS;
/// Samples that are looked at again.
pub(super) const WINDOW: usize = 96;

pub(super) type Vector = [f64; DIM];
pub(super) type Matrix = [[f64; DIM]; DIM];

/// How a crystal's frequency may wander.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wander {
    /// Random walk, per √s.
    pub walk: f64,
    /// Swing: standard deviation of the frequency (1), zero for none, …
    pub swing: f64,
    /// … its period and the time in which it forgets, seconds (the latter above period / 2π).
    pub period: f64,
    pub lasts: f64,
    /// The frequency follows a warmth of this kind; the third number of the state is its slope.
    pub thermal: Option<usize>,
    /// Seconds since boot when `t` was 0: a crystal just switched on warms up.
    pub born: f64,
}

/// A cold crystal's frequency moves by so much (one standard deviation) …
const WARMING: f64 = 2.5e-6;
/// … with this time constant after boot, seconds.
const WARM_UP: f64 = 240.0;

/// From then on it is warm.
pub(super) const WARM: f64 = 4.0 * WARM_UP;
/// What was known before loses this much per second of measuring (variance, 0.5 ppm in an hour).
const AGES: f64 = 0.25e-12 / 3600.0;

/// What the crystal's frequency will be once it is warm: known from other days.
#[derive(Clone, Copy, Debug)]
pub(super) struct Warm {
    pub frequency: f64,
    pub variance: f64,
    /// How much of the third number of the state is in it.
    pub third: f64,
}

impl Wander {
    /// The first number of the state that is not always zero.
    pub(super) const fn first(&self) -> usize {
        if self.swing != 0.0 {
            RATE
        } else if self.thermal.is_some() {
            SWING
        } else {
            FREQUENCY
        }
    }

    /// What the random walk adds in `dt` seconds to the variance of the offset, to its covariance with
    /// the frequency, and to the variance of that.
    fn noise(&self, dt: f64) -> [f64; 3] {
        let q = self.walk * self.walk;
        [q * dt * dt * dt / 3.0 + PHASE * dt, q * dt * dt / 2.0, q * dt]
    }

    /// Warmth so far, of this member's kind.
    pub(super) fn heat(&self, heat: &[f64; KINDS]) -> f64 {
        self.thermal.map_or(0.0, |kind| heat[kind])
    }

    /// Variance of the third number of the state before anything is learned.
    pub(super) fn third_variance(&self) -> f64 {
        if self.thermal.is_some() { SLOPE * SLOPE } else { self.swing * self.swing }
    }

    /// Variance of the swing's rate, 1/s².
    pub(super) fn rate_variance(&self) -> f64 {
        if self.swing == 0.0 {
            return 0.0;
        }
        let (turn, half) = swing(self);
        (turn * turn + half * half) * self.swing * self.swing
    }
}

/// A sample as the members see it: seconds from the origin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seconds {
    /// When.
    pub t: f64,
    /// Warmth so far.
    pub heat: [f64; KINDS],
    /// What x + B and −x + B are at most.
    pub most: [f64; 2],
    /// Whose.
    pub slot: u8,
    /// It counts.
    pub counts: bool,
}

impl Seconds {
    /// When, with the warmth so far.
    pub(super) const fn moment(&self) -> Moment {
        Moment { t: self.t, heat: self.heat }
    }
}

/// Two Gaussian sites in natural form: precision, precision × mean.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Site {
    tau: [f64; 2],
    nu: [f64; 2],
}

/// A Gaussian belief of the whole state at an instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Belief {
    pub t: f64,
    /// Warmth so far, of the member's kind.
    pub heat: f64,
    pub mean: Vector,
    pub cov: Matrix,
}

/// What the forward pass leaves for the backward pass, per site.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace {
    gain: Vector,
    mean: f64,
    variance: f64,
}

impl Trace {
    pub(super) const NONE: Self = Self { gain: [0.0; DIM], mean: 0.0, variance: 0.0 };
}

/// Queues by slot and direction.
pub(super) type Queues = [[Queue; 2]; SLOTS];

impl Belief {
    pub(super) const fn nothing() -> Self {
        Self { t: 0.0, heat: 0.0, mean: [0.0; DIM], cov: [[0.0; DIM]; DIM] }
    }

    /// Goes on by `dt` seconds; `base_walk` is the variance each base delay gains per second.
    pub(super) fn predict(
        &mut self,
        to: &Moment,
        wander: &Wander,
        dim: usize,
        base_walk: &[f64; SLOTS],
    ) {
        let dt = to.t - self.t;
        if dt <= 0.0 {
            return;
        }
        let heat = wander.heat(&to.heat);
        let warmer = heat - self.heat;
        let boot = self.t + wander.born;
        (self.t, self.heat) = (to.t, heat);
        if (0.0..20.0 * WARM_UP).contains(&boot) {
            let warm = WARMING * WARMING * libm::exp(-boot / WARM_UP) * -libm::expm1(-dt / WARM_UP);
            let p = &mut self.cov;
            p[OFFSET][OFFSET] += warm * dt * dt / 3.0;
            p[OFFSET][FREQUENCY] += warm * dt / 2.0;
            p[FREQUENCY][OFFSET] += warm * dt / 2.0;
            p[FREQUENCY][FREQUENCY] += warm;
        }
        let used = wander.first()..dim;
        if used.start == RATE {
            let steps = (dt / (0.1 * wander.period)).ceil().min(128.0);
            let moved = Moved::over(dt / steps, wander);
            for _ in 0..steps as usize {
                self.swing(&moved, dim);
            }
        } else {
            self.walk(dt, warmer, wander, used);
        }
        for s in HEAD..dim {
            self.cov[s][s] += base_walk[s - HEAD] * dt;
        }
    }

    /// Without a swing: the third number is a slope or nothing, and wanders at most.
    fn walk(&mut self, dt: f64, warmer: f64, wander: &Wander, used: Range<usize>) {
        let (m, p) = (&mut self.mean, &mut self.cov);
        m[OFFSET] += dt * m[FREQUENCY] + warmer * m[SWING];
        for j in used.clone() {
            p[OFFSET][j] += dt * p[FREQUENCY][j] + warmer * p[SWING][j];
        }
        for row in &mut p[used] {
            row[OFFSET] += dt * row[FREQUENCY] + warmer * row[SWING];
        }
        let [far, between, here] = wander.noise(dt);
        p[OFFSET][OFFSET] += far;
        p[OFFSET][FREQUENCY] += between;
        p[FREQUENCY][OFFSET] += between;
        p[FREQUENCY][FREQUENCY] += here;
        if wander.thermal.is_some() {
            p[SWING][SWING] += SLOPE_WALK * SLOPE_WALK * dt;
        }
    }

    fn swing(&mut self, moved: &Moved, dim: usize) {
        let (m, p) = (&mut self.mean, &mut self.cov);
        [m[0], m[1], m[2], m[3]] = moved.turn([m[0], m[1], m[2], m[3]]);
        for j in 0..dim {
            [p[0][j], p[1][j], p[2][j], p[3][j]] = moved.turn([p[0][j], p[1][j], p[2][j], p[3][j]]);
        }
        for row in &mut p[..dim] {
            [row[0], row[1], row[2], row[3]] = moved.turn([row[0], row[1], row[2], row[3]]);
        }
        for i in 0..HEAD {
            for j in 0..HEAD {
                p[i][j] += moved.noise[i][j];
            }
        }
    }

    /// Whatever a few minutes of a cold crystal say of its frequency, a warm one has the one that is
    /// known. The less it agrees with what was measured, the less it counts.
    fn recall(&mut self, known: &Warm, boot: f64) {
        let (m, p) = (&mut self.mean, &mut self.cov);
        let mut gain = [0.0; HEAD];
        for (g, row) in gain.iter_mut().zip(p.iter()) {
            *g = row[FREQUENCY] + known.third * row[SWING];
        }
        let ours = gain[FREQUENCY] + known.third * gain[SWING];
        let cold = 2.0 * WARMING * libm::exp(-boot / WARM_UP);
        let variance = known.variance + cold * cold + AGES * (boot - WARM).max(0.0);
        let apart = known.frequency - m[FREQUENCY] - known.third * m[SWING];
        let doubt = (apart * apart / (ours + variance) / 4.0).max(1.0);
        let share = 1.0 / (ours + variance * doubt * doubt);
        for i in 0..HEAD {
            m[i] += gain[i] * apart * share;
            for j in 0..HEAD {
                p[i][j] -= gain[i] * gain[j] * share;
            }
        }
    }

    /// The sum x + B or −x + B: P·h, mean and variance.
    fn sum(&self, direction: usize, slot: usize, used: Range<usize>) -> Trace {
        let sign = if direction == 0 { 1.0 } else { -1.0 };
        let b = HEAD + slot;
        let mut trace = Trace::NONE;
        for j in used {
            trace.gain[j] = sign * self.cov[OFFSET][j] + self.cov[b][j];
        }
        trace.mean = sign * self.mean[OFFSET] + self.mean[b];
        trace.variance = sign * trace.gain[OFFSET] + trace.gain[b];
        trace
    }

    /// Takes up a site.
    fn update(&mut self, trace: &Trace, tau: f64, nu: f64, used: Range<usize>) {
        let less = 1.0 / (1.0 + tau * trace.variance);
        let c = tau * less;
        let v = (nu - tau * trace.mean) * less;
        let g = &trace.gain;
        for i in used.clone() {
            self.mean[i] += g[i] * v;
            let ci = c * g[i];
            for j in used.clone() {
                self.cov[i][j] -= ci * g[j];
            }
        }
    }
}

/// What passes of a swing in `dt` seconds: x, g and r get so much of it and of its rate.
struct Moved {
    dt: f64,
    x: [f64; 2],
    g: [f64; 2],
    r: [f64; 2],
    noise: [[f64; HEAD]; HEAD],
}

/// White noise of the phase, s²/s: far below anything the network shows.
const PHASE: f64 = 1e-20;

impl Moved {
    /// r' = −ω²g − γr + noise, g' = r, x' = f + g. The noise is that of a short step, in which
    /// the spring has hardly pulled.
    fn over(dt: f64, wander: &Wander) -> Self {
        let (d2, d3) = (dt * dt, dt * dt * dt);
        let mut noise = [[0.0; HEAD]; HEAD];
        let [far, between, here] = wander.noise(dt);
        noise[OFFSET][OFFSET] = far;
        noise[OFFSET][FREQUENCY] = between;
        noise[FREQUENCY][OFFSET] = between;
        noise[FREQUENCY][FREQUENCY] = here;
        let (turn, half) = swing(wander);
        let own2 = turn * turn + half * half;
        let k = 4.0 * half * own2 * wander.swing * wander.swing;
        noise[RATE][RATE] = k * dt;
        noise[SWING][RATE] = k * d2 / 2.0;
        noise[SWING][SWING] = k * d3 / 3.0;
        noise[OFFSET][RATE] = k * d3 / 6.0;
        noise[OFFSET][SWING] = k * d2 * d2 / 8.0;
        noise[OFFSET][OFFSET] += k * d2 * d3 / 20.0;
        noise[RATE][SWING] = noise[SWING][RATE];
        noise[RATE][OFFSET] = noise[OFFSET][RATE];
        noise[SWING][OFFSET] = noise[OFFSET][SWING];
        let e = libm::exp(-half * dt);
        let (sin, cos) = libm::sincos(turn * dt);
        let (c, s) = (e * cos, e * sin / turn);
        let g = [c + half * s, s];
        let r = [-own2 * s, c - half * s];
        // the integral of g, from r' = −ω²g − 2(γ/2)r: ∫g = −(Δr + γ Δg) / ω²
        let x =
            [(-r[0] - 2.0 * half * (g[0] - 1.0)) / own2, (1.0 - r[1] - 2.0 * half * g[1]) / own2];
        Self { dt, x, g, r, noise }
    }

    /// The four numbers of the state after it.
    fn turn(&self, [rate, swing, frequency, offset]: [f64; HEAD]) -> [f64; HEAD] {
        let Self { dt, x, g, r, .. } = self;
        [
            r[0] * swing + r[1] * rate,
            g[0] * swing + g[1] * rate,
            frequency,
            offset + dt * frequency + x[0] * swing + x[1] * rate,
        ]
    }

    /// Their adjoint before it.
    fn back(&self, [rate, swing, frequency, offset]: [f64; HEAD]) -> [f64; HEAD] {
        let Self { dt, x, g, r, .. } = self;
        [
            x[1] * offset + g[1] * swing + r[1] * rate,
            x[0] * offset + g[0] * swing + r[0] * rate,
            dt * offset + frequency,
            offset,
        ]
    }
}

/// Angular frequency and half the damping of a swing, 1/s.
fn swing(wander: &Wander) -> (f64, f64) {
    (std::f64::consts::TAU / wander.period, 1.0 / wander.lasts)
}

/// One member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub wander: Wander,
    /// Belief just before the window's first sample.
    pub before: Belief,
    /// Belief after its last.
    pub after: Belief,
    /// What the window's packets say; the first packet's is at `first`, those behind the last's are before it.
    sites: [Site; WINDOW],
    first: usize,
    /// The warm crystal's frequency, if it was cold at the start and is known.
    pub warm: Option<Warm>,
    /// Log weight by past predictions …
    pub weight: f64,
    /// … and without any.
    pub common: f64,
}

/// What the bank shares in a pass.
pub(super) struct Shared<'a> {
    pub samples: &'a [Seconds],
    pub queues: &'a Queues,
    pub base_walk: &'a [f64; SLOTS],
    pub dim: usize,
}

impl Member {
    pub(super) const fn new(wander: Wander, common: f64) -> Self {
        Self {
            wander,
            before: Belief::nothing(),
            after: Belief::nothing(),
            sites: [Site { tau: [0.0; 2], nu: [0.0; 2] }; WINDOW],
            first: 0,
            warm: None,
            weight: common,
            common,
        }
    }

    /// What the window's packet `i` says.
    fn site(&mut self, i: usize) -> &mut Site {
        &mut self.sites[(self.first + i) % WINDOW]
    }

    /// Puts the first packet of the window first.
    fn straighten(&mut self) {
        self.sites.rotate_left(self.first);
        self.first = 0;
    }

    /// Takes up the newest sample by what was believed before it, and says how it was seen.
    pub(super) fn append(&mut self, shared: &Shared) -> [Seen; 2] {
        let n = shared.samples.len() - 1;
        let sample = &shared.samples[n];
        let slot = usize::from(sample.slot);
        self.after.predict(&sample.moment(), &self.wander, shared.dim, shared.base_walk);
        let used = self.wander.first()..shared.dim;
        let mut site = Site::default();
        let seen = [0, 1].map(|d| {
            let trace = self.after.sum(d, slot, used.clone());
            let seen = see(trace.mean, trace.variance, sample.most[d], shared.queues[slot][d]);
            let tau = (1.0 / seen.variance - 1.0 / trace.variance).max(0.0);
            let nu = if tau > 0.0 {
                seen.mean / seen.variance - trace.mean / trace.variance
            } else {
                (seen.mean - trace.mean) / trace.variance
            };
            (site.tau[d], site.nu[d]) = (tau, nu);
            self.after.update(&trace, tau, nu, used.clone());
            seen
        });
        *self.site(n) = site;
        seen
    }

    /// The belief after the whole window, from the sites as they are, the first packet's first.
    fn forward(&mut self, shared: &Shared, mut traces: Option<&mut [[Trace; 2]]>) {
        let used = self.wander.first()..shared.dim;
        let mut belief = self.before;
        for (i, sample) in shared.samples.iter().enumerate() {
            if !sample.counts {
                continue;
            }
            belief.predict(&sample.moment(), &self.wander, shared.dim, shared.base_walk);
            for d in 0..2 {
                let trace = belief.sum(d, usize::from(sample.slot), used.clone());
                belief.update(&trace, self.sites[i].tau[d], self.sites[i].nu[d], used.clone());
                if let Some(traces) = traces.as_deref_mut() {
                    traces[i][d] = trace;
                }
            }
        }
        self.after = belief;
    }

    /// Looks at every packet of the window again, in the light of all others. `learn` hears of
    /// each packet's slot and direction, how it was seen, and how far (s) it is from the sum.
    pub(super) fn sweep(
        &mut self,
        shared: &Shared,
        traces: &mut [[Trace; 2]],
        damping: f64,
        mut learn: impl FnMut(usize, usize, &Seen, f64),
    ) {
        self.straighten();
        self.forward(shared, Some(traces));
        let used = self.wander.first()..shared.dim;
        let mut l: Vector = [0.0; DIM];
        let mut big: Matrix = [[0.0; DIM]; DIM];
        let mut later: Option<(f64, f64)> = None;
        for (i, sample) in shared.samples.iter().enumerate().rev() {
            if !sample.counts {
                continue;
            }
            let heat = self.wander.heat(&sample.heat);
            if let Some((t, warm)) = later {
                back(&mut l, &mut big, t - sample.t, &self.wander, warm - heat, used.clone());
            }
            later = Some((sample.t, heat));
            let slot = usize::from(sample.slot);
            for d in [1, 0] {
                let trace = &traces[i][d];
                let (tau, nu) = (self.sites[i].tau[d], self.sites[i].nu[d]);
                // the adjoint before the site
                let less = 1.0 / (1.0 + tau * trace.variance);
                let c = tau * less;
                let sign = if d == 0 { 1.0 } else { -1.0 };
                let b = HEAD + slot;
                let g = &trace.gain;
                let mut w: Vector = [0.0; DIM];
                let mut gl = 0.0;
                let mut gw = 0.0;
                for r in used.clone() {
                    let mut sum = 0.0;
                    for s in used.clone() {
                        sum += big[r][s] * g[s];
                    }
                    w[r] = sum;
                    gw += sum * g[r];
                    gl += l[r] * g[r];
                }
                let v = (nu - tau * trace.mean) * less - c * gl;
                l[OFFSET] += sign * v;
                l[b] += v;
                for j in used.clone() {
                    let x = c * w[j];
                    big[OFFSET][j] -= sign * x;
                    big[b][j] -= x;
                    big[j][OFFSET] -= sign * x;
                    big[j][b] -= x;
                }
                let k = c * c * gw + c;
                big[OFFSET][OFFSET] += k;
                big[OFFSET][b] += sign * k;
                big[b][OFFSET] += sign * k;
                big[b][b] += k;
                // the sum, by past and future: g'Λ⁻g and g'λ⁻ by the same rank-one algebra
                let s = trace.variance;
                let gl_before = gl + s * v;
                let gw_before = gw - 2.0 * c * gw * s + k * s * s;
                let mean = trace.mean + gl_before;
                let variance = s - gw_before;
                if !(variance > 0.0 && variance <= s * 1.001) {
                    continue;
                }
                let cavity = 1.0 / variance - tau;
                if cavity * s < 1e-6 {
                    continue;
                }
                let cavity_mean = (mean / variance - nu) / cavity;
                let queue = shared.queues[slot][d];
                let seen = see(cavity_mean, 1.0 / cavity, sample.most[d], queue);
                let fresh = (1.0 / seen.variance - cavity).max(0.0);
                let pull = if fresh > 0.0 {
                    seen.mean / seen.variance - cavity * cavity_mean
                } else {
                    (seen.mean - cavity_mean) * cavity
                };
                learn(slot, d, &seen, sample.most[d] - mean);
                if fresh.is_finite() && pull.is_finite() {
                    let site = &mut self.sites[i];
                    site.tau[d] += damping * (fresh - tau);
                    site.nu[d] += damping * (pull - nu);
                }
            }
        }
        self.forward(shared, None);
    }

    /// Lets the window's first sample go: what it said stays in the belief before.
    pub(super) fn shed(&mut self, shared: &Shared) {
        let sample = &shared.samples[0];
        if sample.counts {
            let used = self.wander.first()..shared.dim;
            self.before.predict(&sample.moment(), &self.wander, shared.dim, shared.base_walk);
            for d in 0..2 {
                let trace = self.before.sum(d, usize::from(sample.slot), used.clone());
                let Site { tau, nu } = *self.site(0);
                self.before.update(&trace, tau[d], nu[d], used.clone());
            }
        }
        self.first = (self.first + 1) % WINDOW;
    }

    /// A sample is taken out of the window.
    pub(super) fn remove(&mut self, i: usize) {
        self.straighten();
        self.sites.copy_within(i + 1.., i);
    }

    /// A base delay is known as well as this and not better.
    pub(super) fn set_base(&mut self, slot: usize, mean: f64, variance: f64) {
        for belief in [&mut self.before, &mut self.after] {
            let b = HEAD + slot;
            belief.mean[b] = mean;
            for j in 0..DIM {
                belief.cov[b][j] = 0.0;
                belief.cov[j][b] = 0.0;
            }
            belief.cov[b][b] = variance;
        }
    }

    /// A base delay last believed, and its variance.
    pub(super) fn base(&self, slot: usize) -> (f64, f64) {
        let b = HEAD + slot;
        (self.after.mean[b], self.after.cov[b][b].max(0.0))
    }

    /// Whether its numbers are still numbers.
    pub(super) fn sound(&self) -> bool {
        self.after.mean.iter().all(|v| v.is_finite())
            && (0..DIM).all(|i| self.after.cov[i][i].is_finite() && self.after.cov[i][i] >= -1e-15)
    }

    /// How much of the third number of the state is frequency, at this warmth.
    fn third(&self, warmth: &[f64; KINDS]) -> f64 {
        self.wander.thermal.map_or(1.0, |kind| warmth[kind])
    }

    /// The frequency last believed, at this warmth.
    pub(super) fn frequency(&self, warmth: &[f64; KINDS]) -> f64 {
        self.after.mean[FREQUENCY] + self.third(warmth) * self.after.mean[SWING]
    }

    /// Offset, frequency, rate at an instant, and the variances of the first two.
    pub(super) fn at(&self, to: &Moment, warmth: &[f64; KINDS]) -> ([f64; 3], [f64; 2]) {
        let mut belief = self.after;
        let back = (to.t - belief.t).min(0.0);
        if let Some(warm) = &self.warm {
            let there = WARM - self.wander.born;
            let first = Moment { t: to.t.min(there), ..*to };
            belief.predict(&first, &self.wander, HEAD, &[0.0; SLOTS]);
            belief.recall(warm, belief.t + self.wander.born);
        }
        belief.predict(to, &self.wander, HEAD, &[0.0; SLOTS]);
        let (m, p) = (&belief.mean, &belief.cov);
        let third = self.third(warmth);
        let f = m[FREQUENCY] + third * m[SWING];
        let variance =
            p[FREQUENCY][FREQUENCY] + third * (2.0 * p[FREQUENCY][SWING] + third * p[SWING][SWING]);
        let mut x = m[OFFSET];
        if back < 0.0 {
            x += if self.wander.thermal.is_some() {
                back * m[FREQUENCY] + (self.wander.heat(&to.heat) - belief.heat) * m[SWING]
            } else {
                back * f
            };
        }
        ([x, f, m[RATE]], [p[OFFSET][OFFSET].max(0.0), variance.max(0.0)])
    }

    /// What a sample said no longer counts.
    pub(super) fn unsay(&mut self, i: usize) {
        *self.site(i) = Site::default();
    }
}

/// The adjoint over a gap: λ ← Fᵀλ, Λ ← FᵀΛF.
fn back(
    l: &mut Vector,
    big: &mut Matrix,
    dt: f64,
    wander: &Wander,
    warmer: f64,
    used: Range<usize>,
) {
    if dt <= 0.0 {
        return;
    }
    if used.start == RATE {
        let moved = Moved::over(dt, wander);
        [l[0], l[1], l[2], l[3]] = moved.back([l[0], l[1], l[2], l[3]]);
        for j in used.clone() {
            [big[0][j], big[1][j], big[2][j], big[3][j]] =
                moved.back([big[0][j], big[1][j], big[2][j], big[3][j]]);
        }
        for row in &mut big[used] {
            [row[0], row[1], row[2], row[3]] = moved.back([row[0], row[1], row[2], row[3]]);
        }
        return;
    }
    l[FREQUENCY] += dt * l[OFFSET];
    for j in used.clone() {
        big[FREQUENCY][j] += dt * big[OFFSET][j];
    }
    for row in &mut big[used.clone()] {
        row[FREQUENCY] += dt * row[OFFSET];
    }
    if used.start == SWING {
        l[SWING] += warmer * l[OFFSET];
        for j in used.clone() {
            big[SWING][j] += warmer * big[OFFSET][j];
        }
        for row in &mut big[used] {
            row[SWING] += warmer * row[OFFSET];
        }
    }
}
