//! Offset and frequency of the crystal from exchanges, with an honest bound.
use crate::units::{Nanos, Ppm, RawTime};

/// A server's index, stable for its life.
pub type ServerId = usize;

/// One sound exchange, on the raw timeline.
///
/// `outward` is T2 − T1 (raw) and `homeward` T3 − T4 (raw): each is true UTC minus raw time,
/// plus (outward) or minus (homeward) the time the packet travelled.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// T2 − T1: truth minus raw, plus the way there.
    pub outward: Nanos,
    /// T3 − T4: truth minus raw, minus the way home.
    pub homeward: Nanos,
    /// Raw instant of T1.
    pub sent: RawTime,
    /// Raw instant of T4.
    pub received: RawTime,
    /// The server's own distance to true time.
    pub root_distance: Nanos,
    /// Resolution of the server's clock, ≥ 1 ns.
    pub precision: Nanos,
}

impl Sample {
    /// Truth minus raw as this exchange alone has it.
    #[must_use]
    pub const fn offset(&self) -> Nanos {
        Nanos::new(self.homeward.get() + (self.outward.get() - self.homeward.get()) / 2)
    }
    /// Time on the way, there and back.
    #[must_use]
    pub const fn delay(&self) -> Nanos {
        Nanos::new(self.outward.get() - self.homeward.get())
    }
}

/// What is believed of the crystal before the first sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrequencyPrior {
    /// d(truth − raw)/dt: what the kernel is told.
    pub frequency: Ppm,
    /// Standard deviation of it.
    pub sd: Ppm,
}

/// True time against the raw clock, at one instant.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// The raw instant this is said of.
    pub at: RawTime,
    /// True UTC minus raw.
    pub truth: Nanos,
    /// d(truth − raw)/dt = −crystal error = what the kernel is told.
    pub frequency: Ppm,
    /// 95 % bound of `truth`, either way.
    pub bound: Nanos,
    /// 95 % bound of `frequency`, either way.
    pub frequency_bound: Ppm,
    /// How fast `frequency` changes, ppm per second.
    pub rate: f64,
    /// Age of the newest sample that counted.
    pub age: Nanos,
}

/// What the drift file keeps of the crystal.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct DriftMemory {
    /// What the kernel is told, ppm.
    pub frequency_ppm: f64,
    /// Standard deviation of it, ppm.
    pub sd_ppm: f64,
    /// Log weights of the wander models.
    pub wander: Vec<f64>,
    /// What the thermometer has taught; empty when nothing.
    pub thermal: Vec<f64>,
}

const SERVERS: usize = 64;

#[derive(Clone, Copy, Debug, Default)]
struct Server {
    samples: u32,
    min_delay: f64,
    mean_excess: f64,
    last_offset: f64,
    last_at: f64,
}

/// The joint estimate of the crystal from all selected servers' samples.
#[derive(Debug)]
pub struct Estimator {
    prior: FrequencyPrior,
    origin: Option<(RawTime, Nanos)>,
    servers: Vec<Server>,
    selected: Option<u64>,
    at: f64,
    x: [f64; 2],
    p: [f64; 3],
    samples: u32,
}

const WANDER: f64 = 2e-9;

impl Estimator {
    /// An estimator that knows nothing but, perhaps, the drift file's frequency.
    #[must_use]
    pub fn new(prior: Option<FrequencyPrior>) -> Self {
        let prior =
            prior.unwrap_or(FrequencyPrior { frequency: Ppm::new(0.0), sd: Ppm::new(100.0) });
        Self {
            prior,
            origin: None,
            servers: vec![Server::default(); SERVERS],
            selected: None,
            at: 0.0,
            x: [0.0; 2],
            p: [0.0; 3],
            samples: 0,
        }
    }

    fn seconds(&self, at: RawTime) -> f64 {
        self.origin.map_or(0.0, |(zero, _)| (at - zero).as_secs_f64())
    }

    fn predicted(&self, t: f64) -> ([f64; 2], [f64; 3]) {
        let dt = (t - self.at).max(0.0);
        let [a, b, c] = self.p;
        let q = WANDER * WANDER;
        (
            [self.x[0] + self.x[1] * (t - self.at), self.x[1]],
            [
                a + 2.0 * dt * b + dt * dt * c + q * dt * dt * dt / 3.0,
                b + dt * c + q * dt * dt / 2.0,
                c + q * dt,
            ],
        )
    }

    /// Takes one sound sample of one server.
    pub fn add(&mut self, server: ServerId, sample: &Sample) {
        if server >= SERVERS {
            return;
        }
        let (_, base) = *self.origin.get_or_insert_with(|| (sample.sent, sample.offset()));
        let t = self.seconds(sample.received);
        let offset = (sample.offset() - base).as_secs_f64();
        let delay = sample.delay().as_secs_f64().max(0.0);
        let s = &mut self.servers[server];
        s.samples += 1;
        if s.samples == 1 {
            s.min_delay = delay;
            s.mean_excess = delay * 0.2;
        }
        s.min_delay = (s.min_delay * (1.0 + 1e-4)).min(delay);
        s.mean_excess += (delay - s.min_delay - s.mean_excess) * 0.05;
        (s.last_offset, s.last_at) = (offset, t);
        let q = delay - s.min_delay + s.mean_excess / f64::from(s.samples);
        if self.selected.is_some_and(|mask| mask >> server & 1 == 0) {
            return;
        }
        let r = q * q / 12.0 + (2e-6 + sample.precision.as_secs_f64()).powi(2);
        if self.samples == 0 {
            let sd = self.prior.sd.get() * 1e-6;
            (self.at, self.x) = (t, [offset, self.prior.frequency.get() * 1e-6]);
            self.p = [r + delay * delay / 16.0, 0.0, sd * sd];
        } else {
            let (x, mut p) = self.predicted(t.max(self.at));
            let v = offset - x[0];
            let outlying = v * v / (p[0] + r);
            if outlying > 25.0 {
                p[0] += v * v / 4.0;
                p[2] += 1e-12;
            }
            let k = [p[0] / (p[0] + r), p[1] / (p[0] + r)];
            self.x = [x[0] + k[0] * v, x[1] + k[1] * v];
            self.p = [p[0] * (1.0 - k[0]), p[1] * (1.0 - k[0]), p[2] - k[1] * p[1]];
            self.at = t.max(self.at);
        }
        self.samples += 1;
    }

    /// Only these servers' samples count from now on; others stay remembered.
    pub fn select(&mut self, truechimers: &[ServerId]) {
        self.selected =
            Some(truechimers.iter().filter(|&&s| s < SERVERS).fold(0, |mask, &s| mask | 1 << s));
    }

    /// Drops all that is known of a server.
    pub fn forget(&mut self, server: ServerId) {
        if let Some(s) = self.servers.get_mut(server) {
            *s = Server::default();
        }
    }

    /// The estimate at an instant; its bound grows with the learned wander.
    #[must_use]
    pub fn estimate(&self, at: RawTime) -> Option<Estimate> {
        let (_, base) = self.origin?;
        if self.samples == 0 {
            return None;
        }
        let t = self.seconds(at);
        let (x, p) = self.predicted(t);
        Some(Estimate {
            at,
            truth: base + Nanos::from_secs_f64(x[0]),
            frequency: Ppm::from_slope(x[1]),
            bound: Nanos::from_secs_f64(2.2 * p[0].sqrt()),
            frequency_bound: Ppm::from_slope(2.2 * p[2].sqrt()),
            rate: 0.0,
            age: Nanos::from_secs_f64((t - self.at).max(0.0)),
        })
    }

    /// Takes a reading of the board's thermometer.
    pub fn temperature(&mut self, _at: RawTime, _celsius: f64) {}

    /// How long after its last exchange a server's next one is worth its packet.
    #[must_use]
    pub fn wanted_poll(&self, _at: RawTime, base: Nanos) -> Nanos {
        let seconds = match self.samples {
            0..8 => 4.0,
            8..12 => 16.0,
            12..16 => 64.0,
            _ => base.as_secs_f64(),
        };
        Nanos::from_secs_f64(seconds.min(base.as_secs_f64()))
    }

    /// What the drift file keeps.
    #[must_use]
    pub fn memory(&self) -> Option<DriftMemory> {
        (self.samples > 8).then(|| DriftMemory {
            frequency_ppm: self.x[1] * 1e6,
            sd_ppm: self.p[2].sqrt() * 1e6,
            wander: Vec::new(),
            thermal: Vec::new(),
        })
    }

    /// Takes up what the drift file kept; absurd values are ignored. Before the first sample only.
    pub fn restore(&mut self, memory: &DriftMemory) {
        if memory.frequency_ppm.abs() < 1e4 && memory.sd_ppm > 0.0 && memory.sd_ppm < 1e4 {
            self.prior = FrequencyPrior {
                frequency: Ppm::new(memory.frequency_ppm),
                sd: Ppm::new(memory.sd_ppm),
            };
        }
    }

    /// A server's own view: its offset to the joint estimate, and how uncertain (95 %) that is.
    #[must_use]
    pub fn server_offset(&self, server: ServerId, _at: RawTime) -> Option<(Nanos, Nanos)> {
        let s = self.servers.get(server).filter(|s| s.samples > 0)?;
        let (x, p) = self.predicted(s.last_at);
        Some((
            Nanos::from_secs_f64(s.last_offset - x[0]),
            Nanos::from_secs_f64(2.0 * p[0].sqrt() + s.mean_excess),
        ))
    }
}
