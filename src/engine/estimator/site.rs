//! What one packet says of one sum: the moments of a Gaussian belief behind a soft edge.
//!
//! A packet that left needs the base delay and some queueing `q ≥ 0`. With `u` the sum of
//! offset and base delay, the measured `y = u + q + ε`: `q` exponential with mean λ, ε normal
//! with a small σ. Given a belief N(m, v) of `u` the posterior is a Gaussian tilted by
//! exp(u/λ) and cut off at `y`, softly. Its moments are in closed form (the exponentially
//! modified Gaussian), mixed with a wide flat density so that no packet is ever certain.

const FRAC_1_SQRT_2: f64 = std::f64::consts::FRAC_1_SQRT_2;
const SQRT_2_PI: f64 = 2.506_628_274_631_000_2;

/// (1 + 2x)·erfcx(x) in powers of t = (x − 3.75) / (x + 3.75): a Chebyshev series of degree 18, cut
/// where it ends below 10⁻¹³ (the form is that of Shepherd and Laframboise 1981, Math. Comp. 36).
const SCALED: [f64; 19] = [
    1.237_512_630_837_792_8,
    -0.140_240_598_584_888_1,
    0.003_585_415_492_477_342,
    0.082_276_738_450_044_59,
    -0.108_803_930_375_507_9,
    0.092_304_321_878_895_33,
    -0.058_693_395_559_537_745,
    0.028_362_271_537_059_794,
    -0.009_746_599_577_810_707,
    0.001_755_652_132_998_738_9,
    2.937_900_613_190_643e-4,
    -2.902_238_847_835_669e-4,
    5.147_003_496_830_395_5e-5,
    2.249_861_343_609_145e-5,
    -1.118_032_387_060_444_1e-5,
    -1.089_345_635_314_057e-6,
    1.509_503_934_676_562_5e-6,
    1.275_059_801_016_064_2e-8,
    -1.265_460_412_210_667_8e-7,
];

/// exp(x²)·erfc(x) for x ≥ 0, to 10⁻¹³: two divisions and a polynomial, where a library's erfc and
/// logarithms took most of a sample's time.
fn scaled_erfc(x: f64) -> f64 {
    let t = (x - 3.75) / (x + 3.75);
    let (t2, c) = (t * t, &SCALED);
    let (t4, pair) = (t2 * t2, |i: usize| c[i] + t * c[i + 1]);
    let four = |i: usize| pair(i) + t2 * pair(i + 2);
    let t8 = t4 * t4;
    let sum = (four(0) + t4 * four(4)) + t8 * (four(8) + t4 * four(12));
    (sum + t8 * t8 * (pair(16) + t2 * c[18])) / (1.0 + 2.0 * x)
}

/// The queue of one direction of one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    /// Of the exponential, 1/s: one over its mean.
    rate: f64,
    /// Variance of the soft edge, s².
    soft: f64,
    /// Density of packets that are this queue's at its edge, and of those from elsewhere, 1/s.
    own: f64,
    strays: f64,
}

impl Queue {
    /// With this mean (s), variance of the soft edge (s²), and share of packets that are from
    /// elsewhere, scattered so widely (s).
    pub(super) fn new(mean: f64, soft: f64, stray: f64, wide: f64) -> Self {
        Self { rate: 1.0 / mean, soft, own: (1.0 - stray) / mean, strays: stray / wide }
    }
}

/// A belief seen through one packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// How probable the packet was, 1/s; above zero.
    pub evidence: f64,
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
///
/// With s² = v + σ², z = (y − m)/s and b = z − s/λ the packet's density is exp(−z²/2 + b²/2)·Φ(b)/λ,
/// and that without logarithms: exp(b²/2)·Φ(b) is half the scaled erfc of −b/√2 where b < 0.
pub(super) fn see(m: f64, v: f64, y: f64, queue: Queue) -> Seen {
    let wide = v + queue.soft;
    let root = wide.sqrt();
    let tilt = root * queue.rate;
    let z = (y - m) / root;
    let b = z - tilt;
    // the density; φ(b)/Φ(b); and how much the cut takes of a variance
    let (inside, ratio, shrink) = if b < -30.0 {
        // Φ(−a) = φ(a)/a · (1 − 1/a² + 3/a⁴ − …)
        let a2 = 1.0 / (b * b);
        let below = (1.0 - a2 * (1.0 - 3.0 * a2)) / -b;
        (libm::exp(-0.5 * z * z) / SQRT_2_PI * below, 1.0 / below, 1.0 - a2 * (1.0 - 6.0 * a2))
    } else if b < 0.0 {
        let half = 0.5 * scaled_erfc(-b * FRAC_1_SQRT_2);
        let ratio = 1.0 / (SQRT_2_PI * half);
        (libm::exp(-0.5 * z * z) * half, ratio, ratio * (ratio + b))
    } else {
        let bell = if b < 9.0 { libm::exp(-0.5 * b * b) } else { 0.0 };
        let below = 1.0 - 0.5 * bell * scaled_erfc(b * FRAC_1_SQRT_2);
        let ratio = bell / (SQRT_2_PI * below);
        (libm::exp((0.5 * tilt - z) * tilt) * below, ratio, ratio * (ratio + b))
    };
    let evidence = inside * queue.own + queue.strays;
    let belongs = inside * queue.own / evidence;
    let shrink = shrink.clamp(0.0, 1.0);
    let gain = v / wide;
    // where the sum with its soft edge is seen, if the packet is this queue's
    let seen_in = m + root * (tilt - ratio);
    let mean_in = m + gain * (seen_in - m);
    let variance_in = v - gain * gain * wide * shrink;
    let soft = queue.soft / wide;
    let bent = soft * (seen_in - m);
    let noise = queue.soft * (1.0 - soft * shrink) + bent * bent;
    let mean = m + belongs * (mean_in - m);
    let variance = belongs * (variance_in + (mean_in - mean) * (mean_in - mean))
        + (1.0 - belongs) * (v + (m - mean) * (m - mean));
    Seen { evidence, mean, variance, belongs, queued: y - seen_in, noise, above: y - m }
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
            let b = (y - u - queue.soft * queue.rate) / soft;
            let inside =
                libm::exp((u - y) * queue.rate + 0.5 * queue.soft * queue.rate * queue.rate)
                    * 0.5
                    * libm::erfc(-b * FRAC_1_SQRT_2);
            let p = (queue.own * inside + queue.strays) * libm::exp(-0.5 * (u - m) * (u - m) / v)
                / (SQRT_2_PI * sd);
            zero += p;
            one += p * u;
            two += p * u * u;
            u += sd / 500.0;
        }
        let mean = one / zero;
        (zero * sd / 500.0, mean, two / zero - mean * mean)
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
            let queue = Queue::new(mean, soft, 0.02, 50.0 * mean);
            let seen = see(m, v, y, queue);
            let (evidence, by_mean, by_variance) = by_sum(m, v, y, queue);
            assert!((seen.evidence / evidence - 1.0).abs() < 1e-3, "{seen:?} {evidence}");
            assert!((seen.mean - by_mean).abs() < 1e-3 * v.sqrt(), "{seen:?} {by_mean}");
            assert!((seen.variance / by_variance - 1.0).abs() < 3e-3, "{seen:?} {by_variance}");
        }
    }

    #[test]
    fn the_scaled_error_function_is_the_library_s() {
        for n in 0..2_400 {
            let x = 0.01 * f64::from(n);
            let by_library = libm::exp(x * x) * libm::erfc(x);
            assert!((scaled_erfc(x) / by_library - 1.0).abs() < 5e-13, "{x}");
        }
        assert!((scaled_erfc(1e4) * 1e4 * std::f64::consts::PI.sqrt() - 1.0).abs() < 1e-8);
    }

    #[test]
    fn what_is_seen_has_no_cliff_where_another_formula_begins() {
        let queue = Queue::new(1.0, 0.01, 0.02, 50.0);
        let by_edge = |b: f64, v: f64| {
            let root = (v + 0.01_f64).sqrt();
            see(0.0, v, (b + root) * root, queue)
        };
        for at in [-30.0, 0.0, 9.0] {
            for v in [0.01, 1.0, 100.0] {
                let (a, b) = (by_edge(at - 1e-9, v), by_edge(at + 1e-9, v));
                for (a, b) in [
                    (a.evidence, b.evidence),
                    (a.mean, b.mean),
                    (a.variance, b.variance),
                    (a.noise, b.noise),
                    (a.belongs, b.belongs),
                ] {
                    assert!((a - b).abs() <= 1e-5 * a.abs() + 1e-12, "{at} {v}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn nothing_absurd_gives_nan() {
        for y in [0.0, 1e-12, -1e-12, 1e9, -1e9] {
            for v in [1e-18, 1.0, 1e12] {
                for mean in [1e-7, 1.0] {
                    let seen = see(0.0, v, y, Queue::new(mean, 1e-12, 0.02, 50.0 * mean));
                    assert!(
                        seen.mean.is_finite() && seen.variance > -1e-30,
                        "{y} {v} {mean} {seen:?}"
                    );
                }
            }
        }
    }
}
