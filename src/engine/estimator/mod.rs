//! Offset and frequency of the crystal from exchanges, with an honest bound.
//!
//! # Frame
//! Everything is kept against `CLOCK_MONOTONIC_RAW`, which nobody steers: corrections of the clock
//! never falsify what was heard, and the slope is the crystal's own. x(t) is truth − raw,
//! f = dx/dt = −(crystal error); the kernel is told f.
//!
//! # What a packet says
//! With the base delay B of its server (one way; half the shortest round trip) and a queue q ≥ 0,
//!
//! ```text
//! T2 − T1 =  x + B + q₁ + ε      so   x + B ≤ y₁, softly
//! T3 − T4 =  x − B − q₂ + ε      so  −x + B ≤ y₂, softly
//! ```
//!
//! (RFC 5905 §8 for the four stamps; Moon, Skelly, Towsley 1999 and Geng et al. 2018, *Huygens*, for
//! offsets as the space between one-sided bounds, which tighten with 1/n and not 1/√n.) q is exponential,
//! ε normal; the posterior of a Gaussian belief behind such a packet has its moments in closed
//! form, see `site`. A small share of packets is from elsewhere (strays), so that no packet is certain.
//! Mean queue, softness and strays of each server are learned by expectation maximisation, see `server`.
//!
//! # What a crystal does
//! State of a *member*: x, f (random walk of strength σ per √s), a third and a fourth number, and each
//! server's B. The third number is a swing of the frequency (a damped oscillator, the fourth its rate: sun,
//! heating), or the slope θ of a thermal member: dx/dt = f + θ·φ(t), φ the temperature through a lag,
//! see `thermal`. The bank holds walks from 3·10⁻¹⁰ to 4·10⁻⁸, three swings and three thermal members; each
//! is weighed by how well it predicted (log evidence, fading over 8 h), and the estimate is their
//! mixture. So the wander is learned, and the thermometer is used only as far as it has predicted.
//!
//! # How the packets are put together
//! Expectation propagation (Minka 2001) over the last 96 samples: each packet is a Gaussian site;
//! a forward Kalman pass and a backward pass of the adjoint (modified Bryson-Frazier, Bierman
//! 1973: no matrix is inverted) give every site's cavity, the packet is seen again through it, and so on.
//! One pass alone grows overconfident. What leaves the window stays as a Gaussian. Samples of one round
//! (servers asked at one wake-up) are taken in one by one, and the window is gone through once for them.
//!
//! # Surprises
//! * Packets faster than B allows, twice: B is smaller (`too_fast`); at the start, where B was guessed
//!   from delayed packets, everything is begun again from them.
//! * Many late packets in a row, judged by how common late ones are: another route (`too_late`). The offset
//!   is held meanwhile, which shows how uneven the change was; that `skew` is taken off.
//! * Most servers break their edges again and again without being faster: offset or frequency are not
//!   what they were (`upset`): begun again, the frequency as uncertain as the jump suggests.
//!
//! # The bound
//! 95 % of the mixture of all members, stretched by what moment matching leaves out (more where
//! round trips do not look like queues), and what the servers' own views differ by. It speaks of paths that are
//! symmetric up to that difference: an asymmetry all servers share is seen by nobody. A server that
//! shows only whole seconds adds its resolution, and a temperature outside the learned range adds the
//! curve of the crystal.
mod member;
mod mixture;
mod server;
mod site;
#[cfg(test)]
mod tests;
mod thermal;

use crate::units::{Nanos, Ppm, RawTime};
use member::{
    Belief, FREQUENCY, HEAD, Member, OFFSET, RATE, SWING, Seconds, Shared, Trace, WARM, WINDOW,
    Wander, Warm,
};
use mixture::{COVER, within};
use server::{SLOTS, Server, Tally};
use site::Queue;
use std::cell::Cell;
use thermal::{BENT, KINDS, Learned, SLOPE, Thermometer};

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
/// with momentum, for boxes that warm up and cool down, and those that follow the thermometer. Behind each, how common such crystals are (log).
const BANK: [(Wander, f64); 11] = [
    (walk(3e-10), -0.7),
    (walk(1e-9), 0.0),
    (walk(3e-9), -2.0),
    (walk(1e-8), -3.5),
    (walk(4e-8), -5.5),
    (swing(2000.0), -5.0),
    (swing(3600.0), -4.3),
    (swing(6500.0), -5.0),
    (thermal(0), -1.5),
    (thermal(1), -1.5),
    (thermal(2), -1.5),
];

const fn walk(walk: f64) -> Wander {
    Wander { walk, swing: 0.0, period: 0.0, lasts: 0.0, thermal: None, born: 0.0 }
}

const fn swing(period: f64) -> Wander {
    Wander { walk: 1e-9, swing: 1.2e-6, period, lasts: period, thermal: None, born: 0.0 }
}

const fn thermal(kind: usize) -> Wander {
    Wander { thermal: Some(kind), ..walk(1e-9) }
}

/// Past predictions fade with this time constant, seconds.
const FADES: f64 = 8.0 * 3600.0;
/// No member falls further behind than this (log), so that each can come back.
const FLOOR: f64 = -12.0;
/// Without a drift file: a crystal is right to so many ppm (one standard deviation).
const UNKNOWN_PPM: f64 = 60.0;
/// A clock of this resolution (s) cannot be one that interpolates.
const COARSE: f64 = 0.1;
/// An estimate is carried on for so long instead of being computed anew.
const SAME_MOMENT: Nanos = Nanos::from_millis(10);
/// What moment matching leaves out of a standard deviation.
const STRETCH: f64 = 1.3;
/// … and more where round trips do not look like queues behind a sharp edge.
const STRETCH_EVEN: f64 = 0.4;
/// Polls are a little rarer than asked for: the packets of the bursts are saved here.
const SPARE: f64 = 1.035;
/// With fewer samples than this every member looks at every packet again.
const YOUNG: u32 = 24;
/// Samples so close to each other, seconds, are as of one instant: a frequency that is wrong by 0.1 ppm moves
/// them by 20 ns at most.
const TOGETHER: f64 = 0.2;
/// Samples so close to each other, seconds, are of one round: the window is gone through again once.
const ROUND: f64 = 2.0;
/// Bursts after something upset the estimate come at most this often, seconds.
const BURST_EVERY: f64 = 3600.0;

/// The joint estimate of the crystal from all selected servers' samples.
#[derive(Debug)]
pub struct Estimator {
    prior: FrequencyPrior,
    origin: Option<(RawTime, Nanos)>,
    members: Vec<Member>,
    samples: Vec<Seconds>,
    servers: [Server; SLOTS],
    selected: Option<Vec<ServerId>>,
    turn: usize,
    counted: u32,
    /// Samples since the last burst began.
    fresh: u32,
    burst: f64,
    /// Frequency and its standard deviation to start from.
    start: (f64, f64),
    shed: bool,
    last: f64,
    /// When the window was gone through last.
    swept: f64,
    thermometer: Thermometer,
    learned: [Option<Learned>; KINDS],
    /// What was said last, for whoever asks in the same moment; nothing after every change.
    said: Cell<Option<Estimate>>,
}

impl Estimator {
    /// An estimator that knows nothing but, perhaps, the drift file's frequency.
    #[must_use]
    pub fn new(prior: Option<FrequencyPrior>) -> Self {
        let mut new = Self {
            prior: FrequencyPrior { frequency: Ppm::new(0.0), sd: Ppm::new(UNKNOWN_PPM) },
            origin: None,
            members: bank(),
            samples: Vec::with_capacity(WINDOW),
            servers: [Server::NONE; SLOTS],
            selected: None,
            turn: 0,
            counted: 0,
            fresh: 0,
            burst: 0.0,
            start: (0.0, 0.0),
            shed: false,
            last: 0.0,
            swept: 0.0,
            thermometer: Thermometer::new(),
            learned: [None; KINDS],
            said: Cell::new(None),
        };
        new.expect(prior);
        new
    }

    fn expect(&mut self, prior: Option<FrequencyPrior>) {
        if let Some(prior) = prior.filter(|p| sane(p.frequency.get(), p.sd.get())) {
            self.prior = prior;
        }
        self.start = (self.prior.frequency.get() * 1e-6, self.prior.sd.get() * 1e-6);
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
        HEAD + self.servers.iter().rposition(|s| s.id.is_some()).map_or(0, |s| s + 1)
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
        self.said.set(None);
        let delay = sample.delay().as_secs_f64();
        let flight = (sample.received - sample.sent).as_secs_f64();
        if !(-0.01..=16.0).contains(&delay) || !(-1e-3..=16.0).contains(&flight) {
            return;
        }
        let (_, base) = *self.origin.get_or_insert_with(|| (sample.sent, sample.offset()));
        let Some(slot) = self.slot_for(server) else { return };
        let t = self.seconds(sample.sent + (sample.received - sample.sent).half()).max(self.last);
        if t - self.last > 1800.0 && self.counted > 0 {
            self.burst(t, 6);
        }
        // Once the frequency is known, answers that came together are of one instant, that of the first.
        let after = t - self.last;
        let after = if self.counted >= YOUNG && after < TOGETHER { after } else { 0.0 };
        let t = t - after;
        self.last = t;
        let frequency = self.members[self.best()].frequency(&self.thermometer.warmth(self.last));
        // A clock that shows whole seconds has shown this one for half of it, on average.
        let precision = sample.precision.as_secs_f64();
        let skew = self.servers[slot].skew - if precision > COARSE { precision / 2.0 } else { 0.0 };
        let most = [
            -skew + (sample.outward - base).as_secs_f64() + frequency * (flight / 2.0 - after),
            skew - (sample.homeward - base).as_secs_f64() + frequency * (flight / 2.0 + after),
        ];
        let counts = self.counts(server);
        if self.samples.len() == WINDOW {
            self.shed_first();
        }
        let heat = self.thermometer.moment(t).heat;
        self.samples.push(Seconds { t, heat, most, slot: slot as u8, counts });
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
        self.fresh = self.fresh.saturating_add(1);
        if self.counted == 1 {
            self.begin();
            return;
        }
        self.learn(slot);
        if !self.members.iter().all(Member::sound) {
            self.begin();
        }
    }

    /// The next polls come in a burst, as if only so many samples had been seen.
    fn burst(&mut self, t: f64, seen: u32) {
        if self.burst == 0.0 || t - self.burst > BURST_EVERY {
            self.burst = t;
            self.fresh = self.fresh.min(seen);
        }
    }

    /// Starts from the first sample that counts.
    fn begin(&mut self) {
        let Some(first) = self.samples.iter().find(|s| s.counts).copied() else { return };
        let middle = (first.most[0] - first.most[1]) / 2.0;
        let half = ((first.most[0] + first.most[1]) / 2.0).max(1e-5);
        let bases = self.servers.map(|s| s.first_base());
        let f = self.start;
        let reference = self.thermometer.reference;
        let slopes = self.learned.map(|learned| match (learned, reference) {
            (Some(l), Some(reference)) => (l.slope, l.variance, l.at - reference),
            _ => (0.0, SLOPE * SLOPE, 0.0),
        });
        let born = self.origin.map_or(0.0, |(zero, _)| zero.as_nanos() as f64 * 1e-9);
        for m in &mut self.members {
            m.wander.born = born;
            let third = match m.wander.thermal {
                Some(kind) => slopes[kind].2,
                None => 1.0,
            };
            let frequency = self.prior.frequency.get() * 1e-6;
            let variance = (self.prior.sd.get() * 1e-6).powi(2);
            let known = self.prior.sd.get() < UNKNOWN_PPM;
            m.warm = (known && born < WARM).then_some(Warm { frequency, variance, third });
            let mut b = Belief::nothing();
            b.t = first.t;
            b.heat = m.wander.heat(&first.heat);
            b.mean[OFFSET] = middle;
            b.mean[FREQUENCY] = f.0;
            b.cov[OFFSET][OFFSET] = half * half;
            b.cov[FREQUENCY][FREQUENCY] = f.1 * f.1;
            b.cov[SWING][SWING] = m.wander.third_variance();
            if let Some(kind) = m.wander.thermal {
                // the frequency is known at one temperature: f = known − θ·φ there
                let (slope, variance, known_at) = slopes[kind];
                b.mean[SWING] = slope;
                b.cov[SWING][SWING] = variance;
                b.mean[FREQUENCY] -= slope * known_at;
                b.cov[FREQUENCY][FREQUENCY] += known_at * known_at * variance;
                b.cov[FREQUENCY][SWING] = -known_at * variance;
                b.cov[SWING][FREQUENCY] = b.cov[FREQUENCY][SWING];
            }
            b.cov[RATE][RATE] = m.wander.rate_variance();
            for (slot, &(mean, variance)) in bases.iter().enumerate() {
                b.mean[HEAD + slot] = mean;
                b.cov[HEAD + slot][HEAD + slot] = variance;
            }
            m.before = b;
            m.after = b;
            for i in 0..WINDOW {
                m.unsay(i);
            }
        }
        self.shed = false;
        self.sweep_all(4);
    }

    fn best(&self) -> usize {
        (0..self.members.len())
            .max_by(|&a, &b| self.members[a].weight.total_cmp(&self.members[b].weight))
            .unwrap_or(0)
    }

    /// The newest sample: predicted by every member, then looked at with all the others.
    fn learn(&mut self, slot: usize) {
        let n = self.samples.len() - 1;
        let newest = self.samples[n];
        let passed = newest.t - self.samples[n.saturating_sub(1)].t;
        let fade = libm::exp(-passed / FADES);
        let best = self.best();
        let (base, variance) = self.members[best].base(slot);
        let (queues, walks, dim) = self.shared();
        let shared = Shared { samples: &self.samples, queues: &queues, base_walk: &walks, dim };
        for (i, m) in self.members.iter_mut().enumerate() {
            let seen = m.append(&shared);
            m.weight = fade * (m.weight - m.common)
                + m.common
                + libm::log(seen[0].evidence)
                + libm::log(seen[1].evidence);
            if i == best {
                self.servers[slot].judge(
                    &seen,
                    newest.most[0] + newest.most[1] - 2.0 * base,
                    2.0 * variance.sqrt(),
                );
            }
        }
        self.balance();
        if self.surprise(slot) {
            return;
        }
        self.note_slopes();
        if self.counted < YOUNG {
            self.sweep_all(1);
        } else if self.last - self.swept >= ROUND {
            self.swept = self.last;
            let mut traces = self.traces();
            self.sweep(self.best(), &mut traces);
            self.turn = (self.turn + 1) % self.members.len();
            self.sweep(self.turn, &mut traces);
        }
    }

    /// Room for a forward pass. Some 20 kB that only the moment needs: nobody keeps it.
    fn traces(&self) -> Vec<[Trace; 2]> {
        vec![[Trace::NONE; 2]; self.samples.len()]
    }

    fn sweep_all(&mut self, times: usize) {
        let mut traces = self.traces();
        for _ in 0..times {
            for n in 0..self.members.len() {
                self.sweep(n, &mut traces);
            }
        }
    }

    /// Another route, another server's clock, another crystal: what no longer fits is learned
    /// anew. True when something was.
    fn surprise(&mut self, slot: usize) -> bool {
        let server = self.servers[slot];
        if server.too_late() {
            self.reroute(slot, server.late as usize);
            return true;
        }
        if server.too_fast() {
            self.reroute(slot, server.since_fast as usize);
            return true;
        }
        if server.broken < 3 {
            return false;
        }
        let (base, variance) = self.members[self.best()].base(slot);
        let round = self
            .samples
            .iter()
            .rev()
            .filter(|s| usize::from(s.slot) == slot)
            .take(server.broken as usize)
            .map(|s| s.most[0] + s.most[1])
            .fold(f64::INFINITY, f64::min);
        if round < 2.0 * base - 6.0 * variance.sqrt() - 4.0 * server.softness().sqrt() {
            self.reroute(slot, server.broken as usize);
            return true;
        }
        let (mut broken, mut all) = (0, 0);
        for s in self.servers_that_count() {
            all += 1;
            broken += u32::from(s.broken >= 2);
        }
        if server.broken >= 4 && 2 * broken > all {
            self.upset(slot, server.broken as usize, server.doubt);
            return true;
        }
        false
    }

    /// A server is reached by another route since its last `packets`: its base delay is learned
    /// anew, and the offset held meanwhile, which shows how uneven the change was.
    fn reroute(&mut self, slot: usize, packets: usize) {
        let best = self.best();
        let own = |s: &Seconds| usize::from(s.slot) == slot && s.counts;
        let mut first = self.samples.len();
        let mut found = 0;
        let mut edge = [f64::INFINITY; 2];
        for (i, s) in self.samples.iter().enumerate().rev().filter(|(_, s)| own(s)).take(packets) {
            let (x, _) = self.members[best].at(&s.moment(), &[0.0; KINDS]);
            edge = [edge[0].min(s.most[0] - x[0]), edge[1].min(s.most[1] + x[0])];
            (first, found) = (i, found + 1);
        }
        if found == 0 {
            return;
        }
        // At the start the offset held is worth less than the faster packet.
        let early = self.servers[slot].too_fast() && self.servers[slot].heard < 48;
        if !early {
            for _ in 0..first {
                self.shed_first();
            }
        }
        let now = self.thermometer.moment(self.last);
        let sd = self.members[best].at(&now, &[0.0; KINDS]).1[0].sqrt();
        let server = &mut self.servers[slot];
        let unsure =
            server.slow / f64::from(found) + sd + (server.softness() / f64::from(found)).sqrt();
        let uneven = server.skew + (edge[0] - edge[1]) / 2.0;
        let real = uneven.abs() > 4.0 * unsure && !early;
        let change = if real { uneven } else { 0.0 } - server.skew;
        server.skew += change;
        server.skew_sd = if real { unsure } else { 0.0 };
        server.reroute((edge[0] + edge[1]).max(0.0));
        let (mean, variance) = server.first_base();
        for (i, s) in
            self.samples.iter_mut().enumerate().filter(|(_, s)| usize::from(s.slot) == slot)
        {
            s.most = [s.most[0] - change, s.most[1] + change];
            self.members.iter_mut().for_each(|m| m.unsay(i));
        }
        if early {
            self.samples.drain(..first);
            self.counted = self.samples.iter().filter(|s| s.counts).count() as u32;
            self.begin();
            return;
        }
        self.members.iter_mut().for_each(|m| m.set_base(slot, mean, variance));
        self.sweep_all(3);
    }

    /// Offset or frequency are not what they were: starts again from a server's last `packets`.
    fn upset(&mut self, slot: usize, packets: usize, by: f64) {
        let own = |s: &Seconds| usize::from(s.slot) == slot && s.counts;
        let mut indices =
            self.samples.iter().enumerate().rev().filter(|(_, s)| own(s)).map(|(i, _)| i);
        let Some(first) =
            indices.nth(packets.saturating_sub(1)).or_else(|| self.samples.iter().position(own))
        else {
            return;
        };
        let since = self.samples.last().map_or(0.0, |s| s.t)
            - self.samples[..first].iter().rfind(|s| s.counts).map_or(f64::INFINITY, |s| s.t);
        let slope = if since.is_finite() { by / since.max(1.0) } else { 0.0 };
        let frequency = self.members[self.best()].frequency(&self.thermometer.warmth(self.last));
        let frequency = if frequency.is_finite() { frequency } else { 0.0 };
        self.start = (frequency, slope.clamp(2e-6, 0.02));
        self.samples.drain(..first);
        for server in &mut self.servers {
            server.broken = 0;
            server.doubt = 0.0;
            server.late = 0;
        }
        self.counted = self.samples.iter().filter(|s| s.counts).count() as u32;
        self.burst(self.last, self.counted);
        self.begin();
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

    fn sweep(&mut self, n: usize, traces: &mut [[Trace; 2]]) {
        let best = n == self.best();
        let (queues, walks, dim) = self.shared();
        let shared = Shared { samples: &self.samples, queues: &queues, base_walk: &walks, dim };
        let mut tallies = [[Tally::NONE; 2]; SLOTS];
        self.members[n].sweep(&shared, traces, 0.7, |slot, d, seen, beyond| {
            tallies[slot][d].count(seen, beyond);
        });
        if best {
            for (server, tally) in self.servers.iter_mut().zip(&tallies) {
                server.learn(tally);
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
        self.said.set(None);
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
        let counted = self.samples.iter().filter(|s| s.counts).count() as u32;
        if self.shed {
            self.counted = self.counted.max(counted);
            self.sweep_all(2);
        } else {
            // Nothing is left of those who do not count any more.
            self.counted = counted;
            self.begin();
        }
    }

    /// The name of every instant changed by this much, as at a leap second: the crystal is the same.
    pub fn rename(&mut self, by: Nanos) {
        self.said.set(None);
        if let Some((_, base)) = &mut self.origin {
            *base = *base + by;
        }
    }

    /// Drops all that is known of a server.
    pub fn forget(&mut self, server: ServerId) {
        self.said.set(None);
        if let Some(slot) = self.slot(server) {
            self.drop_slot(slot);
        }
    }

    /// The estimate at an instant; its bound grows with the learned wander.
    #[must_use]
    pub fn estimate(&self, at: RawTime) -> Option<Estimate> {
        // One event asks many times within a millisecond: carried on, and the bound with it.
        if let Some(said) = self.said.get()
            && (at - said.at).abs() < SAME_MOMENT
        {
            let later = at - said.at;
            return Some(Estimate {
                at,
                truth: said.truth + said.frequency.over(later),
                bound: said.bound + said.frequency_bound.over(later.abs()),
                age: (said.age + later).max(Nanos::ZERO),
                ..said
            });
        }
        let fresh = self.compute(at);
        self.said.set(fresh);
        fresh
    }

    fn compute(&self, at: RawTime) -> Option<Estimate> {
        let (_, base) = self.origin?;
        if self.counted == 0 {
            return None;
        }
        let t = self.seconds(at);
        let (moment, warmth) = (self.thermometer.moment(t), self.thermometer.warmth(t));
        let mut shares = [0.0; BANK.len()];
        for (share, m) in shares.iter_mut().zip(&self.members) {
            *share = libm::exp(m.weight);
        }
        mixture::leave_out_the_rare(&mut shares);
        let evenness = 1.0
            - self.servers_that_count().map(Server::sharpness).sum::<f64>()
                / self.servers_that_count().count().max(1) as f64;
        let stretch = STRETCH + STRETCH_EVEN * evenness;
        let mut mean = [0.0; 3];
        let mut parts = [[(0.0, 0.0, 0.0); BANK.len()]; 2];
        for (i, m) in self.members.iter().enumerate() {
            let share = shares[i];
            if share == 0.0 {
                continue;
            }
            let (x, mut v) = m.at(&moment, &warmth);
            if let Some(kind) = m.wander.thermal {
                let beyond = BENT * self.beyond(kind, warmth[kind]);
                v[1] += beyond * beyond;
                v[0] += (beyond * (t - self.last).max(0.0)).powi(2);
            }
            for k in 0..3 {
                mean[k] += share * x[k];
            }
            for k in 0..2 {
                parts[k][i] = (share, x[k], v[k].sqrt() * stretch);
            }
        }
        let (spread, doubt) = self.disagreement();
        // What a clock does not show no averaging brings back.
        let hidden = self.servers_that_count().map(Server::precision).fold(f64::INFINITY, f64::min);
        let bound = libm::hypot(within(&parts[0], mean[0]), COVER * spread).max(doubt)
            + if hidden.is_finite() { 0.6 * hidden } else { 0.0 };
        Some(Estimate {
            at,
            truth: base + Nanos::from_secs_f64(mean[0]),
            frequency: Ppm::from_slope(mean[1]),
            bound: Nanos::from_secs_f64(bound),
            frequency_bound: Ppm::from_slope(within(&parts[1], mean[1])),
            rate: mean[2] * 1e6,
            age: Nanos::from_secs_f64((t - self.last).max(0.0)),
        })
    }

    fn servers_that_count(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|s| s.id.is_some_and(|id| self.counts(id)))
    }

    /// What the servers' disagreement adds: a standard deviation for asymmetries they cannot all
    /// share, and a least bound while most of them break their edges.
    fn disagreement(&self) -> (f64, f64) {
        let (mut n, mut squares, mut expected, mut skew) = (0.0, 0.0, 0.0, 0.0);
        let (mut all, mut broken, mut doubt) = (0, 0, 0.0_f64);
        for s in self.servers_that_count() {
            all += 1;
            if s.broken > 0 {
                broken += 1;
                doubt = doubt.max(s.doubt);
            }
            skew += s.skew_sd * s.skew_sd;
            if s.view.1.is_finite() {
                n += 1.0;
                squares += s.view.0 * s.view.0;
                expected += 2.0 * s.view.1 * s.view.1;
            }
        }
        let mut spread = skew / f64::from(all.max(1));
        if n > 1.5 {
            spread += (squares - expected).max(0.0) / n;
        }
        (spread.sqrt(), if 2 * broken >= all.max(1) { doubt * 1.5 } else { 0.0 })
    }

    /// Takes a reading of the board's thermometer.
    pub fn temperature(&mut self, at: RawTime, celsius: f64) {
        self.said.set(None);
        self.thermometer.read(self.seconds(at), celsius);
    }

    /// By how many kelvin a warmth is outside the range its slope was learned in.
    fn beyond(&self, kind: usize, warmth: f64) -> f64 {
        let Some((low, high)) = self.learned[kind].map(|l| l.range) else { return 0.0 };
        let celsius = warmth + self.thermometer.reference.unwrap_or(0.0);
        (low - celsius).max(celsius - high).max(0.0)
    }

    /// What the thermal members know at the newest sample.
    fn note_slopes(&mut self) {
        let Some(reference) = self.thermometer.reference else { return };
        let warmth = self.thermometer.warmth(self.last);
        for m in &self.members {
            let Some(kind) = m.wander.thermal else { continue };
            let (slope, variance) = (m.after.mean[SWING], m.after.cov[SWING][SWING]);
            if !(slope.is_finite() && variance > 0.0 && variance.is_finite()) {
                continue;
            }
            let at = warmth[kind] + reference;
            let (low, high) = self.learned[kind].map_or((at, at), |l| l.range);
            let range = (low.min(at), high.max(at));
            self.learned[kind] = Some(Learned { slope, variance, at, range });
        }
    }

    /// How long after its last exchange a server's next one is worth its packet.
    #[must_use]
    pub fn wanted_poll(&self, _at: RawTime, base: Nanos) -> Nanos {
        let base = Nanos::from_secs_f64(base.as_secs_f64() * SPARE);
        let seconds = match self.fresh {
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
            thermal: self.learned.iter().flatten().flat_map(Learned::kept).collect(),
        })
    }

    /// Takes up what the drift file kept; absurd values are ignored. Before the first sample only.
    pub fn restore(&mut self, memory: &DriftMemory) {
        self.said.set(None);
        if sane(memory.frequency_ppm, memory.sd_ppm) {
            // the crystal was off, and is colder or warmer now
            let sd = Ppm::new(libm::hypot(memory.sd_ppm, 0.5));
            self.expect(Some(FrequencyPrior { frequency: Ppm::new(memory.frequency_ppm), sd }));
        }
        if memory.thermal.len() == 5 * KINDS {
            for (learned, kept) in self.learned.iter_mut().zip(memory.thermal.chunks(5)) {
                *learned = Learned::from_kept(kept);
            }
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
}

fn sane(ppm: f64, sd: f64) -> bool {
    ppm.abs() < 1e5 && sd > 0.0 && sd < 1e5
}

fn bank() -> Vec<Member> {
    BANK.iter().map(|&(wander, common)| Member::new(wander, common)).collect()
}
