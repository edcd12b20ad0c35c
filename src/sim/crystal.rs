//! The oscillator: what `CLOCK_MONOTONIC_RAW` counts while true time passes.
use super::random::Random;

/// How an oscillator is wrong. All terms add.
#[derive(Clone, Debug, Default)]
pub struct CrystalPlan {
    /// Constant error, ppm; positive runs fast.
    pub constant_ppm: f64,
    /// Random walk of the frequency, per √s (1e-9: a quiet Pi indoors).
    pub walk: f64,
    /// Sine: amplitude in ppm, period in seconds.
    pub sine: Option<(f64, f64)>,
    /// Warming up: ppm gained in the end, time constant in seconds.
    pub warming: Option<(f64, f64)>,
    /// Ramp: ppm gained in all, from this second, over this many seconds.
    pub ramp: Option<(f64, f64, f64)>,
    /// What the weather and the processor's load do.
    pub climate: Option<Climate>,
}

/// Temperature of box, processor and crystal.
#[derive(Clone, Debug)]
pub struct Climate {
    /// Box at the start, °C.
    pub ambient: f64,
    /// Swing of the box: amplitude in K, period in seconds.
    pub swing: Option<(f64, f64)>,
    /// A step of the box: at this second, by so many K (approached within two minutes).
    pub step: Option<(f64, f64)>,
    /// Bursts of load heat the processor by up to 20 K, the crystal by a fifth of it.
    pub load: bool,
    /// The crystal's slope at 40 °C, ppm per K.
    pub slope: f64,
    /// Its cubic term, ppm per K³ around 40 °C.
    pub cubic: f64,
    /// Seconds by which the crystal follows the box.
    pub lag: f64,
}

/// The oscillator itself, advanced second by second.
#[derive(Clone, Debug)]
pub struct Crystal {
    plan: CrystalPlan,
    chance: Random,
    weather: Random,
    second: i64,
    /// Cold at this second.
    cold: i64,
    phase: f64,
    rate: f64,
    walked: f64,
    box_temperature: f64,
    heat: f64,
    load_until: i64,
    loaded: bool,
    crystal_temperature: f64,
}

impl Crystal {
    /// The oscillator of this plan and seed, at true second 0.
    #[must_use]
    pub fn new(plan: CrystalPlan, seed: u64) -> Self {
        let ambient = plan.climate.as_ref().map_or(40.0, |c| c.ambient);
        let mut crystal = Self {
            plan,
            chance: Random::new(seed, 1),
            weather: Random::new(seed, 2),
            second: 0,
            cold: 0,
            phase: 0.0,
            rate: 0.0,
            walked: 0.0,
            box_temperature: ambient,
            heat: 0.0,
            load_until: 0,
            loaded: false,
            crystal_temperature: ambient,
        };
        crystal.rate = crystal.rate_now();
        crystal
    }

    fn rate_now(&self) -> f64 {
        let (p, t) = (&self.plan, self.second as f64);
        let mut ppm = p.constant_ppm;
        if let Some((amplitude, period)) = p.sine {
            ppm += amplitude * libm::sin(std::f64::consts::TAU * t / period);
        }
        if let Some((gain, tau)) = p.warming {
            let on = (self.second - self.cold) as f64;
            ppm += gain * (1.0 - libm::exp(-on / tau));
        }
        if let Some((gain, from, over)) = p.ramp {
            ppm += gain * ((t - from) / over).clamp(0.0, 1.0);
        }
        if let Some(c) = &p.climate {
            let k = self.crystal_temperature - 40.0;
            ppm += c.slope * k + c.cubic * k * k * k;
        }
        ppm * 1e-6 + self.walked
    }

    fn next_second(&mut self) {
        self.phase += self.rate;
        self.second += 1;
        if self.plan.walk > 0.0 {
            self.walked += self.plan.walk * self.chance.normal();
        }
        if let Some(c) = &self.plan.climate {
            let t = self.second as f64;
            self.box_temperature = c.ambient;
            if let Some((kelvin, period)) = c.swing {
                self.box_temperature += kelvin * libm::sin(std::f64::consts::TAU * t / period);
            }
            if let Some((at, kelvin)) = c.step {
                self.box_temperature += kelvin * (1.0 - libm::exp(-((t - at) / 60.0).max(0.0)));
            }
            if c.load && self.second >= self.load_until {
                self.loaded = !self.loaded;
                let mean = if self.loaded { 180.0 } else { 1500.0 };
                self.load_until = self.second + 5 + self.weather.exponential(mean) as i64;
            }
            let target = if self.loaded { 20.0 } else { 0.0 };
            self.heat += (target - self.heat) / 5.0;
            let around = self.box_temperature + self.heat * 0.2;
            self.crystal_temperature += (around - self.crystal_temperature) / c.lag;
        }
        self.rate = self.rate_now();
    }

    /// It was without power for long, and warms up again.
    pub fn cool(&mut self) {
        self.cold = self.second;
    }
    /// Goes on to true time `ns` (never back).
    pub fn advance(&mut self, ns: i64) {
        while (self.second + 1) * 1_000_000_000 <= ns {
            self.next_second();
        }
    }
    /// What the oscillator has counted beyond true time at `ns`, an instant of the current second.
    #[must_use]
    pub fn gained(&self, ns: i64) -> i64 {
        let into = (ns - self.second * 1_000_000_000) as f64 * 1e-9;
        ((self.phase + self.rate * into) * 1e9).round() as i64
    }
    /// Its frequency error now, ppm; positive runs fast.
    #[must_use]
    pub fn ppm(&self) -> f64 {
        self.rate * 1e6
    }
    /// What the processor's thermometer shows, in its steps of half a kelvin.
    #[must_use]
    pub fn thermometer(&self) -> Option<f64> {
        self.plan.climate.as_ref()?;
        Some(((self.box_temperature + self.heat + 8.0) * 2.0).round() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crystal_twelve_ppm_slow_loses_twelve_microseconds_a_second() {
        let mut crystal =
            Crystal::new(CrystalPlan { constant_ppm: -12.0, ..CrystalPlan::default() }, 1);
        crystal.advance(100_500_000_000);
        assert_eq!(crystal.gained(100_500_000_000), -1_206_000);
    }

    #[test]
    fn the_same_seed_gives_the_same_bits() {
        let run = |seed| {
            let plan = CrystalPlan { walk: 1e-9, ..CrystalPlan::default() };
            let mut crystal = Crystal::new(plan, seed);
            crystal.advance(86_400_000_000_000);
            crystal.gained(86_400_000_000_000)
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        assert_eq!(run(7), SEED_SEVEN_AFTER_A_DAY);
    }
    const SEED_SEVEN_AFTER_A_DAY: i64 = -10_874_198;
}
