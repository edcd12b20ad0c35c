//! What one packet says of one sum: the moments of a Gaussian belief behind a soft edge.
//!
//! A packet that left needs the base delay and some queueing `q ≥ 0`. With `u` the sum of
//! offset and base delay, the measured `y = u + q + ε`: `q` exponential with mean λ, ε normal
//! with a small σ. Given a belief N(m, v) of `u` the posterior is a Gaussian tilted by
//! exp(u/λ) and cut off at `y`, softly. Its moments are in closed form (the exponentially
//! modified Gaussian), mixed with a wide flat density so that no packet is ever certain.

const SQRT_2: f64 = std::f64::consts::SQRT_2;
const SQRT_2_PI: f64 = 2.506_628_274_631_000_2;
const LOG_SQRT_2_PI: f64 = 0.918_938_533_204_672_7;

/// Log of the normal distribution function at `b`, and the ratio density / distribution.
fn tail(b: f64) -> (f64, f64) {
    if b > 6.0 {
        let density = libm::exp(-0.5 * b * b) / SQRT_2_PI;
        return (-density / b, density);
    }
    if b > -6.0 {
        let below = 0.5 * libm::erfc(-b / SQRT_2);
        return (libm::log(below), libm::exp(-0.5 * b * b) / SQRT_2_PI / below);
    }
    // Φ(−a) = φ(a)/a · (1 − 1/a² + 3/a⁴ − 15/a⁶ + …)
    let a2 = 1.0 / (b * b);
    let series = 1.0 - a2 * (1.0 - a2 * (3.0 - a2 * 15.0));
    (-0.5 * b * b - LOG_SQRT_2_PI - libm::log(-b / series), -b / series)
}

/// The queue of one direction of one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    /// Mean of the exponential, seconds.
    pub mean: f64,
    /// Variance of the soft edge, s².
    pub soft: f64,
    /// Share of packets that are from elsewhere …
    pub stray: f64,
    /// … and how widely (seconds) they are scattered.
    pub wide: f64,
}

/// A belief seen through one packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Log of how probable the packet was.
    pub log_evidence: f64,
    /// Mean of the sum afterwards.
    pub mean: f64,
    /// Its variance.
    pub variance: f64,
    /// Probability that the packet belongs to this queue at all.
    pub belongs: f64,
    /// If it does: how long it queued (mean), and the mean square of the soft edge's noise.
    pub queued: f64,
    pub noise: f64,
    /// How far above the believed sum it was measured: negative breaks the edge.
    pub above: f64,
}

impl Seen {
    /// The edge is broken: faster than the base delay allows.
    pub(super) fn breaks(&self) -> bool {
        self.belongs < 0.1 && self.above < 0.0
    }
}

/// The belief N(`m`, `v`) of a sum after a packet measured `y`.
pub(super) fn see(m: f64, v: f64, y: f64, queue: Queue) -> Seen {
    let rate = 1.0 / queue.mean;
    let wide = v + queue.soft;
    let root = wide.sqrt();
    let tilted = m + wide * rate;
    let b = (y - tilted) / root;
    let (log_phi, ratio) = tail(b);
    let log_in =
        (m - y) * rate + 0.5 * wide * rate * rate + log_phi + libm::log(rate * (1.0 - queue.stray));
    let log_out = libm::log(queue.stray / queue.wide);
    let top = log_in.max(log_out);
    let (inside, outside) = (libm::exp(log_in - top), libm::exp(log_out - top));
    let belongs = inside / (inside + outside);
    let gain = v / wide;
    let mean_in = m + gain * (tilted - root * ratio - m);
    let shrink = (ratio * (ratio + b)).clamp(0.0, 1.0);
    let variance_in = v - gain * gain * wide * shrink;
    let soft = queue.soft / wide;
    let seen_in = tilted - root * ratio;
    let bent = soft * (seen_in - m);
    let noise = queue.soft * (1.0 - soft * shrink) + bent * bent;
    let mean = m + belongs * (mean_in - m);
    let variance = belongs * (variance_in + (mean_in - mean) * (mean_in - mean))
        + (1.0 - belongs) * (v + (m - mean) * (m - mean));
    Seen {
        log_evidence: top + libm::log(inside + outside),
        mean,
        variance,
        belongs,
        queued: y - seen_in,
        noise,
        above: y - m,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_sum(m: f64, v: f64, y: f64, queue: Queue) -> (f64, f64, f64) {
        let sd = v.sqrt();
        let (mut zero, mut one, mut two) = (0.0, 0.0, 0.0);
        let mut u = m - 9.0 * sd;
        while u < m + 9.0 * sd {
            let soft = queue.soft.sqrt();
            let b = (y - u - queue.soft / queue.mean) / soft;
            let inside =
                libm::exp((u - y) / queue.mean + 0.5 * queue.soft / queue.mean / queue.mean)
                    * 0.5
                    * libm::erfc(-b / SQRT_2)
                    / queue.mean;
            let p = ((1.0 - queue.stray) * inside + queue.stray / queue.wide)
                * libm::exp(-0.5 * (u - m) * (u - m) / v)
                / (SQRT_2_PI * sd);
            zero += p;
            one += p * u;
            two += p * u * u;
            u += sd / 500.0;
        }
        let mean = one / zero;
        (libm::log(zero * sd / 500.0), mean, two / zero - mean * mean)
    }

    #[test]
    fn the_moments_are_those_of_the_integral() {
        for (m, v, y, mean, soft) in [
            (0.0, 1.0, 0.5, 1.0, 0.01),
            (0.0, 1.0, -3.0, 2.0, 0.01),
            (0.2, 0.04, 5.0, 1.0, 0.01),
            (0.0, 4.0, -1.0, 0.5, 0.25),
            (0.0, 0.01, -4.0, 1.0, 0.01),
        ] {
            let queue = Queue { mean, soft, stray: 0.02, wide: 50.0 * mean };
            let seen = see(m, v, y, queue);
            let (log_evidence, by_mean, by_variance) = by_sum(m, v, y, queue);
            assert!((seen.log_evidence - log_evidence).abs() < 1e-3, "{seen:?} {log_evidence}");
            assert!((seen.mean - by_mean).abs() < 1e-3 * v.sqrt(), "{seen:?} {by_mean}");
            assert!((seen.variance / by_variance - 1.0).abs() < 3e-3, "{seen:?} {by_variance}");
        }
    }

    #[test]
    fn nothing_absurd_gives_nan() {
        for y in [0.0, 1e-12, -1e-12, 1e9, -1e9] {
            for v in [1e-18, 1.0, 1e12] {
                for mean in [1e-7, 1.0] {
                    let seen =
                        see(0.0, v, y, Queue { mean, soft: 1e-12, stray: 0.02, wide: 50.0 * mean });
                    assert!(
                        seen.mean.is_finite() && seen.variance > -1e-30,
                        "{y} {v} {mean} {seen:?}"
                    );
                }
            }
        }
    }
}
