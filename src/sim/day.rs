//! A scenario lived through by the whole engine: what `simulate` prints and the benchmarks judge.
use super::outcome::{Outcome, PROMISED, Watch};
use super::scenario::Scenario;
use super::world::{Flight, World};
use crate::engine::discipline::{Correction, Limits};
use crate::engine::packet::{Bogus, Exchange, Why};
use crate::engine::source::ServerSpec;
use crate::engine::{Engine, Event, Input, Output, Phase, Settings};
use crate::units::{Nanos, RawTime};
use std::collections::VecDeque;

const SECOND: i64 = 1_000_000_000;
/// A request without an answer is given up after this.
const TIMEOUT: i64 = 10 * SECOND;
const TEMPERATURE_EVERY: i64 = 60 * SECOND;
const PROMISE_EVERY: f64 = 60.0;

enum Happening {
    Ask(usize),
    Land(Flight),
    Lost(usize),
}

struct Run<'a> {
    scenario: &'a Scenario,
    world: World,
    engine: Engine,
    seed: u64,
    interval: Nanos,
    /// What is on its way, with the instant at which it ends.
    flights: Vec<(i64, Happening)>,
    first: Option<f64>,
    steps: u32,
    /// When 20 ms were promised last.
    promised: Option<f64>,
}

fn engine(
    scenario: &Scenario,
    world: &World,
    seed: u64,
    interval: Nanos,
    old: Option<&Engine>,
) -> Engine {
    let settings = Settings {
        sync_interval: interval,
        limits: Limits::default(),
        built: scenario.start - Nanos::from_secs(30 * 86_400),
        mark: old.and_then(Engine::mark),
        settled: false,
        restored: old.is_some(),
        steer: true,
        memory: old.and_then(Engine::memory),
        spent: old.map_or_else(Vec::new, |e| e.spent().to_vec()),
        seed,
    };
    let spec = |n: usize| ServerSpec {
        name: format!("server {}", n + 1),
        operator: format!("operator {}", n + 1),
        ..ServerSpec::default()
    };
    Engine::new(settings, (0..world.servers()).map(spec).collect(), world.reading())
}

impl Run<'_> {
    fn feed(&mut self, input: Input<'_>) {
        let now = self.world.reading();
        let outputs: VecDeque<Output> = self.engine.handle(now, input).collect();
        for output in outputs {
            match output {
                Output::Ask(id) => self.flights.push((self.world.now(), Happening::Ask(id))),
                Output::Steer(Correction::Step(by)) => {
                    self.steps += 1;
                    self.world.clock().step(by);
                }
                Output::Steer(Correction::Slew(by)) => self.world.clock().slew(by),
                Output::Steer(Correction::Frequency(f)) => self.world.clock().set_frequency(f),
                Output::Tell(Event::Sync { .. }) => {
                    self.first.get_or_insert(self.world.now() as f64 * 1e-9);
                }
                Output::Kernel(_) | Output::Tell(_) => {}
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Ask(id) => {
                let flight = self.world.ask(id);
                let now = self.world.now();
                match flight.lands.filter(|l| l - now < TIMEOUT) {
                    Some(lands) => self.flights.push((lands, Happening::Land(flight))),
                    None => self.flights.push((now + TIMEOUT, Happening::Lost(id))),
                }
            }
            Happening::Land(flight) => {
                let back = self.world.land(&flight);
                let exchange = Exchange {
                    packet: back.packet,
                    sent: back.sent,
                    received: back.received,
                    bogus: Bogus::default(),
                };
                self.feed(Input::Exchange(flight.server, &exchange));
            }
            Happening::Lost(id) => self.feed(Input::Failed(id, Why::Timeout, Bogus::default())),
        }
    }

    fn power_cut(&mut self, off: f64) {
        let kept = self.world.reading().utc;
        self.world.restart(Nanos::from_secs_f64(off), kept);
        self.engine =
            engine(self.scenario, &self.world, self.seed, self.interval, Some(&self.engine));
        self.flights.clear();
        self.feed(Input::Tick);
    }

    /// What `status` tells while no server is heard, once a minute.
    fn promise(&mut self, watch: &mut Watch, seconds: f64) {
        let now = self.world.reading();
        if self.engine.view(now).phase != Phase::Holdover {
            self.promised = None;
            return;
        }
        if self.promised.is_some_and(|last| seconds - last < PROMISE_EVERY) {
            return;
        }
        if let Some(span) = self.engine.keeps_within(now, Nanos::from_secs_f64(PROMISED)) {
            watch.promise(seconds, span.as_secs_f64(), self.promised.is_none());
        }
        self.promised = Some(seconds);
    }

    fn judge(&mut self, watch: &mut Watch) {
        let seconds = self.world.now() as f64 * 1e-9;
        let error = self.world.offset().as_secs_f64();
        if self.first.is_none() {
            return;
        }
        watch.steadies(seconds, error);
        watch.holds(seconds, error);
        if seconds <= self.scenario.judged_from {
            return;
        }
        let stated = self.engine.estimate(self.world.raw());
        let wrong = stated.map(|e| (self.world.truth_minus_raw() - e.truth).as_secs_f64());
        let bound = stated.map(|e| e.bound.as_secs_f64());
        let frequency = stated.map(|e| e.frequency.get() + self.world.crystal_ppm());
        self.promise(watch, seconds);
        watch.judge_apart(error, wrong.unwrap_or(error), bound, frequency);
    }
}

/// Runs a scenario through the whole engine, its clock steered, and judges it every second.
#[must_use]
pub fn simulate(scenario: &Scenario, seed: u64, interval: Nanos) -> Outcome {
    let world = World::new(scenario, seed);
    let engine = engine(scenario, &world, seed, interval, None);
    let mut run = Run {
        scenario,
        world,
        engine,
        seed,
        interval,
        flights: Vec::new(),
        first: None,
        steps: 0,
        promised: None,
    };
    let mut watch = Watch::default();
    let end = (scenario.hours * 3600.0) as i64 * SECOND;
    let mut cuts = scenario.power_cuts.iter().map(|&(at, off)| ((at * 1e9) as i64, off)).peekable();
    let (mut next_judge, mut next_temperature) = (SECOND, 0);
    run.feed(Input::Tick);
    while run.world.now() < end {
        let ending = run.flights.iter().map(|(at, _)| *at).min().unwrap_or(i64::MAX);
        let tick = run.engine.next_tick().map_or(i64::MAX, |t: RawTime| run.world.when(t));
        let cut = cuts.peek().map_or(i64::MAX, |c| c.0);
        let at = ending.min(tick).min(cut).min(next_judge).min(next_temperature);
        if run.world.advance(at) {
            run.feed(Input::Tick);
            continue;
        }
        if at == cut {
            let off = cuts.next().map_or(0.0, |c| c.1);
            run.power_cut(off);
            watch.taken_back();
            next_judge = next_judge.max(run.world.now());
            next_temperature = next_temperature.max(run.world.now());
        } else if at == ending {
            let n = run.flights.iter().position(|(t, _)| *t == at).unwrap_or(0);
            let (_, happening) = run.flights.swap_remove(n);
            run.happen(happening);
        } else if at == next_judge {
            run.judge(&mut watch);
            next_judge += SECOND;
        } else if at == next_temperature {
            if let Some(celsius) = run.world.thermometer() {
                run.feed(Input::Temperature(celsius));
            }
            next_temperature += TEMPERATURE_EVERY;
        } else {
            run.feed(Input::Tick);
        }
    }
    let servers = run.world.servers();
    let packets: u32 = (0..servers).map(|s| run.world.asked(s)).sum();
    Outcome {
        scenario: scenario.name.into(),
        seed,
        sync_interval_s: interval.as_secs_f64(),
        hours: scenario.hours,
        packets,
        packets_per_server_day: f64::from(packets) / servers.max(1) as f64 * 24.0 / scenario.hours,
        steps: run.steps,
        first_sync_s: run.first,
        ..watch.outcome()
    }
}
