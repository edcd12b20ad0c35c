//! How much longer SHOT frames take than START frames (30-50 ms measured, cause unknown).
//!
//! Learned per timer as a density over strings; until then a start says little of the beep.
use super::posterior::{Cells, MOST_RETRIES, retries};

/// The least lag looked at, ms.
pub const LEAST_MS: f64 = -20.0;
/// The largest lag looked at, ms.
pub const MOST_MS: f64 = 110.0;
const CELLS: usize = (MOST_MS - LEAST_MS) as usize + 1;
/// Chance per string that what was learned holds no longer.
const FORGOTTEN: f64 = 0.003;

/// The lag's density on cells of 1 ms.
#[derive(Clone, Debug, PartialEq)]
pub struct Lag {
    density: Vec<f64>,
    /// Chance of a lag above each cell.
    above: Vec<f64>,
    strings: u32,
}

impl Default for Lag {
    fn default() -> Self {
        let mut lag =
            Self { density: vec![1.0 / CELLS as f64; CELLS], above: vec![0.0; CELLS], strings: 0 };
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

    /// Chance that the lag is `ms` or more.
    pub(super) fn at_least(&self, ms: f64) -> f64 {
        // Each cell is as wide as it stands for: half a millisecond to either side.
        let place = ms - LEAST_MS + 0.5;
        if place <= 0.0 {
            return 1.0;
        }
        let cell = place as usize;
        if cell >= CELLS {
            return 0.0;
        }
        self.above[cell] + self.density[cell] * (1.0 - place.fract())
    }

    /// One string's word: where the beep was by its shots, when its start frame arrived (ms),
    /// and the interval in force.
    pub(super) fn learn(&mut self, shots: &Cells, start: f64, interval: f64) {
        let chances = retries();
        // A start with no retry fits within the interval, softened by half a millisecond.
        let fits = |wait: f64| -> f64 {
            if wait < -0.5 {
                return 1e-4;
            }
            let retries = (wait.max(0.0) / interval) as usize;
            if retries > MOST_RETRIES { 1e-4 } else { chances[retries].max(1e-4) }
        };
        let likely: Vec<(f64, f64)> = shots.iter().filter(|(_, p)| *p > 1e-5).collect();
        for (i, density) in self.density.iter_mut().enumerate() {
            let lag = LEAST_MS + i as f64;
            *density *= likely.iter().map(|(at, p)| p * fits(start - at + lag)).sum::<f64>();
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
        let mut above = 0.0;
        for (p, a) in self.density.iter_mut().zip(&mut self.above).rev() {
            *p /= total;
            *a = above;
            above += *p;
        }
    }
}
