//! The bound of a mixture of normal distributions: what all members together leave outside.

/// Half-width of 95 % of a normal distribution, in standard deviations.
pub(super) const COVER: f64 = 1.96;
/// Of a normal distribution at [`COVER`]: d ln(outside) / d(half-width²), times its variance. With φ the
/// density, −2 φ(1.96) / 0.05 / (2 · 1.96).
const SLOPE: f64 = -0.596;
/// A rarer member is left out; ten of them would be a fiftieth of the 5 %.
const RARE: f64 = 1e-4;

/// Makes shares of weights: in all 1, and 0 for whoever has next to none.
pub(super) fn leave_out_the_rare(weights: &mut [f64]) {
    let total: f64 = weights.iter().sum();
    for weight in &mut *weights {
        if *weight <= RARE * total {
            *weight = 0.0;
        }
    }
    let total: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
}

/// The share of a mixture (share, mean, standard deviation) that is farther than `half` from `centre`.
fn outside(parts: &[(f64, f64, f64)], centre: f64, half: f64) -> f64 {
    parts
        .iter()
        .filter(|p| p.0 > 0.0)
        .map(|&(share, mean, sd)| {
            let scale = std::f64::consts::FRAC_1_SQRT_2 / sd.max(1e-15);
            let off = mean - centre;
            share * 0.5 * (libm::erfc((half - off) * scale) + libm::erfc((half + off) * scale))
        })
        .sum()
}

/// Half-width around `centre` that holds 95 % of a mixture of normal distributions (share, mean,
/// standard deviation), to a few parts in a thousand.
///
/// The log of what is outside is nearly straight in the square of the half-width: secants within a
/// bracket find it, and for one normal distribution they begin where they end. Where the mixture leaves
/// a gap or a cliff, the bracket is cut in half now and then.
pub(super) fn within(parts: &[(f64, f64, f64)], centre: f64) -> f64 {
    let variance: f64 = parts
        .iter()
        .filter(|p| p.0 > 0.0)
        .map(|&(share, mean, sd)| share * (sd * sd + (mean - centre).powi(2)))
        .sum();
    if !(variance > 0.0 && variance.is_finite()) {
        return variance.max(0.0).sqrt();
    }
    let (mut low, mut high) = (0.0, f64::INFINITY);
    let mut square = COVER * COVER * variance;
    let mut slope = SLOPE / variance;
    let mut last: Option<(f64, f64)> = None;
    for look in 1..64 {
        let excess = libm::log(outside(parts, centre, square.sqrt()).max(1e-300) / 0.05);
        if excess.abs() < 0.01 {
            break;
        }
        let end = if excess > 0.0 { &mut low } else { &mut high };
        *end = square;
        if high < 1.002 * low {
            // A cliff: everything beyond is inside its far end.
            return high.sqrt();
        }
        if let Some((before, then)) = last {
            let straight = (excess - then) / (square - before);
            if straight < 0.0 {
                slope = straight;
            }
        }
        last = Some((square, excess));
        let next = square - excess / slope;
        square = if next > low && next < high && look % 4 != 0 {
            next
        } else if high.is_finite() {
            if low > 0.0 { (low * high).sqrt() } else { high / 2.0 }
        } else {
            4.0 * square
        };
    }
    square.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_a_mixture_leaves_five_percent_outside() {
        let mixtures: [&[(f64, f64, f64)]; 6] = [
            &[(1.0, 0.0, 1e-6)],
            &[(0.5, -1e-6, 1e-6), (0.5, 1e-6, 1e-6)],
            &[(0.9, 0.0, 1e-6), (0.1, 0.0, 3e-5)],
            &[(0.97, 0.0, 1e-9), (0.03, 0.0, 1e-3)],
            &[(0.6, 0.0, 1e-9), (0.4, 1e-3, 1e-9)],
            &[(0.2, 0.0, 1.0), (0.2, 1.0, 2.0), (0.2, -3.0, 0.1), (0.4, 0.5, 5.0)],
        ];
        for parts in mixtures {
            let centre = parts.iter().map(|p| p.0 * p.1).sum::<f64>();
            let half = within(parts, centre);
            let (more, less) =
                (outside(parts, centre, 0.99 * half), outside(parts, centre, 1.01 * half));
            assert!(more > 0.05 && less < 0.05, "{parts:?}: {half} leaves {more} to {less}");
        }
    }

    #[test]
    fn what_is_next_to_impossible_has_no_share_and_the_rest_is_all() {
        let mut shares = [3.0, 1.0, 3e-4, 5e-4, 0.0];
        leave_out_the_rare(&mut shares);
        assert_eq!((shares[2], shares[4]), (0.0, 0.0));
        assert!(shares[3] > 1e-4, "{shares:?}");
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{shares:?}");
        assert!((shares[0] - 3.0 * shares[1]).abs() < 1e-12, "{shares:?}");
    }

    #[test]
    fn of_one_normal_distribution_it_is_1_96_standard_deviations() {
        let half = within(&[(1.0, 3.0, 2.0)], 3.0);
        assert!((half / 2.0 - 1.96).abs() < 0.01, "{half}");
        assert!(within(&[(1.0, 0.0, 0.0)], 0.0).abs() < 1e-300);
    }
}
