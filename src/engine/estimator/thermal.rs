//! The thermometer's readings as integrals a crystal's frequency may follow.
//!
//! The processor is warmer than the crystal and quicker: load moves it by 20 K within seconds, the
//! crystal follows a part of that within minutes, and all of what the box does. Which of these
//! matters on a given board is not known, so several *warmths* are offered, each the temperature
//! through a lag, and each with a member of the bank that learns its own slope θ (1/K):
//! d(truth − raw)/dt = f + θ·φ(t). Between two instants the offset moves by θ·ΔΦ, Φ = ∫φ dt.

/// Kinds of warmth.
pub(super) const KINDS: usize = 3;
/// Lags of the crystal behind the box, s: a bare board, a board in its box.
const LAGS: [f64; 3] = [240.0, 240.0, 900.0];
/// A burst of load counts so much of what the box's warmth counts.
const LOAD: f64 = 0.22;
/// The coolest of so many …
const RECENT: usize = 12;
/// … readings, each so many seconds apart, is the processor at rest.
const APART: f64 = 75.0;

/// An instant on the estimator's timeline, with the warmth so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moment {
    /// Seconds from the origin.
    pub t: f64,
    /// Φ of each kind, K·s.
    pub heat: [f64; KINDS],
}

/// What the thermometer has shown so far. Temperatures are kept relative to the first reading.
#[derive(Clone, Debug)]
pub(super) struct Thermometer {
    /// The first reading, °C.
    pub reference: Option<f64>,
    at: f64,
    reading: f64,
    coolest: f64,
    recent: [f64; RECENT],
    turn: usize,
    turned: f64,
    /// Lagged reading, lagged coolest, slowly lagged reading, and their integrals.
    lagged: [f64; 3],
    integral: [f64; 3],
}

impl Thermometer {
    pub(super) const fn new() -> Self {
        Self {
            reference: None,
            at: 0.0,
            reading: 0.0,
            coolest: 0.0,
            recent: [0.0; RECENT],
            turn: 0,
            turned: 0.0,
            lagged: [0.0; 3],
            integral: [0.0; 3],
        }
    }

    /// Takes a reading (°C) at second `t`.
    pub(super) fn read(&mut self, t: f64, celsius: f64) {
        if !(-50.0..=150.0).contains(&celsius) {
            return;
        }
        let Some(reference) = self.reference else {
            self.reference = Some(celsius);
            (self.at, self.turned) = (t, t);
            return;
        };
        if t > self.at {
            (self.lagged, self.integral) = self.follow(t);
            self.at = t;
        }
        self.reading = celsius - reference;
        if t - self.turned >= APART {
            self.turned = t;
            self.turn = (self.turn + 1) % RECENT;
            self.recent[self.turn] = self.reading;
        } else {
            self.recent[self.turn] = self.recent[self.turn].min(self.reading);
        }
        self.coolest = self.recent.iter().copied().fold(f64::INFINITY, f64::min);
    }

    /// The lagged temperatures and their integrals at `t`.
    fn follow(&self, t: f64) -> ([f64; 3], [f64; 3]) {
        let dt = t - self.at;
        let (mut lagged, mut integral) = (self.lagged, self.integral);
        for (k, &target) in [self.reading, self.coolest, self.reading].iter().enumerate() {
            if dt < 0.0 {
                integral[k] += dt * lagged[k];
                continue;
            }
            let gone = -libm::expm1(-dt / LAGS[k]);
            let off = lagged[k] - target;
            integral[k] += target * dt + off * LAGS[k] * gone;
            lagged[k] -= off * gone;
        }
        (lagged, integral)
    }

    /// Second `t` as the members see it.
    pub(super) fn moment(&self, t: f64) -> Moment {
        Moment { t, heat: kinds(self.follow(t).1) }
    }

    /// φ of each kind at second `t`, K.
    pub(super) fn warmth(&self, t: f64) -> [f64; KINDS] {
        kinds(self.follow(t).0)
    }
}

fn kinds(v: [f64; 3]) -> [f64; KINDS] {
    [v[0], LOAD * v[0] + (1.0 - LOAD) * v[1], v[2]]
}

/// What a thermal member has learned: θ and its variance, the temperature (absolute, °C) at which
/// the frequency was last known, and the range over which it was learned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Learned {
    pub slope: f64,
    pub variance: f64,
    pub at: f64,
    pub range: (f64, f64),
}

/// A crystal changes its frequency by so much per kelvin (one standard deviation, 1/K).
pub(super) const SLOPE: f64 = 0.15e-6;
/// Outside the range it was learned in a slope is another one, by so much per kelvin.
pub(super) const BENT: f64 = 0.1e-6;
/// A slope changes slowly (the curve is cubic): per √s.
pub(super) const SLOPE_WALK: f64 = 1e-10;

impl Learned {
    /// Five numbers for the drift file: ppm/K, its standard deviation, °C.
    pub(super) fn kept(&self) -> [f64; 5] {
        [self.slope * 1e6, self.variance.sqrt() * 1e6, self.at, self.range.0, self.range.1]
    }

    /// Likewise back; absurd values are none.
    pub(super) fn from_kept(v: &[f64]) -> Option<Self> {
        let &[slope, sd, at, low, high] = v else { return None };
        let sane = slope.abs() < 20.0
            && (1e-6..=1.0).contains(&sd)
            && [at, low, high].iter().all(|t| (-60.0..=150.0).contains(t))
            && low <= high;
        sane.then_some(Self {
            slope: slope * 1e-6,
            variance: sd * sd * 1e-12,
            at,
            range: (low, high),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_integral_is_that_of_the_lagged_temperature() {
        let mut thermometer = Thermometer::new();
        thermometer.read(0.0, 40.0);
        for minute in 1..=300 {
            thermometer.read(f64::from(minute) * 60.0, 50.0);
        }
        let (a, b) = (thermometer.moment(18_000.0), thermometer.moment(18_100.0));
        for k in 0..KINDS {
            assert!((thermometer.warmth(18_000.0)[k] - 10.0).abs() < 0.01);
            assert!((b.heat[k] - a.heat[k] - 1000.0).abs() < 1.0);
        }
        // ten kelvin from minute 1 on, the lag's share missing
        assert!((a.heat[0] - 10.0 * (18_000.0 - 60.0 - 240.0)).abs() < 1.0, "{a:?}");
    }

    #[test]
    fn a_burst_of_load_counts_little_for_the_box() {
        let mut thermometer = Thermometer::new();
        for minute in 0..60 {
            let celsius = if (20..24).contains(&minute) { 60.0 } else { 40.0 };
            thermometer.read(f64::from(minute) * 60.0, celsius);
        }
        let heat = thermometer.moment(3600.0).heat;
        assert!(heat[1] > 0.0 && heat[1] < 0.25 * heat[0], "{heat:?}");
    }

    #[test]
    fn what_was_learned_survives_the_drift_file() {
        let learned = Learned { slope: -0.2e-6, variance: 1e-16, at: 41.5, range: (30.0, 55.0) };
        let back = Learned::from_kept(&learned.kept()).expect("sane");
        assert!((back.slope - learned.slope).abs() < 1e-15 && back.range == learned.range);
        assert!(Learned::from_kept(&[f64::NAN, 0.1, 40.0, 30.0, 50.0]).is_none());
        assert!(Learned::from_kept(&[0.1, 0.1, 40.0]).is_none());
    }
}
