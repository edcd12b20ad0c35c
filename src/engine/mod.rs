//! Everything the daemon decides about the clock, and nothing it does.
//!
//! The engine owns no socket, clock, task or random source: they are inputs. Feed one
//! [`Input`], carry out every [`Output`], and wait until [`Engine::next_tick`].
//!
//! Samples live on the raw timeline, which nobody steers; a correction never falsifies them.
//! What may be done to the clock when is the table in [`discipline`].
pub mod byhand;
mod dates;
pub mod discipline;
pub mod estimator;
mod leap;
pub mod packet;
mod polls;
pub mod refclock;
pub mod select;
pub mod serve;
pub mod source;
#[cfg(test)]
mod tests;

use crate::units::{Nanos, Ppm, RawTime, Reading, UtcTime};
use byhand::{ByHand, How, Word};
use discipline::{Correction, Discipline, KernelStatus, Leap, Permit, Refusal};
use estimator::{DriftMemory, Estimate, Estimator};
use packet::{Bogus, Exchange, Rejected, Why};
use select::Vote;
use source::{Rules, ServerSpec, Source, Standing};

/// A server's place; stable for its life.
pub type ServerId = usize;

/// Nothing usable for that many poll intervals is holdover.
const HOLDOVER_POLLS: i64 = 3;
/// Time for several servers to answer before one alone is believed.
const FIRST_FIX_PATIENCE: Nanos = Nanos::from_secs(8);
/// So long after the first fix little is known of the crystal …
const YOUTH: Nanos = Nanos::from_secs(600);
/// … and its frequency may be off by this much.
const YOUNG_FREQUENCY: Ppm = Ppm::new(100.0);
/// Time for the others to contradict the first who agree.
const LAST_WORD: Nanos = Nanos::from_secs(2);
/// Agreement of three operators for this long overrides date window and mark.
const OVERRIDE_AFTER: Nanos = Nanos::from_secs(600);
/// A frequency that is known no better than this (standard deviation) is not remembered: of any
/// crystal one knows as much.
const WORTH_KEEPING_PPM: f64 = 50.0;
const DAY: Nanos = Nanos::from_secs(86_400);
/// A program of an earlier date does not believe a later one than so long after it.
pub const LIFE: Nanos = Nanos::from_secs(20 * 31_556_952);
/// Why a server under a second name has no vote.
pub const SAME_SERVER: &str = "is the same server as another one here";
/// Growth of the guarantee between exchanges, when the frequency's bound says less (RFC 5905's PHI).
const PHI: Ppm = Ppm::new(15.0);

/// What the operator and the disk say before the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time between rounds once all is well.
    pub sync_interval: Nanos,
    /// The rules of correction.
    pub limits: discipline::Limits,
    /// The program's own date: nothing earlier is believed.
    pub built: UtcTime,
    /// Latest verified time ever seen.
    pub mark: Option<UtcTime>,
    /// This boot was synchronised before (the daemon was only restarted).
    pub settled: bool,
    /// The clock was restored from a file, and is behind by an unknown time.
    pub restored: bool,
    /// The clock may be corrected.
    pub steer: bool,
    /// Learned before.
    pub memory: Option<DriftMemory>,
    /// Steps of earlier runs that still count.
    pub spent: Vec<discipline::Spent>,
    /// Chance, for the jitter of polls.
    pub seed: u64,
}

impl Settings {
    /// The first and the last date that are believed: the program's own, less a day, and twenty
    /// years on.
    fn dates(&self) -> (UtcTime, UtcTime) {
        (self.built - DAY, self.built + LIFE)
    }
}

/// What happened outside.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// The awaited instant came.
    Tick,
    /// A server answered.
    Exchange(ServerId, &'a Exchange),
    /// A server did not answer.
    Failed(ServerId, Why, Bogus),
    /// A server may not be used (it is this machine).
    Barred(ServerId, Rejected),
    /// A server's address changed: what the old one said no longer counts.
    Moved(ServerId),
    /// The machine slept this long; the raw clock did not see it.
    Slept(Nanos),
    /// Interfaces or routes changed.
    NetworkChanged,
    /// Somebody wants fresh exchanges.
    SyncNow,
    /// Hold the clock still until then.
    Lock(&'a str, RawTime),
    /// End a lock.
    Unlock(&'a str),
    /// The operator wants the offset gone at once.
    Step,
    /// Somebody says what time it is.
    ByHand(&'a Word),
    /// A clock beside us has spoken.
    Reference(ServerId, &'a refclock::Reference),
    /// Forget the history of corrections.
    Reset,
    /// The processor's temperature, °C.
    Temperature(f64),
    /// The kernel allows corrections, or not.
    Steering(bool),
}

/// What the outside should do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Ask this server.
    Ask(ServerId),
    /// Correct the clock.
    Steer(Correction),
    /// Tell the kernel what its clock is worth.
    Kernel(KernelStatus),
    /// Something worth a line in the journal.
    Tell(Event),
}

/// Something that happened, for journal and subscribers.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A measurement: offset before correction, and its bound.
    Sync {
        /// Who answered.
        server: ServerId,
        /// True − ours.
        offset: Nanos,
        /// 95 % bound.
        bound: Nanos,
        /// What the kernel is told.
        frequency: Ppm,
    },
    /// The phase changed.
    Phase(Phase, Option<String>),
    /// The clock was stepped by us.
    Stepped(Nanos, &'static str),
    /// The clock was set by somebody else.
    ForeignStep(Nanos),
    /// The timeline begins with somebody's word.
    ByHand {
        /// How it came.
        how: How,
        /// True − ours, as it was said.
        offset: Nanos,
        /// Give or take.
        bound: Nanos,
    },
    /// A reply is not used.
    Dropped(ServerId, Rejected),
    /// A server stopped answering.
    Silent(ServerId, Why),
    /// A server answers again.
    Heard(ServerId),
    /// A server is outvoted, by this much.
    Outvoted(ServerId, Nanos),
    /// A server agrees again.
    Agrees(ServerId),
    /// A correction is wanted and not allowed.
    Refused(Refusal),
    /// A lock began or ended.
    Lock(String, bool),
    /// The date window was overridden by three operators.
    DateOverridden,
    /// The machine slept.
    Slept(Nanos),
}

/// Where we stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing known yet.
    #[default]
    Starting,
    /// The clock file's time is set.
    Restored,
    /// Nothing to go by.
    Unsynchronised,
    /// In time with the servers.
    Synchronised,
    /// Carried by the learned frequency.
    Holdover,
    /// Steering is stopped.
    Frozen,
}

/// What the rest of the program may know at one instant.
#[derive(Clone, Debug)]
pub struct View {
    /// Where we stand.
    pub phase: Phase,
    /// Why frozen or not synchronised.
    pub why: Option<String>,
    /// At least two agreeing operators, or a trusted source.
    pub verified: bool,
    /// First synchronisation of this boot is done.
    pub settled: bool,
    /// The estimate, after the first fix.
    pub estimate: Option<Estimate>,
    /// True − ours.
    pub offset: Option<Nanos>,
    /// The guarantee.
    pub max_error: Option<Nanos>,
    /// What the kernel is told.
    pub frequency: Ppm,
    /// Last usable exchange with a selected server.
    pub last_used: Option<RawTime>,
    /// Leap second armed.
    pub leap: Leap,
    /// Sum of corrections since start.
    pub corrected: Nanos,
    /// Steps since start.
    pub steps: u64,
    /// How long ago the first fix was.
    pub fixed_for: Option<Nanos>,
    /// Somebody's word that carries the timeline, until servers are heard.
    pub by_hand: Option<ByHand>,
    /// What people say would be taken: no server has said anything since the start.
    pub takes_word: bool,
}

/// The whole of the daemon's judgement on the clock.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    sources: Vec<Source>,
    estimator: Estimator,
    discipline: Discipline,
    phase: Phase,
    why: Option<String>,
    verified: bool,
    by_hand: Option<ByHand>,
    /// A hardware clock that came late was put right once.
    put_back: bool,
    /// How far the used sources are from UTC, when no server has confirmed their time.
    unconfirmed: Option<Nanos>,
    /// What of the used sources' word no statistics can see.
    doubt: Nanos,
    lineage: Option<serve::Lineage>,
    /// From whom the first fix was, if it named us, and when.
    reborn: Option<(ServerId, RawTime)>,
    /// A time that no server has confirmed is served too.
    local: bool,
    selected: Vec<ServerId>,
    last_used: Option<RawTime>,
    max_error: Option<(RawTime, Nanos)>,
    /// What the guarantees of all used servers had in common, and when: true − raw.
    shared: Option<(RawTime, Nanos, Nanos)>,
    first_asked: Option<RawTime>,
    fixed_at: Option<RawTime>,
    waited: bool,
    heard_out: bool,
    override_since: Option<RawTime>,
    own: Vec<[u8; 4]>,
    steer: bool,
    leap: Leap,
    announced: Option<(RawTime, Nanos)>,
    /// The last that has passed.
    leapt: Option<(RawTime, Nanos)>,
    leap_moment: Option<RawTime>,
    leap_seen: Option<RawTime>,
    seed: u64,
    interval: Nanos,
    outputs: Vec<Output>,
}

impl Engine {
    /// An engine that has not asked anybody yet.
    #[must_use]
    pub fn new(settings: Settings, servers: Vec<ServerSpec>, now: Reading) -> Self {
        let mut discipline = Discipline::new(settings.limits.clone(), settings.settled);
        discipline.spent.clone_from(&settings.spent);
        let frequency =
            settings.memory.as_ref().map_or(Ppm::new(0.0), |m| Ppm::new(m.frequency_ppm));
        discipline.told = frequency;
        Self {
            sources: servers.into_iter().map(|s| Source::new(s, now.raw)).collect(),
            estimator: timeline(settings.memory.as_ref()),
            discipline,
            phase: if settings.restored { Phase::Restored } else { Phase::Starting },
            why: None,
            verified: false,
            by_hand: None,
            put_back: false,
            unconfirmed: None,
            doubt: Nanos::ZERO,
            lineage: None,
            reborn: None,
            local: false,
            selected: Vec::new(),
            last_used: None,
            max_error: None,
            shared: None,
            first_asked: None,
            fixed_at: None,
            waited: false,
            heard_out: false,
            override_since: None,
            own: Vec::new(),
            steer: settings.steer,
            leap: Leap::None,
            announced: None,
            leapt: None,
            leap_moment: None,
            leap_seen: None,
            seed: settings.seed,
            interval: settings.sync_interval,
            outputs: Vec::new(),
            settings,
        }
    }

    /// The IPv4 addresses that are ours, as reference identifiers; loopback left out.
    pub fn set_own_addresses(&mut self, own: Vec<[u8; 4]>) {
        self.own = own;
    }

    /// One more server.
    pub fn add_server(&mut self, spec: ServerSpec, now: RawTime) -> ServerId {
        self.sources.push(Source::new(spec, now));
        self.sources.len() - 1
    }

    /// A server is not configured any more: never asked again, no vote.
    pub fn retire(&mut self, id: ServerId) {
        self.sources[id].retired = true;
        self.sources[id].standing = Standing::Waiting;
        self.sources[id].void();
        self.estimator.forget(id);
        self.selected.retain(|&s| s != id);
    }

    /// A server that was retired is configured again: known by name only.
    pub fn revive(&mut self, id: ServerId, now: RawTime) {
        let last_asked = self.sources[id].last_asked;
        self.sources[id] = Source::new(self.sources[id].spec.clone(), now);
        // However often the configuration changes, the server sees its spacing kept.
        let source = &mut self.sources[id];
        source.last_asked = last_asked;
        source.next_poll = last_asked.map_or(now, |t| now.max(t + source.spacing()));
    }

    /// Latest verified time, for the disk.
    #[must_use]
    pub fn mark(&self) -> Option<UtcTime> {
        self.settings.mark
    }

    /// A changed sync interval or changed rules (a reload).
    pub fn reconfigure(&mut self, sync_interval: Nanos, limits: discipline::Limits) {
        self.settings.sync_interval = sync_interval;
        self.interval = sync_interval;
        self.discipline.limits = limits;
    }

    /// Takes in one event and yields what to do about it.
    ///
    /// The iterator borrows the engine, so the next event cannot be fed before the answers to
    /// this one have been carried out.
    #[must_use = "the outputs are the engine's only effect"]
    pub fn handle(&mut self, now: Reading, input: Input<'_>) -> impl Iterator<Item = Output> {
        self.pass_leap(now.raw);
        if !matches!(input, Input::Slept(_)) {
            self.watch(now);
        }
        let now = self.discipline.ordered(now);
        match input {
            Input::Tick => {}
            // Of a server that was taken away, or was not asked, nothing counts.
            Input::Exchange(id, _) | Input::Failed(id, ..) | Input::Barred(id, _)
                if self.sources[id].retired => {}
            Input::Exchange(id, _) if self.sources[id].asked.is_none() => {}
            Input::Exchange(id, exchange) => self.reply(now, id, exchange),
            Input::Failed(id, why, bogus) => self.silence(now, id, why, bogus),
            Input::Barred(id, why) => {
                self.refuse(now, id, why);
                self.sources[id].plan(now.raw, Nanos::from_secs(600));
            }
            Input::Moved(id) => {
                self.sources[id].moved(now.raw);
                self.estimator.forget(id);
            }
            Input::Slept(span) => self.slept(span, now),
            Input::NetworkChanged => {
                for s in &mut self.sources {
                    s.fresh_network(now.raw);
                }
            }
            Input::SyncNow => {
                for s in &mut self.sources {
                    s.hurry(now.raw);
                }
            }
            Input::Lock(name, until) => {
                let renewed = self.discipline.locks.iter().any(|l| l.name == name);
                self.discipline.lock(name, until);
                if self.steer {
                    self.discipline.hold(now, &mut self.outputs);
                }
                if self.leap != Leap::None {
                    // The kernel would step at midnight.
                    (self.leap, self.discipline.leap) = (Leap::None, None);
                    self.publish(now);
                }
                if !renewed {
                    self.tell(Event::Lock(name.to_owned(), true));
                }
            }
            Input::Unlock(name) => {
                if self.discipline.unlock(name) {
                    self.tell(Event::Lock(name.to_owned(), false));
                }
                self.steer(now);
            }
            Input::Step => self.operator_step(now),
            Input::Reference(id, heard) => self.refer(now, id, heard),
            Input::ByHand(word) => self.take_word(now, word),
            Input::Reset => self.discipline.reset_totals(),
            Input::Temperature(celsius) => self.estimator.temperature(now.raw, celsius),
            Input::Steering(allowed) => self.steer = allowed && self.settings.steer,
        }
        for name in self.discipline.expire(now.raw) {
            self.tell(Event::Lock(name, false));
            self.steer(self.discipline.ordered(now));
        }
        // One moment, one step: what comes now starts from where it leads.
        let now = self.discipline.ordered(now);
        self.age(now);
        self.ask(now);
        self.outputs.drain(..)
    }

    /// When to feed [`Input::Tick`], if nothing happens before.
    #[must_use]
    pub fn next_tick(&self) -> Option<RawTime> {
        let polls = self
            .sources
            .iter()
            .filter(|s| s.asked.is_none() && !s.retired && !s.spec.passive)
            .map(|s| s.next_poll);
        let locks = self.discipline.locks.iter().map(|l| l.until);
        let waits = [(!self.heard_out, LAST_WORD), (!self.waited, FIRST_FIX_PATIENCE)];
        let waits = waits.into_iter().filter(|(open, _)| *open && !self.fixed());
        let patience = waits
            .filter_map(|(_, span)| self.first_asked.map(|t| t + span + Nanos::from_millis(1)));
        let mute = self.sources.iter().filter_map(Source::mute_at);
        polls.chain(locks).chain(patience).chain(mute).min()
    }

    /// Where it stands.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// All servers, by id.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Locks held.
    #[must_use]
    pub fn locks(&self) -> &[discipline::Lock] {
        &self.discipline.locks
    }

    /// Steps that still count, for the disk.
    #[must_use]
    pub fn spent(&self) -> &[discipline::Spent] {
        &self.discipline.spent
    }

    /// What was learned of the crystal, for the drift file. What a few noisy seconds say does not
    /// replace what was known before.
    #[must_use]
    pub fn memory(&self) -> Option<DriftMemory> {
        let learned = self.estimator.memory().filter(|m| m.sd_ppm < WORTH_KEEPING_PPM);
        learned.or_else(|| self.settings.memory.clone())
    }

    /// The estimate at `at`, once there was a first fix or somebody's word.
    #[must_use]
    pub fn estimate(&self, at: RawTime) -> Option<Estimate> {
        if !self.fixed() {
            return self.by_hand_estimate(at);
        }
        let mut estimate = self.believed(at)?;
        estimate.truth = estimate.truth + self.named_otherwise(at);
        // Agreement with a neighbour is not yet UTC.
        estimate.bound = estimate.bound + self.doubt;
        Some(estimate)
    }

    /// The estimate, kept within what the used servers guarantee: however likely the estimator
    /// thinks a way to be that is 40 ms longer there than back, a server 1 ms away rules it out.
    fn believed(&self, at: RawTime) -> Option<Estimate> {
        let mut estimate = self.estimator.estimate(at)?;
        let Some((then, low, high)) = self.shared else { return Some(estimate) };
        let age = at - then;
        let drift = Ppm::new(estimate.frequency_bound.get().max(PHI.get())).over(age.abs());
        let carried = estimate.frequency.over(age);
        let (low, high) = (low + carried - drift, high + carried + drift);
        let truth = estimate.truth.clamp(low, high);
        if truth != estimate.truth {
            estimate.truth = truth;
            // The truth is between the two ends.
            estimate.bound = estimate.bound.min((truth - low).max(high - truth));
        }
        Some(estimate)
    }

    /// What the rest of the program may know.
    #[must_use]
    pub fn view(&self, now: Reading) -> View {
        let estimate = self.estimate(now.raw);
        View {
            phase: self.phase,
            why: self.why.clone(),
            verified: self.verified,
            settled: self.discipline.settled,
            offset: estimate.map(|e| e.truth - now.utc_minus_raw()),
            max_error: estimate.and_then(|e| self.max_error_at(now.raw, &e)),
            estimate,
            frequency: self.discipline.told,
            last_used: self.last_used,
            leap: self.leap,
            corrected: self.discipline.corrected,
            steps: self.discipline.steps,
            fixed_for: self.fixed_at.map(|t| now.raw - t),
            by_hand: self.by_hand(),
            takes_word: !self.fixed(),
        }
    }

    fn tell(&mut self, event: Event) {
        self.outputs.push(Output::Tell(event));
    }

    fn max_error_at(&self, now: RawTime, estimate: &Estimate) -> Option<Nanos> {
        if !self.fixed() {
            return Some(estimate.bound);
        }
        let (at, error) = self.max_error?;
        let growth = Ppm::new(estimate.frequency_bound.get().max(PHI.get()));
        Some((error + growth.over(now - at)).max(estimate.bound))
    }

    // ── what comes in ────────────────────────────────────────────────────────────────────

    /// Looks at the clock itself: did somebody set it?
    fn watch(&mut self, now: Reading) {
        let jump = self.discipline.observe(now, self.steer);
        if let Some(jump) = jump {
            self.tell(Event::ForeignStep(jump));
            // Confirmed or denied by servers before anything is done.
            for s in &mut self.sources {
                s.hurry(now.raw);
            }
            self.take_date(now, jump);
        }
    }

    fn reply(&mut self, now: Reading, id: ServerId, exchange: &Exchange) {
        if self.leaping(exchange.received) || self.leaping(now.raw) {
            self.sources[id].asked = None;
            self.plan(now, id);
            return;
        }
        let (earliest, latest) = self.settings.dates();
        let rules = Rules {
            around: earliest + (latest - earliest).half(),
            earliest,
            latest,
            mark: self.settings.mark,
            own: if self.gave_time(id, now.raw) { &self.own } else { &[] },
        };
        self.sources[id].count_bogus(exchange.bogus);
        match self.sources[id].read(exchange, &rules) {
            Err(why) => {
                self.refuse(now, id, why);
                self.consider_override(now);
                self.despair_of_dates(now, id);
            }
            Ok(sample) => {
                if let Some((_, reply)) = self.sources[id].last
                    && self.declines(now, id, &reply)
                {
                    self.sources[id].idle("no server has confirmed its time, and ours is as good");
                    self.plan(now, id);
                    return;
                }
                if self.unconfirmed.is_some() && !self.is_local(id) {
                    self.sources[id].void();
                    self.give_way(now);
                }
                self.heed_new_timeline(id, &sample);
                let (f, fb) = self.frequency(now.raw);
                let was_silent = self.sources[id].silent() >= 3;
                self.sources[id].keep(sample, f, fb);
                if was_silent {
                    self.tell(Event::Heard(id));
                }
                self.judge(now, id, &sample);
            }
        }
        self.plan(now, id);
    }

    fn refuse(&mut self, now: Reading, id: ServerId, why: Rejected) {
        self.sources[id].refuse(why, now.raw);
        if why == Rejected::Loop {
            self.drop_echo(id);
        }
        if !self.expected(id, why) {
            self.tell(Event::Dropped(id, why));
        }
        self.plan(now, id);
    }

    fn silence(&mut self, now: Reading, id: ServerId, why: Why, bogus: Bogus) {
        self.sources[id].count_bogus(bogus);
        self.sources[id].failed(why.clone());
        if self.sources[id].silent() == 3 {
            self.tell(Event::Silent(id, why));
        }
        self.plan(now, id);
        if !self.fixed() {
            self.first_fix(now);
        }
    }

    fn slept(&mut self, span: Nanos, now: Reading) {
        self.tell(Event::Slept(span));
        self.discipline.slept(now);
        for s in &mut self.sources {
            s.void();
            s.hurry(now.raw);
        }
        self.estimator = timeline(self.memory().as_ref());
        self.forget_fix();
        self.by_hand = None;
        self.max_error = None;
        self.first_asked = None;
        self.enter(Phase::Starting, Some("the machine slept".into()));
    }

    /// The first fix is to be made anew.
    fn forget_fix(&mut self) {
        self.fixed_at = None;
        (self.unconfirmed, self.lineage, self.doubt) = (None, None, Nanos::ZERO);
        self.shared = None;
        (self.waited, self.heard_out) = (false, false);
    }

    /// Whether there was a first fix.
    fn fixed(&self) -> bool {
        self.fixed_at.is_some()
    }

    // ── judgement ────────────────────────────────────────────────────────────────────────

    fn frequency(&self, at: RawTime) -> (Ppm, Ppm) {
        match self.estimator.estimate(at) {
            Some(e) => (e.frequency, Ppm::new(e.frequency_bound.get().clamp(0.05, 500.0))),
            None => (self.discipline.told, Ppm::new(500.0)),
        }
    }

    /// The servers' intervals of the moment, one per real server.
    fn intervals(&mut self, now: RawTime) -> Vec<select::Interval> {
        let (f, fb) = self.frequency(now);
        self.intervals_at(now, f, fb)
    }

    /// The same when the frequency is known to be `f` ± `fb`.
    fn intervals_at(&mut self, now: RawTime, f: Ppm, fb: Ppm) -> Vec<select::Interval> {
        // Smearing begins half a day before the leap second and ends half a day after it.
        let leap_near = self.leap_seen.is_some_and(|at| now - at < DAY);
        let mut out = Vec::with_capacity(self.sources.len());
        let mut seen = Vec::new();
        let confirmed = (0..self.sources.len()).any(|i| {
            self.sources[i].reach != 0 && self.sources[i].sample_count() > 0 && !self.is_local(i)
        });
        for id in 0..self.sources.len() {
            if confirmed && self.is_local(id) {
                self.sources[id].standing =
                    Standing::Unused("no server has confirmed its time".into());
                continue;
            }
            let s = &self.sources[id];
            if s.reach == 0 {
                continue;
            }
            let Some(interval) = s.interval(id, now, f, fb) else { continue };
            if s.spec.smeared && leap_near {
                self.sources[id].standing =
                    Standing::Unused("smears the leap second; left out near one".into());
                continue;
            }
            // The same server under two names is one vote. Nearby ones are taken at their word. Who
            // shows another's reference beside another time is somebody else, and votes himself.
            if let Some((_, r)) = s.last.filter(|(_, r)| !s.spec.nearby && r.reference_time != 0) {
                let key = (r.reference_id, r.reference_time, r.root_delay, r.stratum);
                let same = |(other, i): &(_, select::Interval)| {
                    *other == key && (i.centre - interval.centre).abs() <= i.half + interval.half
                };
                if seen.iter().any(same) {
                    self.sources[id].standing = Standing::Unused(SAME_SERVER.into());
                    continue;
                }
                seen.push((key, interval));
            }
            out.push(interval);
        }
        if let Some(best) = out.iter().map(|i| i.half).min() {
            out.retain(|i| {
                let echo = self.echoes(i.server, best);
                if echo {
                    let why = "is itself far from its reference, and others are not";
                    self.sources[i.server].standing = Standing::Unused(why.into());
                }
                !echo
            });
        }
        out
    }

    fn judge(&mut self, now: Reading, id: ServerId, sample: &estimator::Sample) {
        let intervals = self.intervals(now.raw);
        if intervals.is_empty() {
            // All of them are left out for reasons of their own: nobody contradicts anybody.
            return;
        }
        let vote = select::vote(&intervals).or_else(|| self.lenient_vote(now.raw));
        let vote = vote.filter(|_| !self.contradicted(now.raw));
        let Some(vote) = vote else {
            self.quarrel(now);
            if !self.fixed() {
                // Remembered, for the majority that may come.
                self.estimator.add(id, sample);
            }
            return;
        };
        // A timeline that is in force is not thrown over by a second's jump of the servers.
        if self.fixed() && self.discipline.settled && self.jumped(now, &intervals, &vote) {
            return;
        }
        self.elect(now.raw, &vote, &intervals);
        self.estimator.add(id, sample);
        if !self.fixed() {
            self.first_fix(now);
            return;
        }
        if !self.selected.contains(&id) {
            return;
        }
        self.use_sample(now, id);
    }

    /// A second vote in the first minutes: what was measured of the crystal by then must not make
    /// servers contradict each other.
    fn lenient_vote(&mut self, now: RawTime) -> Option<Vote> {
        let young = self.fixed_at.is_some_and(|t| now - t < YOUTH);
        let (_, fb) = self.frequency(now);
        young
            .then(|| {
                self.intervals_at(
                    now,
                    self.discipline.told,
                    Ppm::new(fb.get().max(YOUNG_FREQUENCY.get())),
                )
            })
            .and_then(|intervals| select::vote(&intervals))
    }

    /// Takes over the vote's result: who is used, who is not and why.
    fn elect(&mut self, now: RawTime, vote: &Vote, intervals: &[select::Interval]) {
        let shared = select::shared(intervals, &vote.truechimers);
        self.shared = shared.map(|(low, high)| (now, low, high));
        for &(id, by) in &vote.falsetickers {
            if !matches!(self.sources[id].standing, Standing::Falseticker(_)) {
                self.outputs.push(Output::Tell(Event::Outvoted(id, by)));
            }
            self.sources[id].standing = Standing::Falseticker(by);
        }
        for &id in &vote.truechimers {
            if matches!(self.sources[id].standing, Standing::Falseticker(_)) {
                self.outputs.push(Output::Tell(Event::Agrees(id)));
            }
            self.sources[id].standing = Standing::Selected;
        }
        if self.selected != vote.truechimers {
            self.selected.clone_from(&vote.truechimers);
            self.estimator.select(&self.selected);
        }
        self.verified = self.selected.iter().any(|&i| self.sources[i].spec.trust)
            || self.agreeing(&self.selected);
        self.confirm();
    }

    /// Whether enough operators are among these for their word to count as confirmed.
    fn agreeing(&self, ids: &[ServerId]) -> bool {
        !ids.is_empty() && self.operators(ids) >= self.discipline.limits.min_agreeing
    }

    fn operators(&self, ids: &[ServerId]) -> usize {
        let mut names: Vec<&str> =
            ids.iter().map(|&i| self.sources[i].spec.operator.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    }

    /// The first fix: as soon as two agree; one alone after patience.
    fn first_fix(&mut self, now: Reading) {
        let Some(estimate) = self.believed(now.raw) else { return };
        let Some(&id) = self.selected.first() else { return };
        let samples: usize = self.selected.iter().map(|&i| self.sources[i].sample_count()).sum();
        let fewest = self.selected.iter().map(|&i| self.sources[i].sample_count()).min();
        let waited = self.waited;
        let trusted = self.selected.iter().any(|&i| self.sources[i].spec.trust);
        let enough = match self.selected.len() {
            0 => false,
            1 if self.sources.iter().filter(|s| !s.retired).count() == 1 || trusted => samples >= 2,
            1 => samples >= 4 || (waited && samples >= 2),
            // Those who may still contradict are heard first, if they do not take long.
            agreed => {
                let heard = self.sources.iter().filter(|s| s.sample_count() > 0).count();
                let asked = |s: &&Source| s.sample_count() == 0 && s.asked.is_some();
                let awaited = self.sources.iter().filter(asked).count();
                2 * agreed > heard + awaited || self.heard_out
            }
        };
        let offset = estimate.truth - now.utc_minus_raw();
        let far = offset.abs() > DAY.half() && fewest < Some(2);
        if !enough || far {
            // Whoever fell silent is asked ever less often.
            for &i in &self.selected {
                if self.sources[i].silent() == 0 {
                    self.sources[i].hurry(now.raw);
                }
            }
            return;
        }
        self.fixed_at.get_or_insert(now.raw);
        self.use_sample(now, id);
        self.note_birth(now.raw);
    }

    /// A usable sample of a used server: measure, correct, publish.
    fn use_sample(&mut self, now: Reading, id: ServerId) {
        let Some(estimate) = self.believed(now.raw) else { return };
        let offset = estimate.truth - now.utc_minus_raw();
        self.last_used = Some(now.raw);
        self.by_hand = None;
        self.trace();
        self.remember_max_error(now.raw);
        self.leap_vote(now.raw, &estimate);
        self.tell(Event::Sync {
            server: id,
            offset,
            bound: estimate.bound,
            frequency: estimate.frequency,
        });
        if self.verified {
            let true_now = now.utc + offset;
            if self.settings.mark.is_none_or(|m| m < true_now) {
                self.settings.mark = Some(true_now);
            }
        }
        match self.correct(now) {
            None => self.enter(Phase::Synchronised, None),
            Some(refusal) => self.freeze(refusal),
        }
        self.publish(now);
    }

    /// The guarantee of the best selected server.
    fn remember_max_error(&mut self, now: RawTime) {
        let (f, fb) = self.frequency(now);
        let halves = self
            .selected
            .iter()
            .filter_map(|&i| self.sources[i].interval(i, now, f, fb).map(|interval| interval.half));
        if let Some(best) = halves.min() {
            self.max_error = Some((now, best));
        }
    }

    fn quarrel(&mut self, now: Reading) {
        let why = "the servers contradict each other and no majority agrees".to_owned();
        for s in &mut self.sources {
            if matches!(s.standing, Standing::Selected | Standing::Waiting) && s.sample_count() > 0
            {
                s.standing = Standing::Unused("no majority agrees with it".into());
            }
        }
        self.selected.clear();
        self.shared = None;
        if self.fixed() {
            self.enter(Phase::Frozen, Some(why));
            self.publish(now);
        } else {
            self.estimator.select(&[]);
            self.at_a_loss(why);
        }
    }

    /// Whether the servers' majority left the timeline by more than a second; then only a
    /// verified majority that insists may move it (decisions: steps after settled).
    fn jumped(&mut self, now: Reading, intervals: &[select::Interval], vote: &Vote) -> bool {
        let Some(estimate) = self.believed(now.raw) else { return false };
        let by = vote.middle() - estimate.truth;
        let slack = estimate.bound + (vote.high - vote.low).half();
        // gpsd can put a pulse into the wrong second: a receiver is right, or wrong by whole ones.
        let beside = vote.truechimers.iter().all(|&i| self.sources[i].spec.passive);
        let most = self.discipline.limits.step_after;
        let most = if beside { most.min(refclock::NO_JUMP) } else { most };
        if by.abs() <= most + slack {
            return false;
        }
        let verified = vote.truechimers.iter().any(|&i| self.sources[i].spec.trust)
            || self.agreeing(&vote.truechimers);
        let offset = vote.middle() - now.utc_minus_raw();
        match self.discipline.insist(now, by, offset, verified) {
            Err(refusal) => {
                self.freeze(refusal);
                self.publish(now);
                true
            }
            Ok(()) => {
                self.restart_timeline();
                self.elect(now.raw, vote, intervals);
                // The timeline left by more than a second; what the clock is off by may be less.
                self.discipline.allow_step(now.raw, Permit::Insistence(most));
                false
            }
        }
    }

    /// A new timeline from the servers' recent samples; the crystal is still the same.
    fn restart_timeline(&mut self) {
        self.estimator = timeline(self.memory().as_ref());
        self.selected.clear();
        self.shared = None;
        for id in 0..self.sources.len() {
            if let Some(s) = self.sources[id].latest().copied() {
                self.estimator.add(id, &s);
            }
        }
    }

    fn operator_step(&mut self, now: Reading) {
        let intervals = self.intervals(now.raw);
        let Some(vote) = select::vote(&intervals).filter(|v| !v.truechimers.is_empty()) else {
            return;
        };
        if self.discipline.locked() {
            return;
        }
        if self.phase == Phase::Frozen || !self.fixed() {
            self.restart_timeline();
            self.fixed_at.get_or_insert(now.raw);
        }
        self.elect(now.raw, &vote, &intervals);
        self.discipline.pardon();
        self.discipline.allow_step(now.raw, Permit::Order);
        if let Some(&id) = self.selected.first() {
            self.use_sample(now, id);
        }
    }

    // ── what goes out ────────────────────────────────────────────────────────────────────

    /// Corrects between samples, as when a lock ends.
    fn steer(&mut self, now: Reading) {
        if self.phase != Phase::Frozen
            && self.fixed()
            && let Some(refusal) = self.correct(now)
        {
            self.freeze(refusal);
        }
    }

    /// Corrects the clock towards the estimate; the refusal when that is not allowed.
    fn correct(&mut self, now: Reading) -> Option<Refusal> {
        let estimate = self.estimate(now.raw)?;
        let offset = estimate.truth - now.utc_minus_raw();
        if self.leaping(now.raw) {
            return None;
        }
        let settled = self.discipline.settled;
        let refusal = if self.steer {
            self.discipline.decide(now, &estimate, offset, self.verified, &mut self.outputs)
        } else {
            self.discipline.settled = true;
            self.discipline.insisted = None;
            None
        };
        // Who follows a neighbour that has no UTC itself still waits for the first fix.
        self.discipline.settled = settled || self.discipline.settled && self.unconfirmed.is_none();
        refusal
    }

    /// Keeps the clock on the estimate between samples.
    fn follow(&mut self, now: Reading) {
        if !self.steer || self.leaping(now.raw) {
            return;
        }
        if let Some(estimate) = self.estimate(now.raw) {
            let offset = estimate.truth - now.utc_minus_raw();
            self.discipline.follow(now, &estimate, offset, &mut self.outputs);
        }
    }

    /// Stops steering, and says why once.
    fn freeze(&mut self, refusal: Refusal) {
        let why = refusal.to_string();
        if self.why.as_deref() != Some(&why) {
            self.tell(Event::Refused(refusal));
        }
        self.enter(Phase::Frozen, Some(why));
    }

    fn publish(&mut self, now: Reading) {
        if self.leaping(now.raw) {
            return;
        }
        let Some(estimate) = self.estimate(now.raw) else { return };
        let offset = (estimate.truth - now.utc_minus_raw()).abs();
        let max_error = self.max_error_at(now.raw, &estimate).unwrap_or(estimate.bound) + offset;
        // Worse than a second is worse than the hardware clock would be. timedatectl looks at
        // maxerror alone, and believes everything below 16 s.
        let synchronised = max_error < Nanos::from_secs(1);
        self.outputs.push(Output::Kernel(KernelStatus {
            synchronised,
            max_error: if synchronised { max_error } else { Nanos::from_secs(16) },
            est_error: (estimate.bound + offset).min(Nanos::from_secs(16)),
            leap: self.leap,
        }));
    }

    fn enter(&mut self, phase: Phase, why: Option<String>) {
        if phase != self.phase || why != self.why {
            self.phase = phase;
            self.why.clone_from(&why);
            self.tell(Event::Phase(phase, why));
        }
    }

    /// What changes by the mere passing of time.
    fn age(&mut self, now: Reading) {
        self.heard_out |= self.first_asked.is_some_and(|t| now.raw - t >= LAST_WORD);
        self.waited |= self.first_asked.is_some_and(|t| now.raw - t >= FIRST_FIX_PATIENCE);
        self.listen(now);
        if self.phase == Phase::Synchronised {
            let patience =
                Nanos::new(self.interval.get() * HOLDOVER_POLLS).max(Nanos::from_secs(60));
            if self.last_used.is_none_or(|t| now.raw - t > patience) {
                self.enter(Phase::Holdover, None);
            }
        }
        if self.phase == Phase::Holdover && self.discipline.undisturbed() {
            // The crystal is foreseen to change: without this the clock leaves the estimate.
            self.steer(now);
        } else if self.phase == Phase::Synchronised {
            self.follow(now);
        }
        if matches!(self.phase, Phase::Holdover | Phase::Frozen) {
            self.publish(now);
        }
        if matches!(self.phase, Phase::Starting) && self.waited && !self.fixed() {
            let why = if self.sources.iter().any(|s| s.sample_count() > 0) {
                "waiting for a second opinion"
            } else {
                "no server has given a usable answer yet"
            };
            self.enter(Phase::Unsynchronised, Some(why.into()));
        }
        if !self.fixed() && self.sources.iter().any(|s| s.sample_count() > 0) {
            self.first_fix(now);
        }
    }
}

/// An empty timeline that knows the crystal as far as it was learned before.
fn timeline(memory: Option<&DriftMemory>) -> Estimator {
    let mut estimator = Estimator::new(None);
    if let Some(memory) = memory {
        estimator.restore(memory);
    }
    estimator
}

fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
