//! The resync task: reads, asks the engine, does what it says, waits.
use super::exchanges::{Ended, Exchanges};
use super::gps::{Gps, heard};
use super::memory::Memory;
use super::serve::Server;
use super::servers::{Change, Servers};
use super::tell::{Teller, stamp};
use super::world::World;
use crate::config::{Config, ServerEntry};
use crate::engine::packet::{Bogus, Rejected, Why};
use crate::engine::refclock;
use crate::engine::serve::{Reference, Service, reference_id};
use crate::engine::source::Standing;
use crate::engine::{Engine, Event, Input, Output, Phase, ServerId, Settings, discipline};
use crate::os::journal::{self, message_id};
use crate::os::netlink::NetworkWatch;
use crate::os::resolve::{self, ResolveError};
use crate::os::store::Durability;
use crate::os::wake::Woken;
use crate::os::{clock, heap, notify};
use crate::state::{
    Answer, Asked, ClockSection, LockStatus, Measurement, Moment, Quality, Request, Role,
    ServeStatus, ServerStatus, Shared, Stamp,
};
use crate::units::{Nanos, Ppm, RawTime, Reading, UtcTime};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// The date of this version: no earlier time is believed. A package says it exactly.
pub const BUILT: UtcTime = UtcTime::from_nanos(built() * 1_000_000_000);
/// A frequency that is not ours is somebody else's.
const FOREIGN_FREQUENCY: f64 = 0.05;
/// Freed memory is given back this often, on the way, and stack and code that only the start or a client needed.
const HEAP_EVERY: Nanos = Nanos::from_secs(3_600);
const TEMPERATURE_EVERY: Nanos = Nanos::from_secs(60);

const fn built() -> i64 {
    // 1 November 2026, when nobody says better.
    const RELEASE: i64 = 1_793_491_200;
    let Some(text) = option_env!("SOURCE_DATE_EPOCH") else { return RELEASE };
    let (mut n, mut at) = (0, 0);
    while at < text.len() {
        let digit = text.as_bytes()[at];
        if !digit.is_ascii_digit() || at > 11 {
            return RELEASE;
        }
        n = n * 10 + (digit - b'0') as i64;
        at += 1;
    }
    if n > 1_700_000_000 { n } else { RELEASE }
}

/// The addresses of an entry's name, looked up.
type Found = (usize, Result<Vec<SocketAddr>, ResolveError>);

/// The task that owns the engine.
pub struct Resync {
    config: Config,
    engine: Engine,
    world: World,
    servers: Servers,
    memory: Memory,
    shared: Shared,
    teller: Teller,
    exchanges: Exchanges,
    lookups: JoinSet<Found>,
    own: Vec<IpAddr>,
    steering_why: Option<String>,
    slept: Nanos,
    sync_count: u64,
    last_offset: Option<Nanos>,
    last_sync: Option<UtcTime>,
    settled: bool,
    /// As it was read the last time; `None` without a thermometer.
    temperature: Option<f64>,
    /// It is read again at the next occasion after that.
    temperature_due: RawTime,
    watchdog: Option<(Nanos, RawTime)>,
    heap_due: RawTime,
    /// Something was taken in that is not published yet …
    news: bool,
    /// … with these measurements.
    measured: Vec<Measurement>,
    foreign_frequencies: u32,
    told: Ppm,
    server: Option<Server>,
    gps: Option<Gps>,
}

fn limits(config: &Config) -> discipline::Limits {
    discipline::Limits {
        step_above: config.clock.step_above,
        step_after: config.clock.late_step_above,
        insist: config.clock.late_step_insist,
        budget: config.clock.step_budget,
        lock_frequency: config.clock.lock_frequency_ppm,
        min_agreeing: config.ntp.min_agreeing as usize,
        ..discipline::Limits::default()
    }
}

impl Resync {
    /// Restores what is known and makes the clock ours.
    #[must_use]
    pub fn new(
        config: Config,
        mut world: World,
        steering_why: Option<String>,
        mut memory: Memory,
        shared: Shared,
        (server, seconds): (Option<Server>, Option<UnixDatagram>),
    ) -> Self {
        let kept = memory.kept(BUILT);
        let settled = memory.settled();
        let frequency = kept.crystal.as_ref().map(|c| Ppm::new(c.frequency_ppm));
        if let Err(e) = world.take_over(frequency.unwrap_or(Ppm::new(0.0))) {
            warn!(EVENT = "kernel", "the kernel clock was not taken over: {e}");
        }
        let restored = !settled && restore(&mut world, &memory);
        let now = world.read();
        let configured: &[ServerEntry] = if config.ntp.enabled { &config.ntp.servers } else { &[] };
        let (mut servers, mut specs) = Servers::new(configured, memory.addresses(), now.raw);
        let gps = match &world {
            World::Real(_) => Gps::open(&config.gps, specs.len(), seconds),
            World::Simulated(_) => None,
        };
        let gps = gps.map(|(gps, spec)| {
            servers.reserve();
            specs.push(spec);
            gps
        });
        let settings = Settings {
            sync_interval: config.ntp.sync_interval,
            limits: limits(&config),
            built: BUILT,
            mark: kept.mark_s.map(|s| UtcTime::from_nanos(s * 1_000_000_000)),
            settled,
            restored,
            steer: world.can_steer(),
            memory: kept.crystal,
            spent: kept.steps,
            seed: getrandom::u64().unwrap_or(now.raw.as_nanos() as u64),
        };
        let mut engine = Engine::new(settings, specs, now);
        engine.serve_local(server.is_some() && config.serve.local);
        let period = notify::watchdog_interval();
        let watchdog = period.map(|p| (Nanos::new(p.as_nanos() as i64).half(), now.raw));
        let slept = world.slept();
        let threshold = config.alert.drift_threshold;
        let mut resync = Self {
            config,
            engine,
            world,
            servers,
            memory,
            shared,
            teller: Teller::new(threshold),
            exchanges: Exchanges::default(),
            lookups: JoinSet::new(),
            own: Vec::new(),
            steering_why,
            slept,
            sync_count: 0,
            last_offset: None,
            last_sync: None,
            settled: false, // of this run: systemd removed its marker when the last one stopped
            temperature: None,
            temperature_due: now.raw,
            watchdog,
            heap_due: now.raw + Nanos::from_secs(10),
            news: false,
            measured: Vec::new(),
            foreign_frequencies: 0,
            told: frequency.unwrap_or(Ppm::new(0.0)),
            server,
            gps,
        };
        resync.learn_own_addresses();
        resync
    }

    /// Runs until told to stop.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Asked>, mut stop: watch::Receiver<bool>) {
        let mut network = NetworkWatch::new();
        if let Some((id, why)) = self.gps.as_mut().and_then(|g| g.trouble.take().map(|w| (g.id, w)))
        {
            self.feed(Input::Failed(id, why, Bogus::default()));
        }
        self.feed(Input::Tick);
        let mut ended = Vec::new();
        loop {
            self.publish();
            let when = self.next_wake();
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                () = self.exchanges.ended(&mut ended) => {
                    ended.drain(..).for_each(|ended| self.ended(ended));
                }
                Some(Ok(found)) = self.lookups.join_next() => self.found(found),
                Some((request, back)) = inbox.recv() => {
                    let answer = self.answer(request);
                    self.publish();
                    let _ = back.send(answer);
                }
                () = network.changed() => self.network_changed(),
                second = heard(self.gps.as_ref()) => self.second(&second),
                woken = self.world.until(when) => {
                    self.exchanges.expire(self.world.read().raw);
                    if woken == Woken::ClockSet {
                        self.watch_sleep();
                    }
                    if woken == Woken::ClockSet || self.engine_waits() {
                        self.feed(Input::Tick);
                    }
                }
            }
            self.housekeeping();
        }
        self.end();
    }

    /// Whether the engine has something to do now. In time with the servers it looks at the clock at
    /// every exchange; without them, whenever there is an occasion.
    fn engine_waits(&self) -> bool {
        let now = self.world.read();
        self.engine.phase() != Phase::Synchronised
            || self.engine.next_tick().is_some_and(|at| at <= now.raw)
    }

    fn next_wake(&self) -> RawTime {
        let engine = self.engine.next_tick();
        let watchdog = self.watchdog.map(|(period, last)| last + period);
        let kept = self.memory.due(self.config.state.clock_file_interval);
        let due = [engine, watchdog, kept, self.exchanges.next_end()].into_iter().flatten().min();
        due.unwrap_or_else(|| self.world.read().raw + Nanos::from_secs(3_600))
    }

    /// What is done on the way, without wake-ups of its own.
    fn housekeeping(&mut self) {
        let now = self.world.read();
        if let Some((period, last)) = &mut self.watchdog
            && now.raw - *last >= period.half()
        {
            *last = now.raw;
            notify::watchdog();
        }
        if now.raw >= self.heap_due {
            self.heap_due = now.raw + HEAP_EVERY;
            heap::give_back();
            heap::let_go_of_code();
            heap::give_back_stack();
        }
        if self.memory.is_due(now.raw) {
            self.remember(now);
        }
        if now.raw >= self.temperature_due {
            self.temperature_due = now.raw + TEMPERATURE_EVERY;
            self.temperature = self.world.temperature();
            if let Some(celsius) = self.temperature {
                self.feed(Input::Temperature(celsius));
            }
        }
    }

    /// Keeps on the disk what is due.
    fn remember(&mut self, now: Reading) {
        let view = self.engine.view(now);
        let believed = now.utc + view.offset.unwrap_or(Nanos::ZERO);
        let every = (self.config.state.clock_file_interval, self.config.state.drift_file_interval);
        let still = !self.engine.locks().is_empty();
        // A clock that nothing vouches for is kept too, if it only moves on.
        let trusted = view.estimate.is_some();
        if trusted || self.memory.clock(BUILT).is_none_or(|kept| kept < believed) {
            self.memory.tick(now.raw, believed, &self.engine, every, still);
        }
    }

    fn end(mut self) {
        let now = self.world.read();
        let view = self.engine.view(now);
        let believed = now.utc + view.offset.unwrap_or(Nanos::ZERO);
        self.memory.keep_clock(believed);
        self.memory.keep_drift(believed, &self.engine, true);
        if let Err(e) = self.world.leave(view.frequency) {
            warn!(EVENT = "kernel", "the learned frequency was not left behind: {e}");
        }
    }

    fn watch_sleep(&mut self) {
        let slept = self.world.slept();
        let more = slept - self.slept;
        if more > Nanos::from_millis(100) {
            self.slept = slept;
            self.feed(Input::Slept(more));
        }
    }

    fn network_changed(&mut self) {
        self.learn_own_addresses();
        let now = self.world.read();
        self.servers.fresh_network(now.raw);
        self.feed(Input::NetworkChanged);
    }

    fn learn_own_addresses(&mut self) {
        if matches!(self.world, World::Simulated(_)) {
            return;
        }
        self.own = resolve::own_addresses();
        let others = self.own.iter().filter(|ip| !ip.is_loopback());
        self.engine.set_own_addresses(others.map(|ip| reference_id(*ip)).collect());
    }

    /// gpsd has sent a second.
    fn second(&mut self, datagram: &[u8]) {
        let now = self.world.read();
        let view = self.engine.view(now);
        let Some(gps) = &mut self.gps else { return };
        let second = match refclock::parse(datagram) {
            Ok(second) => second,
            Err(why) => {
                let id = gps.id;
                return self.feed(Input::Barred(id, why));
            }
        };
        let known = view.offset.filter(|_| view.fixed_for.is_some());
        if let Some(group) = gps.gatherer.take(now, &second, known, view.frequency) {
            let id = gps.id;
            self.feed(Input::Reference(id, &group));
        }
    }

    // ── events ───────────────────────────────────────────────────────────────────────────

    fn ended(&mut self, (id, address, outcome): Ended) {
        match outcome {
            // An answer of an address that is not this server's any more is nobody's.
            _ if address.is_some() && address != self.servers.address(id) => {
                self.feed(Input::Failed(id, Why::NoAddress, Bogus::default()));
            }
            Ok(exchange) => self.feed(Input::Exchange(id, &exchange)),
            Err((why, bogus)) => {
                self.feed(Input::Failed(id, why, bogus));
                self.replace(id);
            }
        }
    }

    fn found(&mut self, (entry, result): Found) {
        let now = self.world.read().raw;
        let changes = self.servers.resolved(entry, result, &self.own, now);
        for change in changes {
            match change {
                Change::Moved(id) => self.feed(Input::Moved(id)),
                Change::Added(spec) => {
                    self.engine.add_server(spec, now);
                    self.feed(Input::Tick);
                }
                Change::Ourselves(id) => self.feed(Input::Barred(id, Rejected::Ourselves)),
            }
        }
        let durability = self.durability();
        self.memory.remember_addresses(self.servers.good(), durability);
    }

    fn durability(&self) -> Durability {
        if self.engine.locks().is_empty() { Durability::Now } else { Durability::Whenever }
    }

    fn replace(&mut self, id: ServerId) {
        let source = &self.engine.sources()[id];
        let lying = matches!(source.standing, Standing::Falseticker(_)) && source.replies > 8;
        let now = self.world.read().raw;
        if self.servers.replace(id, source.silent(), lying, now) {
            self.feed(Input::Moved(id));
        }
    }

    fn feed(&mut self, input: Input<'_>) {
        let now = self.world.read();
        // In time with the servers, whoever is asked now has answered, or not, in a moment.
        let quiet = matches!(input, Input::Tick | Input::Temperature(_))
            && self.engine.phase() == Phase::Synchronised;
        let outputs: Vec<Output> = self.engine.handle(now, input).collect();
        self.news |= !quiet || outputs.iter().any(|o| !matches!(o, Output::Ask(_)));
        for output in outputs {
            match output {
                Output::Ask(id) => self.ask(id, now.raw),
                Output::Steer(correction) => self.steer(now, correction),
                Output::Kernel(status) => {
                    if let Err(e) = self.world.publish(&status) {
                        info!(EVENT = "kernel", "the kernel's flags were not set: {e}");
                    }
                }
                Output::Tell(event) => {
                    if let Event::Sync { server, offset, bound, frequency } = &event {
                        self.sync_count += 1;
                        self.last_offset = Some(*offset);
                        self.last_sync = Some(now.utc + *offset);
                        self.measured.push(Measurement {
                            time: Moment(now.utc + *offset),
                            raw_ns: now.raw.as_nanos(),
                            offset_us: offset.as_micros_f64(),
                            error_bound_us: bound.as_micros_f64(),
                            frequency_ppm: frequency.get(),
                            quality: Quality::of(offset.abs() + *bound),
                            temperature_c: self.temperature,
                        });
                        let server = *server;
                        self.teller.tell(now, &self.engine, &event, &self.shared);
                        self.replace_liar(server);
                        continue;
                    }
                    self.teller.tell(now, &self.engine, &event, &self.shared);
                }
            }
        }
    }

    /// A pool's server that lies gives way too.
    fn replace_liar(&mut self, _heard: ServerId) {
        let liars = self.engine.sources().iter().enumerate();
        let liar = liars
            .filter(|(_, s)| matches!(s.standing, Standing::Falseticker(_)) && s.replies > 8)
            .map(|(id, _)| id)
            .next();
        if let Some(id) = liar {
            let now = self.world.read().raw;
            if self.servers.replace(id, 0, true, now) {
                self.feed(Input::Moved(id));
            }
        }
    }

    fn ask(&mut self, id: ServerId, now: RawTime) {
        let simulated = matches!(self.world, World::Simulated(_));
        if !simulated && let Some((entry, host, port)) = self.servers.lookup(id, now) {
            self.lookups.spawn_local(async move { (entry, resolve::resolve(&host, port).await) });
        }
        let timeout = self.config.ntp.timeout.max(Nanos::ZERO);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 123));
        let address = self.servers.address(id);
        let Some(to) = address.or(simulated.then_some(nowhere)) else {
            return self.exchanges.begin(id, None, now, |_| {
                std::future::ready(Err((Why::NoAddress, Bogus::default())))
            });
        };
        let asker = self.world.asker();
        self.exchanges.begin(id, address, now + timeout, async move |patience| {
            asker.exchange(id, to, patience).await
        });
    }

    fn steer(&mut self, now: Reading, correction: discipline::Correction) {
        if let discipline::Correction::Frequency(f) = correction {
            self.check_frequency();
            self.told = f;
        }
        if let Err(e) = self.world.apply(correction) {
            let why = format!("the kernel refused a correction: {e}");
            warn!(
                MESSAGE_ID = message_id(journal::Event::MonitorOnly),
                EVENT = "monitor_only",
                "{why}"
            );
            if e.kind() == std::io::ErrorKind::PermissionDenied {
                self.steering_why = Some(why);
                let outputs: Vec<Output> =
                    self.engine.handle(now, Input::Steering(false)).collect();
                drop(outputs);
            }
            return;
        }
        if matches!(correction, discipline::Correction::Step(_)) {
            self.memory.stepped(now.raw);
        }
        if let discipline::Correction::Step(by) | discipline::Correction::Slew(by) = correction
            && by != Nanos::ZERO
        {
            let mut event = json!({"event": "correction", "offset_us": by.as_micros_f64(),
                "how": if matches!(correction, discipline::Correction::Step(_)) { "step" } else { "slew" }});
            stamp(&mut event, now);
            self.shared.tell(event);
        }
    }

    /// Another program steers this clock if the kernel's frequency is not what we told it.
    fn check_frequency(&mut self) {
        let Some(found) = self.world.frequency() else { return };
        if (found.get() - self.told.get()).abs() < FOREIGN_FREQUENCY {
            return;
        }
        self.foreign_frequencies += 1;
        if self.foreign_frequencies == 3 {
            warn!(
                MESSAGE_ID = message_id(journal::Event::ForeignSteering),
                EVENT = "foreign_steering",
                "another program steers the kernel clock too (its frequency is {found}, ours was \
                 {}); stop it: look for chronyd, ntpd, ntpsec or systemd-timesyncd",
                self.told
            );
        }
    }

    fn answer(&mut self, request: Request) -> Answer {
        let now = self.world.read();
        match request {
            Request::Refresh => {
                self.news = true;
                Answer::Done
            }
            Request::Stamp(raw) => Answer::Stamp(self.engine.estimate(raw).map(|e| Stamp {
                utc: UtcTime::from_nanos(raw.as_nanos().saturating_add(e.truth.get())),
                bound: e.bound,
            })),
            Request::SyncNow => {
                self.feed(Input::SyncNow);
                Answer::Done
            }
            Request::Lock(name, span) => {
                self.feed(Input::Lock(&name, now.raw + span));
                Answer::Done
            }
            Request::Unlock(name) => {
                if !self.engine.locks().iter().any(|l| l.name == name) {
                    return Answer::Refused(format!("nobody holds a lock named \"{name}\""));
                }
                self.feed(Input::Unlock(&name));
                Answer::Done
            }
            Request::Step => self.operator_step(),
            Request::ByHand(word) => match self.engine.weigh(now, &word) {
                Ok(()) => {
                    self.feed(Input::ByHand(&word));
                    Answer::Done
                }
                Err(why) => Answer::Refused(why),
            },
            Request::Weigh(word) => match self.engine.weigh(now, &word) {
                Ok(()) => Answer::Weighed(self.engine.effect(now, &word)),
                Err(why) => Answer::Refused(why),
            },
            Request::Reset => {
                self.shared.forget_history();
                self.feed(Input::Reset);
                Answer::Done
            }
            Request::Reconfigure(config) => {
                self.reconfigure(*config);
                Answer::Done
            }
        }
    }

    fn operator_step(&mut self) -> Answer {
        if let Some(lock) = self.engine.locks().first() {
            return Answer::Refused(format!(
                "the clock is held still for \"{}\"; end that lock first",
                lock.name
            ));
        }
        if !self.world.can_steer() {
            let why = self.steering_why.as_deref().unwrap_or("the clock is only watched");
            return Answer::Refused(why.to_owned());
        }
        let before = self.engine.view(self.world.read()).steps;
        self.feed(Input::Step);
        let view = self.engine.view(self.world.read());
        if view.steps > before {
            return Answer::Done;
        }
        Answer::Refused(match view.offset {
            None => "the time is not known yet: no agreeing servers".into(),
            Some(offset) => format!("nothing to step: the clock is {offset} off"),
        })
    }

    fn reconfigure(&mut self, config: Config) {
        let now = self.world.read().raw;
        let wanted: &[ServerEntry] = if config.ntp.enabled { &config.ntp.servers } else { &[] };
        for entry in 0..self.servers.entries() {
            if !wanted.contains(self.servers.entry(entry)) {
                for id in self.servers.retire(entry) {
                    self.engine.retire(id);
                }
            }
        }
        for entry in wanted {
            let Some(known) = self.servers.find(entry) else {
                for spec in self.servers.add(entry.clone(), self.memory.addresses(), now) {
                    self.engine.add_server(spec, now);
                }
                continue;
            };
            // Back again after an earlier reload took it away: it begins anew in its old place.
            for id in self.servers.revive(known, now) {
                self.engine.revive(id, now);
            }
        }
        self.engine.reconfigure(config.ntp.sync_interval, limits(&config));
        if config.serve != self.config.serve {
            self.engine.serve_local(self.server.is_some() && config.serve.local);
            info!(EVENT = "serve", "what changed under [serve], but local, holds after a restart");
        }
        self.teller.threshold = config.alert.drift_threshold;
        self.config = config;
        self.feed(Input::Tick);
    }

    // ── what others see ──────────────────────────────────────────────────────────────────

    /// Once for all that was taken in, answers that came together and all.
    fn publish(&mut self) {
        if !std::mem::take(&mut self.news) {
            return;
        }
        let now = self.world.read();
        let view = self.engine.view(now);
        if view.settled && view.estimate.is_some() && !self.settled && self.world.can_steer() {
            self.settled = true;
            if matches!(self.world, World::Real(_)) {
                self.memory.settle();
            }
        }
        let sources = self.engine.sources().iter().enumerate().filter(|(_, s)| !s.retired);
        let servers = sources.map(|(id, _)| self.server_status(id, now)).collect();
        let locks = self.engine.locks().iter().map(|l| LockStatus {
            name: l.name.clone(),
            ends_in_s: (l.until - now.raw).as_secs_f64(),
        });
        let section = ClockSection {
            reading: now,
            monotonic_ns: clock::monotonic_now(),
            servers,
            locks: locks.collect(),
            steering: self.world.can_steer() && self.steering_why.is_none(),
            steering_why: self.steering_why.clone(),
            temperature_c: self.temperature,
            sync_count: self.sync_count,
            last_offset: self.last_offset,
            last_sync: self.last_sync,
            packets: self.engine.sources().iter().map(|s| s.requests).sum(),
            good_for: self.good_for(now, view.phase),
            trouble: self.memory.trouble.clone(),
            foreign_steering: self.foreign_frequencies >= 3,
            serve: self.serve(now),
            serves_in_vain: self.config.serve.enabled && self.server.is_none(),
            view,
        };
        self.shared.publish_clock(section, std::mem::take(&mut self.measured));
    }

    /// Says what is served from now on.
    fn serve(&self, now: Reading) -> Option<ServeStatus> {
        let server = self.server.as_ref()?;
        let service = self.engine.offer(now).map(|offer| {
            let reference_id = match offer.reference {
                Reference::Own(name) => name,
                Reference::Server(id) => self
                    .servers
                    .address(id)
                    .map_or(offer.service.reference_id, |a| reference_id(a.ip())),
            };
            Service { reference_id, ..offer.service }
        });
        server.publish(service);
        Some(server.status())
    }

    /// How long |offset| + bound will stay within the alert threshold without another answer.
    fn good_for(&self, now: Reading, phase: Phase) -> Option<Nanos> {
        let blind = matches!(phase, Phase::Holdover | Phase::Frozen);
        blind.then(|| self.engine.keeps_within(now, self.config.alert.drift_threshold)).flatten()
    }

    fn server_status(&self, id: ServerId, now: Reading) -> ServerStatus {
        let s = &self.engine.sources()[id];
        let ours = now.utc_minus_raw();
        let frequency = self.told;
        let interval = s.interval(id, now.raw, frequency, Ppm::new(1.0));
        let trouble = self.servers.trouble(id).map(str::to_owned);
        let (role, why) = match &s.standing {
            Standing::Waiting => (Role::Waiting, trouble),
            Standing::Selected => (Role::Selected, None),
            Standing::Unused(why) => (Role::Unused, Some(why.clone())),
            Standing::Falseticker(by) => {
                (Role::Falseticker, Some(format!("{by} away from the majority")))
            }
            Standing::Unreachable(why) => {
                (Role::Unreachable, trouble.or_else(|| Some(why.to_string())))
            }
            Standing::Rejected(why) => (Role::Rejected, trouble.or_else(|| Some(why.to_string()))),
        };
        let counted = s.rejected.iter().enumerate().filter(|(_, n)| **n > 0);
        let rejected: BTreeMap<String, u64> =
            counted.map(|(i, n)| (Rejected::NAMES[i].to_owned(), *n)).collect();
        let latest = s.latest();
        ServerStatus {
            name: s.spec.name.clone(),
            address: self.servers.address(id).map(|a| a.to_string()),
            role,
            why,
            offset_us: latest.map(|l| {
                let truth = l.homeward + (l.outward - l.homeward).half();
                (truth + frequency.over(now.raw - l.received) - ours).as_micros_f64()
            }),
            delay_us: latest.map(|l| (l.outward - l.homeward).as_micros_f64()),
            max_error_us: interval.map(|i| i.half.as_micros_f64()),
            stratum: s.last.map(|(_, r)| r.stratum),
            reference_id: s.last.map(|(_, r)| r.reference_name()),
            reach: s.reach,
            requests: s.requests,
            replies: s.replies,
            last_reply_s: s.last.map(|(at, _)| (now.raw - at).as_secs_f64()),
            next_poll_s: (!s.spec.passive).then(|| (s.next_poll - now.raw).as_secs_f64().max(0.0)),
            trusted: s.spec.trust,
            rejected,
        }
    }
}

/// A Pi without a hardware clock gets the saved time back; never below the build date.
fn restore(world: &mut World, memory: &Memory) -> bool {
    if !world.can_steer() || matches!(world, World::Simulated(_)) {
        return false;
    }
    let now = world.read();
    let saved = memory.clock(BUILT).map_or(BUILT, |kept| kept.max(BUILT));
    if now.utc >= saved {
        return false;
    }
    match world.apply(discipline::Correction::Step(saved - now.utc)) {
        Ok(()) => {
            info!(
                MESSAGE_ID = message_id(journal::Event::Restored),
                EVENT = "restored",
                "the saved time {} is set; behind by however long the power was off",
                saved.iso(0)
            );
            true
        }
        Err(e) => {
            warn!(EVENT = "kernel", "the saved time could not be set: {e}");
            false
        }
    }
}
