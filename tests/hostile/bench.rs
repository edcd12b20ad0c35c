//! The pure engine among servers that lie as the seconds pass: no socket, no real time, the same
//! chances on every machine.
use crate::rules::Rules;
use leadville_timesync::engine::discipline::{self, Correction};
use leadville_timesync::engine::estimator::DriftMemory;
use leadville_timesync::engine::packet::{Bogus, Exchange, LEN, Why, ntp};
use leadville_timesync::engine::source::{ServerSpec, Standing};
use leadville_timesync::engine::{Engine, Event, Input, Output, Phase, ServerId, Settings, View};
use leadville_timesync::sim::Random;
use leadville_timesync::units::{Nanos, RawTime, Reading, UtcTime};

pub const MS: i64 = 1_000_000;
pub const S: i64 = 1_000_000_000;
pub const HOUR: i64 = 3_600 * S;
pub const DAY: i64 = 86_400 * S;
/// 15 January 2027, 08:00 UTC.
pub const START: i64 = 1_800_000_000_000_000_000;

/// The way to a server and back at one moment, ns; `None`: lost.
pub type Way = dyn Fn(ServerId, i64, &mut Random) -> Option<(i64, i64)>;
/// By how much a server is wrong at a moment of the run, ns.
pub type Wrong = dyn Fn(ServerId, i64) -> i64;
/// What else a server does to its reply.
pub type Spoil = dyn Fn(ServerId, i64, &mut [u8; LEN]);

/// A machine, its crystal, its servers.
pub struct Bench {
    pub engine: Engine,
    /// The machine's raw clock, ns.
    pub raw: i64,
    /// Realtime − raw.
    pub ours: i64,
    /// True − raw.
    pub truth: i64,
    /// What the crystal loses, ppm.
    pub crystal: f64,
    /// What the kernel was told, ppm.
    pub told: f64,
    pub slew: i64,
    pub way: Box<Way>,
    pub wrong: Box<Wrong>,
    pub spoil: Box<Spoil>,
    pub steps: Vec<i64>,
    pub events: Vec<Event>,
    pub asked: Vec<i64>,
    /// Largest |true − ours| seen since the last [`Bench::forget`], ns.
    pub worst: i64,
    pub flags: Option<discipline::KernelStatus>,
    /// The kernel carries out leap seconds.
    pub leaps: bool,
    leapt: bool,
    chance: Random,
    began: i64,
    fraction: f64,
    limits: discipline::Limits,
    rules: Option<Rules>,
}

/// How a bench begins.
pub struct Plan {
    pub servers: usize,
    pub behind: i64,
    pub start: i64,
    pub settings: Settings,
    pub specs: Option<Vec<ServerSpec>>,
}

impl Plan {
    pub fn new(servers: usize) -> Self {
        let settings = Settings {
            sync_interval: Nanos::from_secs(64),
            limits: discipline::Limits::default(),
            built: UtcTime::from_nanos(START - 30 * DAY),
            mark: None,
            settled: false,
            restored: false,
            steer: true,
            memory: None,
            spent: Vec::new(),
            seed: 1,
        };
        Self { servers, behind: 0, start: START, settings, specs: None }
    }
    pub fn behind(mut self, ns: i64) -> Self {
        self.behind = ns;
        self
    }
    pub fn settled(mut self) -> Self {
        self.settings.settled = true;
        self
    }
    pub fn remembering(mut self, ppm: f64) -> Self {
        let memory = DriftMemory { frequency_ppm: ppm, sd_ppm: 0.1, ..DriftMemory::default() };
        self.settings.memory = Some(memory);
        self
    }
    pub fn go(self) -> Bench {
        Bench::new(self)
    }
}

pub fn specs(servers: usize) -> Vec<ServerSpec> {
    let spec = |n: usize| ServerSpec {
        name: format!("s{n}"),
        operator: format!("o{n}"),
        ..ServerSpec::default()
    };
    (0..servers).map(spec).collect()
}

impl Bench {
    pub fn new(plan: Plan) -> Self {
        let raw = 1_000 * S;
        let truth = plan.start - raw;
        let ours = truth - plan.behind;
        let now = Reading { raw: RawTime::from_nanos(raw), utc: UtcTime::from_nanos(raw + ours) };
        let specs = plan.specs.unwrap_or_else(|| specs(plan.servers));
        let told = plan.settings.memory.as_ref().map_or(0.0, |m| m.frequency_ppm);
        let limits = plan.settings.limits.clone();
        Self {
            limits,
            rules: None,
            engine: Engine::new(plan.settings, specs, now),
            raw,
            ours,
            truth,
            crystal: 0.0,
            told,
            slew: 0,
            way: Box::new(|_, _, _| Some((10 * MS, 10 * MS))),
            wrong: Box::new(|_, _| 0),
            spoil: Box::new(|_, _, _| {}),
            steps: Vec::new(),
            events: Vec::new(),
            asked: Vec::new(),
            worst: 0,
            flags: None,
            leaps: false,
            leapt: false,
            chance: Random::new(7, 1),
            began: raw,
            fraction: 0.0,
        }
    }

    /// From now on a referee looks on.
    pub fn watched(&mut self) {
        self.rules = Some(Rules::new(self.limits.clone(), self.now(), self.told));
    }
    /// Whether the world itself carries out the leap second at midnight, whatever the kernel does.
    pub fn world_leaps(&mut self, does: bool) {
        self.leapt = !does;
    }
    /// A stranger sets the clock.
    pub fn jump(&mut self, by: i64) {
        self.ours += by;
        if let Some(rules) = &mut self.rules {
            rules.foreign(by);
        }
    }
    pub fn now(&self) -> Reading {
        let (raw, utc) = (self.raw, self.raw + self.ours);
        Reading { raw: RawTime::from_nanos(raw), utc: UtcTime::from_nanos(utc) }
    }
    /// Since the start of the run, ns.
    pub fn t(&self) -> i64 {
        self.raw - self.began
    }
    pub fn true_utc(&self) -> i64 {
        self.raw + self.truth
    }
    pub fn view(&self) -> View {
        self.engine.view(self.now())
    }
    pub fn phase(&self) -> Phase {
        self.view().phase
    }
    pub fn standing(&self, id: ServerId) -> &Standing {
        &self.engine.sources()[id].standing
    }
    /// True − ours, ns.
    pub fn error(&self) -> i64 {
        self.truth - self.ours
    }
    /// Forgets the worst so far.
    pub fn forget(&mut self) {
        self.worst = 0;
    }

    /// Lets time pass: crystal, kernel frequency, kernel slew, and the kernel's leap second.
    pub fn pass(&mut self, ns: i64) {
        let mut left = ns;
        while left > 0 {
            // Finely only where a leap second may fall between.
            let span = left.min(if self.leaps { S / 4 } else { 16 * S });
            left -= span;
            let most = span / 2_000;
            let done = self.slew.clamp(-most, most);
            self.slew -= done;
            let before = (self.true_utc(), self.raw + self.ours);
            self.raw += span;
            // The raw clock loses what the crystal loses; the kernel adds what it was told.
            self.fraction += span as f64 * self.told * 1e-6;
            self.ours += done + self.fraction as i64;
            self.fraction -= self.fraction.trunc();
            self.truth += (span as f64 * self.crystal * 1e-6).round() as i64;
            let midnight = |t: i64| t.div_euclid(DAY);
            if self.leaps && !self.leapt && midnight(before.0) != midnight(self.true_utc()) {
                self.truth -= S;
                self.leapt = true;
            }
            let armed = self.flags.is_some_and(|f| f.leap == discipline::Leap::Insert);
            if self.leaps && armed && midnight(before.1) != midnight(self.raw + self.ours) {
                self.ours -= S;
                self.flags = None;
            }
            self.worst = self.worst.max(self.error().abs());
        }
    }

    pub fn feed(&mut self, input: Input<'_>) -> Vec<ServerId> {
        let now = self.now();
        let before = self.rules.as_mut().map(|r| r.before(&self.engine, now, &input));
        let outputs: Vec<Output> = self.engine.handle(now, input).collect();
        if let (Some(rules), Some(before)) = (&mut self.rules, &before) {
            rules.after(before, &self.engine, now, &outputs);
        }
        let mut asks = Vec::new();
        for output in outputs {
            match output {
                Output::Ask(id) => asks.push(id),
                Output::Steer(Correction::Step(by)) => {
                    self.ours += by.get();
                    self.steps.push(by.get());
                }
                Output::Steer(Correction::Slew(by)) => self.slew = by.get(),
                Output::Steer(Correction::Frequency(f)) => self.told = f.get(),
                Output::Kernel(flags) => self.flags = Some(flags),
                Output::Tell(event) => self.events.push(event),
            }
        }
        asks
    }

    /// A server's reply to a request sent now, and when it is here; `None` when it is lost.
    fn reply(&mut self, id: ServerId) -> Option<Exchange> {
        let t = self.t();
        let (out, home) = (self.way)(id, t, &mut self.chance)?;
        let at = self.true_utc() + out + (self.wrong)(id, t);
        let mut packet = [0; LEN];
        (packet[0], packet[1], packet[3]) = (0b00_100_100, 2, (-20_i8).cast_unsigned());
        packet[12..16].copy_from_slice(&[192, 0, 2, id as u8 + 1]);
        packet[16..24].copy_from_slice(&(id as u64 + 1).to_be_bytes());
        packet[32..40].copy_from_slice(&ntp(UtcTime::from_nanos(at)).to_be_bytes());
        packet[40..48].copy_from_slice(&ntp(UtcTime::from_nanos(at + 1_000)).to_be_bytes());
        (self.spoil)(id, t, &mut packet);
        let (sent, received) = (self.raw, self.raw + out + home + 1_000);
        Some(Exchange {
            packet,
            sent: RawTime::from_nanos(sent),
            received: RawTime::from_nanos(received),
            bogus: Bogus::default(),
        })
    }

    /// Runs so many seconds.
    pub fn run(&mut self, seconds: i64) {
        let end = self.raw + seconds * S;
        loop {
            let next = self.engine.next_tick().map_or(end, RawTime::as_nanos);
            if next >= end {
                self.pass((end - self.raw).max(0));
                return;
            }
            self.pass((next - self.raw).max(1));
            self.happen(Input::Tick);
        }
    }

    /// Lets something happen, and the exchanges that come of it.
    pub fn happen(&mut self, input: Input<'_>) {
        let mut asked = self.feed(input);
        while let Some(id) = asked.pop() {
            self.asked.push(self.t());
            asked.extend(match self.reply(id) {
                None => {
                    self.pass(S);
                    self.feed(Input::Failed(id, Why::Timeout, Bogus::default()))
                }
                Some(exchange) => {
                    self.pass(exchange.received.as_nanos() - exchange.sent.as_nanos());
                    self.feed(Input::Exchange(id, &exchange))
                }
            });
        }
    }

    /// Runs until a moment of the run, ns.
    pub fn until(&mut self, t: i64) {
        self.run((t - self.t()) / S);
    }
}
