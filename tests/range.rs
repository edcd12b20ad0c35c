//! Computers of a range that agree through each other: whole engines, each with its own crystal and
//! kernel clock, Wi-Fi between them, and no internet. Nobody's own time is right; agreement counts.
use leadville_timesync::engine::byhand::{How, Word};
use leadville_timesync::engine::discipline::{Correction, Limits};
use leadville_timesync::engine::packet::{Bogus, Exchange, LEN, Why, request};
use leadville_timesync::engine::serve::{Reference, Service};
use leadville_timesync::engine::source::ServerSpec;
use leadville_timesync::engine::{Engine, Input, Output, Phase, Settings, View};
use leadville_timesync::sim::shooter::{Course, Habit, Radio, Shooter};
use leadville_timesync::sim::{Crystal, CrystalPlan, Jitter, Network, Random, SimClock, Way};
use leadville_timesync::timer::bay::Bay;
use leadville_timesync::timer::epoch::Delay;
use leadville_timesync::timer::string::Happening;
use leadville_timesync::units::{Nanos, RawTime, Reading, UtcTime};

const S: i64 = 1_000_000_000;
const MIN: i64 = 60 * S;
const HOUR: i64 = 60 * MIN;
/// 1 May 2027, 08:00 UTC.
const START: i64 = 1_809_158_400 * S;
/// The raw clock when the daemon starts.
const BOOTED: i64 = 20 * S;
const TIMEOUT: i64 = 2 * S;

/// One computer.
struct Host {
    engine: Option<Engine>,
    crystal: Crystal,
    clock: SimClock,
    raw_zero: i64,
    steps: Vec<i64>,
    restarts: u64,
}

enum Event {
    /// A request is at the other one.
    There {
        from: usize,
        server: usize,
        sent: RawTime,
    },
    /// A reply is back.
    Back {
        to: usize,
        server: usize,
        sent: RawTime,
        packet: [u8; LEN],
    },
    Lost {
        to: usize,
        server: usize,
    },
}

/// The range: each host asks a neighbour; a host may also ask a server on the internet.
struct Range {
    now: i64,
    hosts: Vec<Host>,
    /// Whom each host asks.
    asks: &'static [usize],
    events: Vec<(i64, Event)>,
    wifi: Network,
    chance: Random,
    /// Which hosts reach a server with true time, as their second source.
    internet: [bool; 3],
    interval: Nanos,
    seed: u64,
}

/// Wi-Fi of a range: a millisecond, queues behind other traffic, one packet in fifty lost.
fn wifi() -> Network {
    let way = Way { base: 0.001, jitter: Jitter::Exponential(0.001), loss: 0.02 };
    Network { out: way, home: way, weather: Vec::new() }
}

fn address(host: usize) -> [u8; 4] {
    [192, 168, 4, host as u8 + 1]
}

impl Range {
    /// Two that ask each other.
    fn new(seed: u64, servers: usize) -> Self {
        Self::of(&[1, 0], seed, servers)
    }

    /// A third one behind them.
    fn chain(seed: u64, servers: usize) -> Self {
        Self::of(&[1, 0, 1], seed, servers)
    }

    fn of(asks: &'static [usize], seed: u64, servers: usize) -> Self {
        let mut chance = Random::new(seed, 77);
        let ppm = [-14.0, 9.0, 4.0].into_iter().take(asks.len());
        let ppm: Vec<f64> = ppm.map(|ppm| ppm + 4.0 * chance.normal()).collect();
        let hosts = ppm.iter().enumerate().map(|(n, &constant_ppm)| {
            let plan = CrystalPlan { constant_ppm, walk: 1e-9, ..CrystalPlan::default() };
            // Whatever the clock file said; some seconds apart.
            let behind = (1 + n as i64) * 40 * S + (chance.uniform() * 1e9) as i64;
            Host {
                engine: None,
                crystal: Crystal::new(plan, seed * 2 + n as u64),
                clock: SimClock::new(
                    RawTime::from_nanos(BOOTED),
                    UtcTime::from_nanos(START - behind),
                ),
                raw_zero: BOOTED,
                steps: Vec::new(),
                restarts: 0,
            }
        });
        let hosts = hosts.collect();
        let mut range = Self {
            now: 0,
            hosts,
            asks,
            events: Vec::new(),
            wifi: wifi(),
            chance,
            internet: [false; 3],
            interval: Nanos::from_secs(64),
            seed,
        };
        for host in 0..asks.len() {
            range.boot(host, servers);
        }
        range
    }

    fn raw(&self, host: usize) -> RawTime {
        let h = &self.hosts[host];
        RawTime::from_nanos(h.raw_zero + self.now + h.crystal.gained(self.now))
    }

    fn reading(&self, host: usize) -> Reading {
        self.hosts[host].clock.reading()
    }

    /// A daemon starts; what the one before learned of the crystal is on the disk.
    fn boot(&mut self, host: usize, servers: usize) {
        let old = self.hosts[host].engine.take();
        self.hosts[host].restarts += 1;
        let settings = Settings {
            sync_interval: self.interval,
            limits: Limits::default(),
            built: UtcTime::from_nanos(START) - Nanos::from_secs(30 * 86_400),
            mark: old.as_ref().and_then(Engine::mark),
            settled: false,
            restored: true,
            steer: true,
            memory: old.as_ref().and_then(Engine::memory),
            spent: Vec::new(),
            seed: self.seed * 1_000 + host as u64 * 100 + self.hosts[host].restarts,
        };
        let neighbour = ServerSpec {
            name: format!("neighbour {}", self.asks[host]),
            operator: "range".into(),
            nearby: true,
            ..ServerSpec::default()
        };
        let server = ServerSpec {
            name: "server".into(),
            operator: "internet".into(),
            ..ServerSpec::default()
        };
        let specs = [neighbour, server].into_iter().take(servers).collect();
        let mut engine = Engine::new(settings, specs, self.reading(host));
        engine.set_own_addresses(vec![address(host)]);
        engine.serve_local(true);
        self.hosts[host].engine = Some(engine);
        self.feed(host, Input::Tick);
    }

    /// The power fails for so long; the clock file is up to five minutes old.
    fn power_cut(&mut self, host: usize, seconds: i64, servers: usize) {
        let saved = self.reading(host).utc - Nanos::from_secs(130);
        let memory = self.hosts[host].engine.take();
        self.events.retain(|(_, e)| match e {
            Event::There { from: h, .. }
            | Event::Back { to: h, .. }
            | Event::Lost { to: h, .. } => *h != host,
        });
        self.run(seconds * S);
        let raw = self.raw(host);
        let h = &mut self.hosts[host];
        h.raw_zero += BOOTED - raw.as_nanos();
        h.engine = memory;
        let raw = self.raw(host);
        self.hosts[host].clock = SimClock::new(raw, saved);
        self.boot(host, servers);
    }

    fn feed(&mut self, host: usize, input: Input<'_>) {
        let now = self.reading(host);
        let Some(engine) = self.hosts[host].engine.as_mut() else { return };
        let outputs: Vec<Output> = engine.handle(now, input).collect();
        for output in outputs {
            let clock = &mut self.hosts[host].clock;
            match output {
                Output::Ask(server) => self.send(host, server),
                Output::Steer(Correction::Step(by)) => {
                    clock.step(by);
                    self.hosts[host].steps.push(by.get());
                }
                Output::Steer(Correction::Slew(by)) => clock.slew(by),
                Output::Steer(Correction::Frequency(f)) => clock.set_frequency(f),
                Output::Kernel(_) | Output::Tell(_) => {}
            }
        }
    }

    fn travel(&mut self, homeward: bool, server: usize) -> Option<i64> {
        let more = if server == 1 { 0.012 } else { 0.0 };
        let t = self.now as f64 * 1e-9;
        self.wifi.travel(t, homeward, &mut self.chance).map(|s| ((s + more) * 1e9) as i64)
    }

    fn send(&mut self, from: usize, server: usize) {
        let sent = self.raw(from);
        let lost = Event::Lost { to: from, server };
        let reached = server == 0 || self.internet[from];
        match self.travel(false, server).filter(|_| reached) {
            Some(way) => self.events.push((self.now + way, Event::There { from, server, sent })),
            None => self.events.push((self.now + TIMEOUT, lost)),
        }
    }

    /// What the other one answers, if it does.
    fn served(&mut self, from: usize, server: usize) -> Option<[u8; LEN]> {
        let asked = request(self.chance.bits() | 1);
        if server == 1 {
            let truth = Service {
                at: RawTime::from_nanos(0),
                truth: Nanos::new(START),
                frequency: leadville_timesync::units::Ppm::new(0.0),
                stratum: 1,
                leap: leadville_timesync::engine::packet::Leap::None,
                root_delay: Nanos::ZERO,
                root_dispersion: Nanos::from_millis(1),
                growth: leadville_timesync::units::Ppm::new(0.0),
                reference_id: *b"GPS\0",
                reference: RawTime::from_nanos(0),
            };
            let now = RawTime::from_nanos(self.now);
            return truth.answer(&asked, now, now + Nanos::new(30_000));
        }
        let peer = self.asks[from];
        let (now, reading) = (self.raw(peer), self.reading(peer));
        let offer = self.hosts[peer].engine.as_ref()?.offer(reading)?;
        let reference_id = match offer.reference {
            Reference::Own(name) => name,
            Reference::Server(0) => address(self.asks[peer]),
            Reference::Server(_) => [203, 0, 113, 1],
        };
        let service = Service { reference_id, ..offer.service };
        service.answer(&asked, now, now + Nanos::new(30_000))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::There { from, server, sent } => {
                let packet = self.served(from, server);
                let home = self.travel(true, server);
                match packet.zip(home) {
                    Some((packet, way)) => {
                        let back = Event::Back { to: from, server, sent, packet };
                        self.events.push((self.now + 30_000 + way, back));
                    }
                    None => {
                        let lost = Event::Lost { to: from, server };
                        self.events.push((self.now + TIMEOUT, lost));
                    }
                }
            }
            Event::Back { to, server, sent, packet } => {
                let received = self.raw(to);
                let exchange = Exchange { packet, sent, received, bogus: Bogus::default() };
                self.feed(to, Input::Exchange(server, &exchange));
            }
            Event::Lost { to, server } => {
                self.feed(to, Input::Failed(server, Why::Timeout, Bogus::default()));
            }
        }
    }

    fn advance(&mut self, to: i64) {
        while self.now < to {
            self.now = to.min((self.now / S + 1) * S);
            for host in 0..self.hosts.len() {
                self.hosts[host].crystal.advance(self.now);
                let raw = self.raw(host);
                self.hosts[host].clock.advance(raw);
            }
        }
    }

    fn run(&mut self, span: i64) {
        let end = self.now + span;
        loop {
            let tick = |host: usize| {
                let engine = self.hosts[host].engine.as_ref()?;
                let ahead = (engine.next_tick()? - self.raw(host)).get();
                Some((self.now + ahead.max(1_000), host))
            };
            let tick = (0..self.hosts.len()).filter_map(tick).min();
            let event = self.events.iter().map(|(at, _)| *at).min().unwrap_or(i64::MAX);
            let at = event.min(tick.map_or(i64::MAX, |t| t.0));
            if at >= end {
                self.advance(end);
                return;
            }
            self.advance(at);
            if at == event {
                let n = self.events.iter().position(|(t, _)| *t == at).unwrap();
                let (_, event) = self.events.swap_remove(n);
                self.happen(event);
            } else if let Some((_, host)) = tick {
                self.feed(host, Input::Tick);
            }
        }
    }

    /// Somebody sets host's clock, wrong by so much.
    fn say(&mut self, host: usize, wrong: i64) {
        let word = Word {
            utc: UtcTime::from_nanos(START + self.now + wrong),
            at: self.raw(host),
            uncertainty: Nanos::from_secs(2),
            how: How::Typed,
        };
        self.feed(host, Input::ByHand(&word));
    }

    fn view(&self, host: usize) -> View {
        self.hosts[host].engine.as_ref().unwrap().view(self.reading(host))
    }

    /// By how much the two kernel clocks differ at this very instant, µs.
    fn apart_us(&self) -> f64 {
        (self.reading(0).utc - self.reading(1).utc).as_micros_f64().abs()
    }

    fn agree(&self, within_us: f64, when: &str) {
        let apart = self.apart_us();
        let phases = (self.view(0).phase, self.view(1).phase);
        assert!(
            apart < within_us,
            "seed {}, {when}: {apart:.0} µs apart, {phases:?}\n{:#?}",
            self.seed,
            (self.view(0).why, self.view(1).why)
        );
    }

    /// True minus host's clock.
    fn wrong(&self, host: usize) -> i64 {
        START + self.now - self.reading(host).utc.as_nanos()
    }
}

const SEEDS: std::ops::Range<u64> = 1..13;

#[test]
fn two_pis_agree_on_somebodys_word_and_through_a_reboot_of_either() {
    let (mut minute, mut hour) = (Vec::new(), Vec::new());
    for seed in SEEDS {
        let mut range = Range::new(seed, 1);
        range.run(5 * S);
        range.say(0, 1_200_000_000);
        let mut agree = |range: &mut Range, when: &str| {
            range.run(MIN);
            range.agree(1_000.0, &format!("a minute after {when}"));
            minute.push(range.apart_us());
            range.run(HOUR - MIN);
            range.agree(300.0, &format!("an hour after {when}"));
            hour.push(range.apart_us());
        };
        agree(&mut range, "the word");
        assert!((range.wrong(0) + 1_200_000_000).abs() < 300_000_000, "the word is in force");
        assert!(!range.view(1).verified && !range.view(1).settled, "and it is not UTC");
        range.power_cut(1, 40, 1);
        agree(&mut range, "the follower's reboot");
        let steps = range.hosts[1].steps.len();
        range.power_cut(0, 40, 1);
        agree(&mut range, "the leader's reboot");
        assert_eq!(range.hosts[1].steps.len(), steps, "the other one has not moved");
        assert!((range.wrong(0) + 1_200_000_000).abs() < 500_000_000, "the word is still in force");
        range.run(3 * HOUR);
        range.agree(300.0, "three hours later");
        let bound = range.view(0).estimate.unwrap().bound;
        assert!(Nanos::new(range.wrong(0).abs()) < bound, "{bound}: honest about UTC");
    }
    for (name, mut apart) in [("a minute", minute), ("an hour", hour)] {
        apart.sort_by(f64::total_cmp);
        let (median, worst) = (apart[apart.len() / 2], apart[apart.len() - 1]);
        println!("after {name}: median {median:.0} µs, worst {worst:.0} µs apart");
    }
}

#[test]
fn two_pis_of_which_nobody_has_said_anything_agree_as_well() {
    for seed in SEEDS {
        let mut range = Range::new(seed, 1);
        range.run(75 * S);
        range.agree(1_000.0, "after a minute");
        range.run(HOUR);
        range.agree(300.0, "after an hour");
        range.power_cut(0, 40, 1);
        range.run(75 * S);
        range.agree(1_000.0, "a minute after a reboot");
        range.power_cut(1, 40, 1);
        range.run(75 * S);
        range.agree(1_000.0, "a minute after the other's reboot");
        range.run(HOUR);
        range.agree(300.0, "an hour later");
        assert!(
            range.view(0).estimate.or(range.view(1).estimate).unwrap().bound > Nanos::from_secs(15)
        );
    }
}

#[test]
fn the_one_that_has_the_internet_again_leads_and_the_other_is_not_stepped() {
    for seed in SEEDS {
        let mut range = Range::new(seed, 2);
        range.internet = [true, true, false];
        range.run(20 * MIN);
        range.agree(2_000.0, "with internet");
        range.internet = [false; 3];
        range.run(4 * HOUR);
        range.agree(300.0, "four hours without");
        for host in 0..2 {
            let (wrong, bound) = (range.wrong(host), range.view(host).estimate.unwrap().bound);
            assert!(Nanos::new(wrong.abs()) < bound, "seed {seed}, {host}: {wrong} ns in {bound}");
        }
        let steps: Vec<usize> = range.hosts.iter().map(|h| h.steps.len()).collect();
        range.internet = [false, true, false];
        range.run(20 * MIN);
        assert_eq!(range.view(1).phase, Phase::Synchronised);
        range.agree(2_000.0, "one of them has it again");
        assert!(range.wrong(0).abs() < 4_000_000, "{} ns: the other one follows", range.wrong(0));
        let after: Vec<usize> = range.hosts.iter().map(|h| h.steps.len()).collect();
        assert_eq!(after, steps, "seed {seed}: nobody is stepped");
    }
}

#[test]
fn a_word_gives_way_on_both_when_one_of_them_hears_a_server() {
    for seed in SEEDS {
        let mut range = Range::new(seed, 2);
        range.run(5 * S);
        range.say(0, 1_500_000_000);
        range.run(HOUR);
        range.agree(300.0, "on the word");
        range.internet = [false, true, false];
        range.run(30 * MIN);
        range.agree(2_000.0, "with a server");
        for host in 0..2 {
            let wrong = range.wrong(host).abs();
            assert!(wrong < 5_000_000, "seed {seed}: host {host} is {wrong} ns wrong");
            assert!(range.view(host).settled);
        }
    }
}

#[test]
fn two_words_lead_to_one_timeline() {
    for seed in SEEDS {
        let mut range = Range::new(seed, 1);
        range.run(5 * S);
        range.say(0, 1_000_000_000);
        range.say(1, -1_000_000_000);
        range.run(2 * MIN);
        range.agree(1_000.0, "two minutes after both words");
        range.run(HOUR);
        range.agree(300.0, "an hour after both words");
    }
}

/// Each host's error is inside what it says, nobody behind the first says much less than the first,
/// and neighbours agree.
fn honest(range: &Range, when: &str) {
    let seed = range.seed;
    let bound = |host| range.view(host).estimate.map(|e| e.bound).unwrap();
    for host in 0..3 {
        let (wrong, says) = (Nanos::new(range.wrong(host).abs()), bound(host));
        assert!(wrong < says, "seed {seed}, {when}: host {host} is {wrong} wrong and says {says}");
        let first = bound(0).as_secs_f64();
        let share = says.as_secs_f64() / first;
        assert!(share > 0.9, "seed {seed}, {when}: host {host} says {says}, the first {first} s");
    }
    for (one, other) in [(0, 1), (1, 2)] {
        let apart = (range.reading(one).utc - range.reading(other).utc).abs();
        let most = Nanos::new(500_000);
        assert!(apart < most, "seed {seed}, {when}: {one} and {other} are {apart} apart");
    }
}

fn stratum(range: &Range, host: usize) -> u8 {
    let engine = range.hosts[host].engine.as_ref().unwrap();
    engine.offer(range.reading(host)).unwrap().service.stratum
}

#[test]
fn the_third_in_a_chain_knows_that_the_first_has_somebodys_word_only() {
    for seed in SEEDS {
        let mut range = Range::chain(seed, 1);
        range.run(5 * S);
        range.say(0, 1_200_000_000);
        range.run(HOUR);
        honest(&range, "an hour after the word");
        for host in 0..3 {
            let view = range.view(host);
            assert!(!view.verified && !view.settled, "seed {seed}: {host} takes it for UTC");
            assert_eq!(stratum(&range, host), 10 + host as u8, "seed {seed}");
        }
    }
}

#[test]
fn the_third_in_a_chain_knows_that_the_first_only_carries_utc_on_and_when_it_has_it_again() {
    for seed in SEEDS {
        let mut range = Range::chain(seed, 2);
        range.internet = [true, false, false];
        range.run(20 * MIN);
        assert!(range.wrong(2).abs() < 5_000_000, "seed {seed}: {} ns", range.wrong(2));
        range.internet = [false; 3];
        range.run(4 * HOUR);
        honest(&range, "four hours without");
        let blind = range.view(2).estimate.unwrap().bound;
        assert!(stratum(&range, 2) < 10, "it is still UTC");
        range.internet = [true, false, false];
        range.run(20 * MIN);
        let bound = range.view(2).estimate.unwrap().bound;
        assert!(range.wrong(2).abs() < 5_000_000, "seed {seed}: {} ns", range.wrong(2));
        assert!(bound < blind, "seed {seed}: {bound} after {blind}: told that it is heard again");
    }
}

/// A shot timer at one of the computers, and what its bridge makes of the frames.
struct Timer {
    shooter: Shooter,
    bay: Bay,
}

impl Timer {
    fn new(seed: u64) -> Self {
        let radio = Radio::default();
        // As `timer calibrate` leaves it.
        let mut bay = Bay::new(Delay::calibrated(radio.shot_delay, Nanos::from_millis(5)));
        bay.link_up();
        Self { shooter: Shooter::new(Habit::default(), radio, seed), bay }
    }

    /// Its beep was at that instant and the shots so long after it: the raw instants and bounds
    /// that it gives them, by number.
    fn hears(&mut self, beep: RawTime, since: Vec<Nanos>) -> Vec<(usize, RawTime, Nanos)> {
        let course = Course::CustomSequence(since);
        self.shooter.shoots(Habit { course, start_delay: Nanos::ZERO, ..Habit::default() });
        let fired = self.shooter.fire(beep);
        let mut asked = false;
        for h in &fired.heard {
            let said = self.bay.hear(h.at, &h.bytes);
            asked |= said.iter().any(|s| matches!(s, Happening::WantList { .. }));
        }
        if asked {
            self.bay.list_asked(fired.stopped);
            for h in self.shooter.list(fired.stopped + Nanos::from_millis(300)) {
                let _ = self.bay.hear(h.at, &h.bytes);
            }
        }
        let string = self.bay.dated(fired.number).expect("the string is dated");
        string.shots.iter().map(|s| (usize::from(s.number) - 1, s.at, s.bound)).collect()
    }
}

/// Six shots that both timers hear, each with its own beep: for every shot by how much the dates
/// and the clocks alone differ, ms, and what the dates' own bounds allow.
fn shoot(range: &mut Range, timers: &mut [Timer; 2]) -> Vec<[f64; 3]> {
    let first = range.raw(0);
    range.run(370_000_000);
    let beeps = [first, range.raw(1)];
    let mut instants: [Vec<RawTime>; 2] = Default::default();
    for gap_ms in [1_900, 1_130, 640, 2_210, 870, 1_490] {
        range.run(gap_ms * 1_000_000);
        for (host, instants) in instants.iter_mut().enumerate() {
            instants.push(range.raw(host));
        }
    }
    range.run(10 * S);
    let engine = |host: usize| range.hosts[host].engine.as_ref().unwrap();
    let utc = |host: usize, raw: RawTime| {
        let known = engine(host).estimate(raw).unwrap();
        (raw.as_nanos() + known.truth.get(), known.bound)
    };
    let mut dates: [[Option<(i64, Nanos)>; 6]; 2] = Default::default();
    for host in 0..2 {
        let since = instants[host].iter().map(|at| *at - beeps[host]).collect();
        for (n, at, bound) in timers[host].hears(beeps[host], since) {
            let (date, of_utc) = utc(host, at);
            dates[host][n] = Some((date, bound));
            let wrong = Nanos::new(date - utc(host, instants[host][n]).0).abs();
            assert!(wrong < Nanos::from_millis(200), "{wrong}: that is another shot");
            assert!(of_utc > Nanos::from_secs(1), "{of_utc}: somebody's word is not UTC");
        }
    }
    let both = |n: usize| Some((n, dates[0][n]?, dates[1][n]?));
    (0..6)
        .filter_map(both)
        .map(|(n, (a, of_a), (b, of_b))| {
            let clocks = utc(0, instants[0][n]).0 - utc(1, instants[1][n]).0;
            [(a - b) as f64 * 1e-6, clocks as f64 * 1e-6, (of_a + of_b).as_millis_f64()]
        })
        .collect()
}

#[test]
fn a_shot_that_timers_at_both_pis_hear_has_one_date_on_one_timeline() {
    let mut shots: Vec<[f64; 3]> = Vec::new();
    for seed in SEEDS {
        let mut range = Range::new(seed, 1);
        let mut timers = [Timer::new(2 * seed), Timer::new(2 * seed + 1)];
        range.run(5 * S);
        range.say(0, 1_200_000_000);
        range.run(MIN);
        for string in 0..12 {
            if string == 6 {
                range.power_cut(1, 40, 1);
                timers[1] = Timer::new(1_000 + seed);
                range.run(75 * S);
            }
            shots.extend(shoot(&mut range, &mut timers));
            range.run(5 * MIN);
        }
    }
    let column = |n: usize| {
        let mut values: Vec<f64> = shots.iter().map(|s| s[n].abs()).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (apart, clocks, bounds) = (column(0), column(1), column(2));
    let (half, last) = (apart.len() / 2, apart.len() - 1);
    let inside = shots.iter().filter(|s| s[0].abs() <= s[2]).count() as f64 / shots.len() as f64;
    println!(
        "{} shots: dates {:.1} ms apart in the median, {:.1} at worst ({:.1} allowed in the median, \
         {inside:.3} inside); of that the clocks {:.3} and {:.3} ms",
        apart.len(),
        apart[half],
        apart[last],
        bounds[half],
        clocks[half],
        clocks[last]
    );
    assert!(shots.len() > 12 * 12 * 6 * 9 / 10, "{} shots have two dates", shots.len());
    assert!(clocks[last] < 1.0, "{} ms: the two clocks are one timeline", clocks[last]);
    assert!(inside >= 0.95, "{inside}: within what both dates allow");
    assert!(apart[half] < 10.0, "{} ms", apart[half]);
}
