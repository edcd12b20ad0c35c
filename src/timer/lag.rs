//! How much longer SHOT frames take than START frames (30-50 ms measured, cause unknown).
//!
//! Learned per timer as a density over strings; until then a start says little of the beep.
use super::posterior::{CHANCES, Cells, MOST_RETRIES};

/// The least lag looked at, ms.
pub const LEAST_MS: f64 = -20.0;
/// The largest lag looked at, ms.
pub const MOST_MS: f64 = 110.0;
const CELLS: usize = (MOST_MS - LEAST_MS) as usize + 1;
/// Chance per string that what was learned holds no longer.
const FORGOTTEN: f64 = 0.003;
/// Likelihood of a start that does not go with the shots.
const UNFIT: f64 = 1e-4;

/// The lag's density on cells of 1 ms.
#[derive(Clone, Debug, PartialEq)]
pub struct Lag {
    density: Vec<f64>,
    /// Chance of a lag below each cell and, the last, of any.
    below: Vec<f32>,
    strings: u32,
}

impl Default for Lag {
    fn default() -> Self {
        let density = vec![1.0 / CELLS as f64; CELLS];
        let mut lag = Self { density, below: vec![0.0; CELLS + 1], strings: 0 };
        lag.normalise();
        lag
    }
}

impl Lag {
    /// A lag learned before or measured, ms ± its sd, from so many strings.
    #[must_use]
    pub fn known(mean_ms: f64, sd_ms: f64, strings: u32) -> Self {
        let sd = sd_ms.max(0.5);
        let mut lag = Self { strings, ..Self::default() };
        for (i, p) in lag.density.iter_mut().enumerate() {
            let z = (LEAST_MS + i as f64 - mean_ms) / sd;
            *p = libm::exp(-0.5 * z * z) + 1e-9;
        }
        lag.normalise();
        lag
    }

    /// Mean and sd, ms.
    #[must_use]
    pub fn mean_sd(&self) -> (f64, f64) {
        let (mut mean, mut square) = (0.0, 0.0);
        for (i, p) in self.density.iter().enumerate() {
            let at = LEAST_MS + i as f64;
            mean += at * p;
            square += at * at * p;
        }
        (mean, (square - mean * mean).max(0.0).sqrt())
    }

    /// Strings it was learned from.
    #[must_use]
    pub fn strings(&self) -> u32 {
        self.strings
    }

    /// Chance that the lag is below `from_ms`, below a step less, and so on.
    pub(super) fn below(&self, from_ms: f64, step_ms: f64) -> impl Iterator<Item = f32> {
        // Each cell is as wide as it stands for: half a millisecond to either side.
        let from = from_ms - LEAST_MS + 0.5;
        (0..).map(move |k| {
            let place = from - f64::from(k) * step_ms;
            if place <= 0.0 {
                return 0.0;
            }
            let cell = place as i32;
            let Some([below, up_to]) = self.below.get(cell as usize..cell as usize + 2) else {
                return 1.0;
            };
            below + (up_to - below) * (place - f64::from(cell)) as f32
        })
    }

    /// One string's word: where the beep was by its shots, when its start frame arrived (ms),
    /// and the interval in force.
    pub(super) fn learn(&mut self, shots: &Cells, start: f64, interval: f64) {
        // A start with no retry fits within the interval, softened by half a millisecond; what fits
        // changes with the waits only there and at each event.
        let mut steps = [(0.0, 0.0); MOST_RETRIES + 2];
        let mut before = UNFIT;
        for (m, step) in steps.iter_mut().enumerate() {
            let fits = CHANCES.get(m).map_or(UNFIT, |chance| chance.max(UNFIT));
            *step = (if m == 0 { -0.5 } else { m as f64 * interval }, fits - before);
            before = fits;
        }
        let shots = shots.tail();
        for (i, density) in self.density.iter_mut().enumerate() {
            let lag = LEAST_MS + i as f64;
            // Longer waits are earlier beeps.
            let more = |(wait, more): &(f64, f64)| more * shots.before(start + lag - wait);
            *density *= UNFIT * shots.all() + steps.iter().map(more).sum::<f64>();
        }
        self.normalise();
        // It may wander a little, or a setting may have changed it.
        let old = self.density.clone();
        for i in 0..CELLS {
            let (left, right) = (old[i.saturating_sub(1)], old[(i + 1).min(CELLS - 1)]);
            let spread = 0.98 * old[i] + 0.01 * (left + right);
            self.density[i] = (1.0 - FORGOTTEN) * spread + FORGOTTEN / CELLS as f64;
        }
        self.normalise();
        self.strings = self.strings.saturating_add(1);
    }

    fn normalise(&mut self) {
        let total: f64 = self.density.iter().sum();
        if total.is_nan() || total <= 0.0 {
            *self = Self { strings: self.strings, ..Self::default() };
            return;
        }
        let mut below = 0.0;
        for (p, b) in self.density.iter_mut().zip(&mut self.below[1..]) {
            *p /= total;
            below += *p;
            *b = below as f32;
        }
    }
}
