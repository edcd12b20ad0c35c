//! One member of the bank: one idea of how the crystal wanders, and what the window of
//! samples means under it.
//!
//! State: offset x, frequency f, its rate r (momentum; zero for plain random walks), and the
//! base delay of each server. Every packet is a Gaussian *site* on x + B (outward) or −x + B
//! (homeward). Sites are found by expectation propagation: a forward Kalman pass, a backward
//! pass of the adjoint (modified Bryson-Frazier: no matrix is inverted), each site's cavity
//! seen through its packet, again.
use super::site::{Queue, Seen, see};

/// Servers that are estimated together.
pub(super) const SLOTS: usize = 8;
/// Offset, frequency, rate, base delays.
pub(super) const DIM: usize = 3 + SLOTS;
/// Samples that are looked at again.
pub(super) const WINDOW: usize = 128;

pub(super) type Vector = [f64; DIM];
pub(super) type Matrix = [[f64; DIM]; DIM];

/// How a crystal's frequency may wander.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wander {
    /// Random walk, per √s.
    pub walk: f64,
    /// Momentum: standard deviation of the frequency's rate (1/s) …
    pub rate: f64,
    /// … and how long it lasts, seconds.
    pub lasts: f64,
}

/// A sample as the members see it: seconds from the origin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seconds {
    /// When.
    pub t: f64,
    /// What x + B and −x + B are at most.
    pub most: [f64; 2],
    /// Whose.
    pub slot: u8,
    /// It counts.
    pub counts: bool,
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
        Self { t: 0.0, mean: [0.0; DIM], cov: [[0.0; DIM]; DIM] }
    }

    /// Goes on by `dt` seconds; `base_walk` is the variance each base delay gains per second.
    pub(super) fn predict(
        &mut self,
        to: f64,
        wander: &Wander,
        dim: usize,
        base_walk: &[f64; SLOTS],
    ) {
        let dt = to - self.t;
        if dt <= 0.0 {
            return;
        }
        self.t = to;
        let moved = Moved::over(dt, wander);
        let Moved { f_from_r, x_from_r, r_stays, .. } = moved;
        let m = &mut self.mean;
        m[0] += dt * m[1] + x_from_r * m[2];
        m[1] += f_from_r * m[2];
        m[2] *= r_stays;
        let p = &mut self.cov;
        for j in 0..dim {
            p[0][j] += dt * p[1][j] + x_from_r * p[2][j];
            p[1][j] += f_from_r * p[2][j];
            p[2][j] *= r_stays;
        }
        for row in p.iter_mut().take(dim) {
            row[0] += dt * row[1] + x_from_r * row[2];
            row[1] += f_from_r * row[2];
            row[2] *= r_stays;
        }
        for i in 0..3 {
            for j in 0..3 {
                p[i][j] += moved.noise[i][j];
            }
        }
        for s in 3..dim {
            p[s][s] += base_walk[s - 3] * dt;
        }
    }

    /// The sum x + B or −x + B: P·h, mean and variance.
    fn sum(&self, direction: usize, slot: usize, dim: usize) -> Trace {
        let sign = if direction == 0 { 1.0 } else { -1.0 };
        let b = 3 + slot;
        let mut trace = Trace::NONE;
        for j in 0..dim {
            trace.gain[j] = sign * self.cov[0][j] + self.cov[b][j];
        }
        trace.mean = sign * self.mean[0] + self.mean[b];
        trace.variance = sign * trace.gain[0] + trace.gain[b];
        trace
    }

    /// Takes up a site.
    fn update(&mut self, trace: &Trace, tau: f64, nu: f64, dim: usize) {
        let less = 1.0 / (1.0 + tau * trace.variance);
        let c = tau * less;
        let v = (nu - tau * trace.mean) * less;
        let g = &trace.gain;
        for i in 0..dim {
            self.mean[i] += g[i] * v;
            let ci = c * g[i];
            for j in 0..dim {
                self.cov[i][j] -= ci * g[j];
            }
        }
    }
}

/// What passes in `dt` seconds of an integrated Ornstein-Uhlenbeck process plus a random walk.
struct Moved {
    f_from_r: f64,
    x_from_r: f64,
    r_stays: f64,
    noise: [[f64; 3]; 3],
}

/// White noise of the phase, s²/s: far below anything the network shows.
const PHASE: f64 = 1e-20;

impl Moved {
    fn over(dt: f64, wander: &Wander) -> Self {
        let q = wander.walk * wander.walk;
        let (d2, d3) = (dt * dt, dt * dt * dt);
        let mut noise = [[0.0; 3]; 3];
        noise[0][0] = q * d3 / 3.0 + PHASE * dt;
        noise[0][1] = q * d2 / 2.0;
        noise[1][1] = q * dt;
        if wander.rate == 0.0 {
            noise[1][0] = noise[0][1];
            return Self { f_from_r: 0.0, x_from_r: 0.0, r_stays: 0.0, noise };
        }
        let (t, var) = (wander.lasts, wander.rate * wander.rate);
        let a = dt / t;
        let e = libm::exp(-a);
        if a < 0.05 {
            let k = 2.0 * var / t;
            noise[2][2] = k * dt;
            noise[1][2] = k * d2 / 2.0;
            noise[1][1] += k * d3 / 3.0;
            noise[0][2] = k * d3 / 6.0;
            noise[0][1] += k * d2 * d2 / 8.0;
            noise[0][0] += k * d2 * d3 / 20.0;
        } else {
            let (u, w) = (1.0 - e, 1.0 - e * e);
            let b = a - u;
            noise[2][2] = var * w;
            noise[1][2] = var * t * u * u;
            noise[1][1] += var * t * t * (2.0 * b - u * u);
            noise[0][2] = var * t * t * (w - 2.0 * a * e);
            noise[0][1] += var * t * t * t * b * b;
            let a1 = a - 1.0;
            noise[0][0] +=
                2.0 * var * t * t * t * t * ((a1 * a1 * a1 + 1.0) / 3.0 - 2.0 * a * e + w / 2.0);
        }
        noise[1][0] = noise[0][1];
        noise[2][0] = noise[0][2];
        noise[2][1] = noise[1][2];
        Self { f_from_r: t * (1.0 - e), x_from_r: t * (dt - t * (1.0 - e)), r_stays: e, noise }
    }
}

/// One member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub wander: Wander,
    /// Belief just before the window's first sample.
    pub before: Belief,
    /// Belief after its last.
    pub after: Belief,
    pub sites: [Site; WINDOW],
    /// Log weight by past predictions.
    pub weight: f64,
}

/// What the bank shares in a pass.
pub(super) struct Shared<'a> {
    pub samples: &'a [Seconds],
    pub queues: &'a Queues,
    pub base_walk: &'a [f64; SLOTS],
    pub dim: usize,
}

impl Member {
    pub(super) const fn new(wander: Wander) -> Self {
        Self {
            wander,
            before: Belief::nothing(),
            after: Belief::nothing(),
            sites: [Site { tau: [0.0; 2], nu: [0.0; 2] }; WINDOW],
            weight: 0.0,
        }
    }

    /// Takes up the newest sample by what was believed before it, and says how it was seen.
    pub(super) fn append(&mut self, shared: &Shared) -> [Seen; 2] {
        let n = shared.samples.len() - 1;
        let sample = &shared.samples[n];
        let slot = usize::from(sample.slot);
        self.after.predict(sample.t, &self.wander, shared.dim, shared.base_walk);
        let mut site = Site::default();
        let seen = [0, 1].map(|d| {
            let trace = self.after.sum(d, slot, shared.dim);
            let seen = see(trace.mean, trace.variance, sample.most[d], shared.queues[slot][d]);
            let tau = (1.0 / seen.variance - 1.0 / trace.variance).max(0.0);
            let nu = if tau > 0.0 {
                seen.mean / seen.variance - trace.mean / trace.variance
            } else {
                (seen.mean - trace.mean) / trace.variance
            };
            (site.tau[d], site.nu[d]) = (tau, nu);
            self.after.update(&trace, tau, nu, shared.dim);
            seen
        });
        self.sites[n] = site;
        seen
    }

    /// The belief after the whole window, from the sites as they are.
    pub(super) fn forward(&mut self, shared: &Shared, mut traces: Option<&mut [[Trace; 2]]>) {
        let mut belief = self.before;
        for (i, sample) in shared.samples.iter().enumerate() {
            if !sample.counts {
                continue;
            }
            belief.predict(sample.t, &self.wander, shared.dim, shared.base_walk);
            for d in 0..2 {
                let trace = belief.sum(d, usize::from(sample.slot), shared.dim);
                belief.update(&trace, self.sites[i].tau[d], self.sites[i].nu[d], shared.dim);
                if let Some(traces) = traces.as_deref_mut() {
                    traces[i][d] = trace;
                }
            }
        }
        self.after = belief;
    }

    /// Looks at every packet of the window again, in the light of all others. `learn` hears of
    /// each packet's slot, direction, queueing (mean) and probability of belonging.
    pub(super) fn sweep(
        &mut self,
        shared: &Shared,
        traces: &mut [[Trace; 2]],
        damping: f64,
        mut learn: impl FnMut(usize, usize, f64, f64),
    ) {
        self.forward(shared, Some(traces));
        let dim = shared.dim;
        let mut l: Vector = [0.0; DIM];
        let mut big: Matrix = [[0.0; DIM]; DIM];
        let mut later: Option<f64> = None;
        for (i, sample) in shared.samples.iter().enumerate().rev() {
            if !sample.counts {
                continue;
            }
            if let Some(later) = later {
                back(&mut l, &mut big, later - sample.t, &self.wander, dim);
            }
            later = Some(sample.t);
            let slot = usize::from(sample.slot);
            for d in [1, 0] {
                let trace = &traces[i][d];
                let (tau, nu) = (self.sites[i].tau[d], self.sites[i].nu[d]);
                // the adjoint before the site
                let less = 1.0 / (1.0 + tau * trace.variance);
                let c = tau * less;
                let sign = if d == 0 { 1.0 } else { -1.0 };
                let b = 3 + slot;
                let g = &trace.gain;
                let mut w: Vector = [0.0; DIM];
                let mut gl = 0.0;
                let mut gw = 0.0;
                for r in 0..dim {
                    let mut sum = 0.0;
                    for s in 0..dim {
                        sum += big[r][s] * g[s];
                    }
                    w[r] = sum;
                    gw += sum * g[r];
                    gl += l[r] * g[r];
                }
                let v = (nu - tau * trace.mean) * less - c * gl;
                l[0] += sign * v;
                l[b] += v;
                for j in 0..dim {
                    let x = c * w[j];
                    big[0][j] -= sign * x;
                    big[b][j] -= x;
                    big[j][0] -= sign * x;
                    big[j][b] -= x;
                }
                let k = c * c * gw + c;
                big[0][0] += k;
                big[0][b] += sign * k;
                big[b][0] += sign * k;
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
                learn(slot, d, sample.most[d] - seen.mean, seen.belongs);
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
            self.before.predict(sample.t, &self.wander, shared.dim, shared.base_walk);
            for d in 0..2 {
                let trace = self.before.sum(d, usize::from(sample.slot), shared.dim);
                let site = &self.sites[0];
                self.before.update(&trace, site.tau[d], site.nu[d], shared.dim);
            }
        }
        self.sites.copy_within(1.., 0);
    }

    /// A sample is taken out of the window.
    pub(super) fn remove(&mut self, i: usize) {
        self.sites.copy_within(i + 1.., i);
    }

    /// A base delay is known as well as this and not better.
    pub(super) fn set_base(&mut self, slot: usize, mean: f64, variance: f64) {
        for belief in [&mut self.before, &mut self.after] {
            let b = 3 + slot;
            belief.mean[b] = mean;
            for j in 0..DIM {
                belief.cov[b][j] = 0.0;
                belief.cov[j][b] = 0.0;
            }
            belief.cov[b][b] = variance;
        }
    }

    /// Offset, frequency, rate at `t`, and the variances of the first two.
    pub(super) fn at(&self, t: f64) -> ([f64; 3], [f64; 2]) {
        let mut belief = self.after;
        let back = (t - belief.t).min(0.0);
        belief.predict(t, &self.wander, 3, &[0.0; SLOTS]);
        let m = &belief.mean;
        ([m[0] + back * m[1], m[1], m[2]], [belief.cov[0][0].max(0.0), belief.cov[1][1].max(0.0)])
    }

    /// What a sample said no longer counts.
    pub(super) fn unsay(&mut self, i: usize) {
        self.sites[i] = Site::default();
    }
}

/// The adjoint over a gap: λ ← Fᵀλ, Λ ← FᵀΛF.
fn back(l: &mut Vector, big: &mut Matrix, dt: f64, wander: &Wander, dim: usize) {
    let (f_from_r, x_from_r, r_stays) = if wander.rate == 0.0 {
        (0.0, 0.0, 0.0)
    } else {
        let e = libm::exp(-dt / wander.lasts);
        let f = wander.lasts * (1.0 - e);
        (f, wander.lasts * (dt - f), e)
    };
    l[2] = r_stays * l[2] + x_from_r * l[0] + f_from_r * l[1];
    l[1] += dt * l[0];
    for j in 0..dim {
        big[2][j] = r_stays * big[2][j] + x_from_r * big[0][j] + f_from_r * big[1][j];
        big[1][j] += dt * big[0][j];
    }
    for row in big.iter_mut().take(dim) {
        row[2] = r_stays * row[2] + x_from_r * row[0] + f_from_r * row[1];
        row[1] += dt * row[0];
    }
}
