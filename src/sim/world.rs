//! Crystal, kernel clock, network and servers under one true time, which is handed in.
use super::clock::SimClock;
use super::crystal::Crystal;
use super::network::Network;
use super::random::Random;
use super::scenario::Scenario;
use super::server::SimServer;
use crate::engine::packet;
use crate::units::{Nanos, RawTime, Reading, UtcTime};

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// Which server was asked.
    pub server: usize,
    /// True time (ns since the start) at which the reply is here; `None` when one is lost.
    pub lands: Option<i64>,
    sent: RawTime,
    t2: UtcTime,
    t3: UtcTime,
    nonce: u64,
}

/// A reply that has come.
#[derive(Clone, Copy, Debug)]
pub struct Returned {
    /// The datagram.
    pub packet: [u8; packet::LEN],
    /// Raw instant of T1.
    pub sent: RawTime,
    /// Raw instant of T4.
    pub received: RawTime,
}

struct Peer {
    server: SimServer,
    network: Network,
    chance: Random,
    asked: u32,
}

/// The world of a scenario. Its true time only moves when told to.
pub struct World {
    now: i64,
    start: UtcTime,
    raw_zero: i64,
    crystal: Crystal,
    clock: SimClock,
    peers: Vec<Peer>,
    foreign: Option<(i64, i64, Nanos)>,
    thermometer: bool,
}

/// The raw clock at the start: a machine up for twenty seconds.
const BOOTED: i64 = 20_000_000_000;
/// A board is cold after so long without power.
const COOLS: Nanos = Nanos::from_secs(600);

impl World {
    /// The world of this scenario, its chances drawn from `seed`.
    #[must_use]
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let peers = scenario
            .servers
            .iter()
            .enumerate()
            .map(|(n, (server, network))| Peer {
                server: server.clone(),
                network: network.clone(),
                chance: Random::new(seed, 100 + n as u64),
                asked: 0,
            })
            .collect();
        let ns = |s: f64| (s * 1e9) as i64;
        Self {
            now: 0,
            start: scenario.start,
            raw_zero: BOOTED,
            crystal: Crystal::new(scenario.crystal.clone(), seed),
            clock: SimClock::new(RawTime::from_nanos(BOOTED), scenario.start - scenario.behind),
            peers,
            foreign: scenario.foreign_steps.map(|(at, every, by)| (ns(at), ns(every), by)),
            thermometer: scenario.thermometer,
        }
    }
    /// True nanoseconds since the start.
    #[must_use]
    pub const fn now(&self) -> i64 {
        self.now
    }
    /// True time.
    #[must_use]
    pub fn true_utc(&self) -> UtcTime {
        self.start + Nanos::new(self.now)
    }
    /// The raw clock.
    #[must_use]
    pub fn raw(&self) -> RawTime {
        RawTime::from_nanos(self.raw_zero + self.now + self.crystal.gained(self.now))
    }
    /// Both clocks of the machine.
    #[must_use]
    pub const fn reading(&self) -> Reading {
        self.clock.reading()
    }
    /// True time minus the machine's clock.
    #[must_use]
    pub fn offset(&self) -> Nanos {
        self.true_utc() - self.clock.reading().utc
    }
    /// True time minus the raw clock: what an estimator looks for.
    #[must_use]
    pub fn truth_minus_raw(&self) -> Nanos {
        self.true_utc().minus_raw(self.raw())
    }
    /// The crystal's error, ppm; positive runs fast.
    #[must_use]
    pub fn crystal_ppm(&self) -> f64 {
        self.crystal.ppm()
    }
    /// The thermometer, where the scenario has one. °C.
    #[must_use]
    pub fn thermometer(&self) -> Option<f64> {
        self.crystal.thermometer().filter(|_| self.thermometer)
    }
    /// The machine's clock, to be steered.
    pub const fn clock(&mut self) -> &mut SimClock {
        &mut self.clock
    }
    /// Number of servers.
    #[must_use]
    pub const fn servers(&self) -> usize {
        self.peers.len()
    }
    /// Requests sent to a server so far.
    #[must_use]
    pub fn asked(&self, server: usize) -> u32 {
        self.peers.get(server).map_or(0, |p| p.asked)
    }
    /// Goes on to this true instant (never back). True when somebody else set the clock meanwhile.
    pub fn advance(&mut self, now: i64) -> bool {
        let mut stepped = false;
        while self.now < now {
            let mut to = now.min((self.now / 1_000_000_000 + 1) * 1_000_000_000);
            if let Some((at, every, by)) = self.foreign {
                if at <= self.now {
                    self.clock.step(by);
                    self.foreign = Some((at + every, every, by));
                    stepped = true;
                } else {
                    to = to.min(at);
                }
            }
            self.now = to;
            self.crystal.advance(self.now);
            let raw = self.raw();
            self.clock.advance(raw);
        }
        stepped
    }
    /// About the true instant at which the raw clock will show `raw`; always in the future.
    #[must_use]
    pub fn when(&self, raw: RawTime) -> i64 {
        let ahead = (raw - self.raw()).get() as f64 / (1.0 + self.crystal.ppm() * 1e-6);
        self.now + (ahead.ceil() as i64).max(1_000)
    }
    /// The power fails for so long: the raw clock starts again, our clock shows `utc`.
    pub fn restart(&mut self, off: Nanos, utc: UtcTime) {
        self.advance(self.now + off.get());
        if off > COOLS {
            self.crystal.cool();
        }
        self.raw_zero += BOOTED - self.raw().as_nanos();
        self.clock = SimClock::new(self.raw(), utc);
    }
    /// Sends a request to a server.
    pub fn ask(&mut self, server: usize) -> Flight {
        let (now, utc, sent) = (self.now, self.true_utc(), self.raw());
        let peer = &mut self.peers[server];
        peer.asked += 1;
        let seconds = |ns: i64| ns as f64 * 1e-9;
        let ns = |s: f64| (s * 1e9).round() as i64;
        let nonce = peer.chance.bits();
        // Both ways are always drawn, so that one loss does not shift the chances after it.
        let served = ns(20e-6 + 30e-6 * peer.chance.uniform());
        let out = peer.network.travel(seconds(now), false, &mut peer.chance).map(ns);
        let there = now + out.unwrap_or(0);
        let home = peer.network.travel(seconds(there + served), true, &mut peer.chance).map(ns);
        let at = |t: i64| peer.server.clock(utc + Nanos::new(t - now), seconds(t));
        Flight {
            server,
            lands: out.and(home).map(|home| there + served + home),
            sent,
            t2: at(there),
            t3: at(there + served),
            nonce,
        }
    }
    /// Receives the reply of a request; call it once `lands` has been reached.
    #[must_use]
    pub fn land(&self, flight: &Flight) -> Returned {
        let server = &self.peers[flight.server].server;
        Returned {
            packet: server.reply(flight.nonce, flight.t2, flight.t3),
            sent: flight.sent,
            received: self.raw(),
        }
    }
}
