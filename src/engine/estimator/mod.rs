//! Offset and frequency of the crystal from exchanges, with an honest bound.
mod member;
mod server;
mod site;

use crate::units::{Nanos, Ppm, RawTime};
use member::{Belief, Member, Seconds, Shared, Trace, WINDOW, Wander};
use server::{SLOTS, Server};
use site::Queue;

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

/// The bank: how a crystal may wander. Random walks from quiet to a sunny window sill, and two
/// with momentum, for boxes that warm up and cool down.
const BANK: [Wander; 7] = [
    Wander { walk: 3e-10, rate: 0.0, lasts: 0.0 },
    Wander { walk: 1e-9, rate: 0.0, lasts: 0.0 },
    Wander { walk: 3e-9, rate: 0.0, lasts: 0.0 },
    Wander { walk: 1e-8, rate: 0.0, lasts: 0.0 },
    Wander { walk: 4e-8, rate: 0.0, lasts: 0.0 },
    Wander { walk: 1e-9, rate: 1e-9, lasts: 1000.0 },
    Wander { walk: 1e-9, rate: 3e-9, lasts: 1000.0 },
];

/// Past predictions fade with this time constant, seconds.
const FADES: f64 = 4.0 * 3600.0;
/// No member falls further behind than this (log), so that each can come back.
const FLOOR: f64 = -12.0;
/// Without a drift file: a crystal is right to so many ppm (one standard deviation).
const UNKNOWN_PPM: f64 = 60.0;
/// Half-width of 95 % in standard deviations, with what moment matching leaves out.
const COVER: f64 = 2.3;

/// The joint estimate of the crystal from all selected servers' samples.
#[derive(Debug)]
pub struct Estimator {
    prior: FrequencyPrior,
    origin: Option<(RawTime, Nanos)>,
    members: Vec<Member>,
    samples: Vec<Seconds>,
    traces: Vec<[Trace; 2]>,
    servers: [Server; SLOTS],
    selected: Option<Vec<ServerId>>,
    turn: usize,
    counted: u32,
    shed: bool,
    last: f64,
}

impl Estimator {
    /// An estimator that knows nothing but, perhaps, the drift file's frequency.
    #[must_use]
    pub fn new(prior: Option<FrequencyPrior>) -> Self {
        let unknown = FrequencyPrior { frequency: Ppm::new(0.0), sd: Ppm::new(UNKNOWN_PPM) };
        Self {
            prior: prior.filter(|p| sane(p.frequency.get(), p.sd.get())).unwrap_or(unknown),
            origin: None,
            members: BANK.iter().map(|&w| Member::new(w)).collect(),
            samples: Vec::with_capacity(WINDOW),
            traces: vec![[Trace::NONE; 2]; WINDOW],
            servers: [Server::NONE; SLOTS],
            selected: None,
            turn: 0,
            counted: 0,
            shed: false,
            last: 0.0,
        }
    }

    fn seconds(&self, at: RawTime) -> f64 {
        self.origin.map_or(0.0, |(zero, _)| (at - zero).as_secs_f64())
    }

    fn counts(&self, server: ServerId) -> bool {
        self.selected.as_ref().is_none_or(|chosen| chosen.contains(&server))
    }

    fn slot(&self, server: ServerId) -> Option<usize> {
        self.servers.iter().position(|s| s.id == Some(server))
    }

    /// The slot of a server; a new one takes a free slot or that of one that does not count.
    fn slot_for(&mut self, server: ServerId) -> Option<usize> {
        if let Some(slot) = self.slot(server) {
            return Some(slot);
        }
        let slot = self.servers.iter().position(|s| s.id.is_none()).or_else(|| {
            (0..SLOTS)
                .filter(|&s| self.servers[s].id.is_some_and(|id| !self.counts(id)))
                .min_by(|&a, &b| self.servers[a].last.total_cmp(&self.servers[b].last))
        })?;
        self.drop_slot(slot);
        self.servers[slot].id = Some(server);
        Some(slot)
    }

    fn dim(&self) -> usize {
        3 + self.servers.iter().rposition(|s| s.id.is_some()).map_or(0, |s| s + 1)
    }

    fn drop_slot(&mut self, slot: usize) {
        let mut i = 0;
        while i < self.samples.len() {
            if usize::from(self.samples[i].slot) == slot {
                self.samples.remove(i);
                self.members.iter_mut().for_each(|m| m.remove(i));
            } else {
                i += 1;
            }
        }
        self.members.iter_mut().for_each(|m| m.set_base(slot, 0.0, 0.0));
        self.servers[slot] = Server::NONE;
    }

    /// Takes one sound sample of one server.
    pub fn add(&mut self, server: ServerId, sample: &Sample) {
        let delay = sample.delay().as_secs_f64();
        let flight = (sample.received - sample.sent).as_secs_f64();
        if !(-0.01..=16.0).contains(&delay) || !(-1e-3..=16.0).contains(&flight) {
            return;
        }
        let (_, base) = *self.origin.get_or_insert_with(|| (sample.sent, sample.offset()));
        let Some(slot) = self.slot_for(server) else { return };
        let t = self.seconds(sample.sent + (sample.received - sample.sent).half()).max(self.last);
        self.last = t;
        let frequency = self.members[self.best()].after.mean[1];
        let most = [
            (sample.outward - base).as_secs_f64() + frequency * flight / 2.0,
            -(sample.homeward - base).as_secs_f64() + frequency * flight / 2.0,
        ];
        let counts = self.counts(server);
        if self.samples.len() == WINDOW {
            self.shed_first();
        }
        self.samples.push(Seconds { t, most, slot: slot as u8, counts });
        let n = self.samples.len() - 1;
        self.members.iter_mut().for_each(|m| m.unsay(n));
        self.servers[slot].hear(t, &most, sample.precision.as_secs_f64());
        if self.servers[slot].heard == 1 {
            let (mean, variance) = self.servers[slot].first_base();
            self.members.iter_mut().for_each(|m| m.set_base(slot, mean, variance));
        }
        if !counts {
            return;
        }
        self.counted += 1;
        if self.counted == 1 {
            self.begin();
            return;
        }
        self.learn();
    }

    /// Starts from the first sample that counts.
    fn begin(&mut self) {
        let Some(first) = self.samples.iter().find(|s| s.counts).copied() else { return };
        let middle = (first.most[0] - first.most[1]) / 2.0;
        let half = ((first.most[0] + first.most[1]) / 2.0).max(1e-5);
        let bases = self.servers.map(|s| s.first_base());
        let f = (self.prior.frequency.get() * 1e-6, self.prior.sd.get() * 1e-6);
        for m in &mut self.members {
            let mut b = Belief::nothing();
            b.t = first.t;
            b.mean[0] = middle;
            b.mean[1] = f.0;
            b.cov[0][0] = half * half;
            b.cov[1][1] = f.1 * f.1;
            b.cov[2][2] = m.wander.rate * m.wander.rate;
            for (slot, &(mean, variance)) in bases.iter().enumerate() {
                b.mean[3 + slot] = mean;
                b.cov[3 + slot][3 + slot] = variance;
            }
            m.before = b;
            m.after = b;
            for i in 0..WINDOW {
                m.unsay(i);
            }
        }
        self.shed = false;
        for _ in 0..4 {
            for n in 0..self.members.len() {
                self.sweep(n);
            }
        }
    }

    fn best(&self) -> usize {
        (0..self.members.len())
            .max_by(|&a, &b| self.members[a].weight.total_cmp(&self.members[b].weight))
            .unwrap_or(0)
    }

    /// The newest sample: predicted by every member, then looked at with all the others.
    fn learn(&mut self) {
        let n = self.samples.len() - 1;
        let passed = self.samples[n].t - self.samples[n.saturating_sub(1)].t;
        let fade = libm::exp(-passed / FADES);
        let (queues, walks, dim) = self.shared();
        let shared = Shared { samples: &self.samples, queues: &queues, base_walk: &walks, dim };
        for m in &mut self.members {
            let seen = m.append(&shared);
            m.weight = m.weight * fade + seen[0].log_evidence + seen[1].log_evidence;
        }
        self.balance();
        if self.counted < 24 {
            for n in 0..self.members.len() {
                self.sweep(n);
            }
        } else {
            self.sweep(self.best());
            self.turn = (self.turn + 1) % self.members.len();
            self.sweep(self.turn);
        }
    }

    fn balance(&mut self) {
        let top = self.members.iter().map(|m| m.weight).fold(f64::NEG_INFINITY, f64::max);
        for m in &mut self.members {
            m.weight = if top.is_finite() { (m.weight - top).max(FLOOR) } else { 0.0 };
        }
    }

    fn shared(&self) -> ([[Queue; 2]; SLOTS], [f64; SLOTS], usize) {
        (self.servers.map(|s| s.queues()), self.servers.map(|s| s.base_walk()), self.dim())
    }

    fn sweep(&mut self, n: usize) {
        let best = n == self.best();
        let (queues, walks, dim) = self.shared();
        let shared = Shared { samples: &self.samples, queues: &queues, base_walk: &walks, dim };
        let mut sums = [[(0.0, 0.0); 2]; SLOTS];
        self.members[n].sweep(&shared, &mut self.traces, 0.7, |slot, d, queueing, belongs| {
            let queue = queues[slot][d].mean;
            let sum: &mut (f64, f64) = &mut sums[slot][d];
            sum.0 += belongs * queueing.clamp(0.0, 8.0 * queue);
            sum.1 += belongs;
        });
        if best {
            for (server, sum) in self.servers.iter_mut().zip(&sums) {
                server.queue(sum);
            }
        }
    }

    fn shed_first(&mut self) {
        let (queues, walks, dim) = self.shared();
        let shared = Shared { samples: &self.samples, queues: &queues, base_walk: &walks, dim };
        self.members.iter_mut().for_each(|m| m.shed(&shared));
        self.shed |= self.samples[0].counts;
        self.samples.remove(0);
    }

    /// Only these servers' samples count from now on; others stay remembered.
    pub fn select(&mut self, truechimers: &[ServerId]) {
        if self.selected.as_deref() == Some(truechimers) {
            return;
        }
        self.selected = Some(truechimers.to_vec());
        let counts = self.servers.map(|s| s.id.is_some_and(|id| self.counts(id)));
        let mut changed = false;
        for (i, sample) in self.samples.iter_mut().enumerate() {
            let now = counts[usize::from(sample.slot)];
            if now != sample.counts {
                sample.counts = now;
                changed = true;
                self.members.iter_mut().for_each(|m| m.unsay(i));
            }
        }
        if !changed {
            return;
        }
        self.counted = self.counted.max(self.samples.iter().filter(|s| s.counts).count() as u32);
        if self.shed {
            for _ in 0..2 {
                for n in 0..self.members.len() {
                    self.sweep(n);
                }
            }
        } else {
            self.begin();
        }
    }

    /// Drops all that is known of a server.
    pub fn forget(&mut self, server: ServerId) {
        if let Some(slot) = self.slot(server) {
            self.drop_slot(slot);
        }
    }

    /// The estimate at an instant; its bound grows with the learned wander.
    #[must_use]
    pub fn estimate(&self, at: RawTime) -> Option<Estimate> {
        let (_, base) = self.origin?;
        if self.counted == 0 {
            return None;
        }
        let t = self.seconds(at);
        let total: f64 = self.members.iter().map(|m| libm::exp(m.weight)).sum();
        let mut mean = [0.0; 3];
        let mut square = [0.0; 2];
        for m in &self.members {
            let share = libm::exp(m.weight) / total;
            let (x, v) = m.at(t);
            for k in 0..3 {
                mean[k] += share * x[k];
            }
            for k in 0..2 {
                square[k] += share * (v[k] + x[k] * x[k]);
            }
        }
        let sd = [0, 1].map(|k| (square[k] - mean[k] * mean[k]).max(0.0).sqrt());
        Some(Estimate {
            at,
            truth: base + Nanos::from_secs_f64(mean[0]),
            frequency: Ppm::from_slope(mean[1]),
            bound: Nanos::from_secs_f64(COVER * sd[0]),
            frequency_bound: Ppm::from_slope(COVER * sd[1]),
            rate: mean[2] * 1e6,
            age: Nanos::from_secs_f64((t - self.last).max(0.0)),
        })
    }

    /// Takes a reading of the board's thermometer.
    pub fn temperature(&mut self, _at: RawTime, _celsius: f64) {}

    /// How long after its last exchange a server's next one is worth its packet.
    #[must_use]
    pub fn wanted_poll(&self, _at: RawTime, base: Nanos) -> Nanos {
        let seconds = match self.counted {
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
        let e = self.estimate(self.origin?.0 + Nanos::from_secs_f64(self.last))?;
        (self.counted > 8).then(|| DriftMemory {
            frequency_ppm: e.frequency.get(),
            sd_ppm: e.frequency_bound.get() / COVER,
            wander: self.members.iter().map(|m| m.weight).collect(),
            thermal: Vec::new(),
        })
    }

    /// Takes up what the drift file kept; absurd values are ignored. Before the first sample only.
    pub fn restore(&mut self, memory: &DriftMemory) {
        if sane(memory.frequency_ppm, memory.sd_ppm) {
            self.prior = FrequencyPrior {
                frequency: Ppm::new(memory.frequency_ppm),
                // the crystal was off, and is colder or warmer now
                sd: Ppm::new(memory.sd_ppm.hypot(0.5)),
            };
        }
        if memory.wander.len() == self.members.len() {
            for (m, &weight) in self.members.iter_mut().zip(&memory.wander) {
                if weight.is_finite() {
                    m.weight = weight.clamp(FLOOR, 0.0) / 2.0;
                }
            }
            self.balance();
        }
    }

    /// A server's own view: its offset to the joint estimate, and how uncertain (95 %) that is.
    #[must_use]
    pub fn server_offset(&self, server: ServerId, _at: RawTime) -> Option<(Nanos, Nanos)> {
        let _ = self.slot(server)?;
        None
    }
}

fn sane(ppm: f64, sd: f64) -> bool {
    ppm.abs() < 1e5 && sd > 0.0 && sd < 1e5
}
