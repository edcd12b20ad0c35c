//! The estimator alone in the world: no engine, no steering; the polls it wants, every server
//! that does not lie grossly. What it gets wrong here no discipline can put right.
use super::outcome::{Outcome, Watch};
use super::scenario::Scenario;
use super::world::{Flight, World};
use crate::engine::estimator::{Estimator, Sample};
use crate::engine::packet;
use crate::units::Nanos;

/// Runs the estimator alone and judges its estimate every `every` seconds.
#[must_use]
pub fn estimate_alone(scenario: &Scenario, seed: u64, interval: Nanos, every: f64) -> Outcome {
    let mut world = World::new(scenario, seed);
    let mut estimator = Estimator::new(None);
    let mut watch = Watch::default();
    let end = (scenario.hours * 3.6e12) as i64;
    let judge_every = (every * 1e9) as i64;
    let servers = world.servers();
    let mut next: Vec<i64> = (0..servers as i64).map(|s| 1_000_000_000 + s * 300_000_000).collect();
    let mut flights: Vec<Flight> = Vec::new();
    let mut next_judge = judge_every;
    let mut next_temperature = 0;
    let mut first = None;
    let mut cuts = scenario.power_cuts.iter().map(|&(at, off)| ((at * 1e9) as i64, off)).peekable();
    let liar = |s: usize| matches!(scenario.servers[s].0.truth, super::server::Truth::Wrong(by) if by.abs() > 0.1);
    let honest: Vec<usize> = (0..servers).filter(|&s| !liar(s)).collect();
    estimator.select(&honest);
    while world.now() < end {
        let landing = flights.iter().filter_map(|f| f.lands).min().unwrap_or(i64::MAX);
        let asking = next.iter().copied().min().unwrap_or(i64::MAX);
        let cut = cuts.peek().map_or(i64::MAX, |c| c.0);
        let at = landing.min(asking).min(next_judge).min(next_temperature).min(cut);
        world.advance(at);
        if at == cut {
            let off = cuts.next().map_or(0.0, |c| c.1);
            let memory = estimator.memory();
            world.restart(Nanos::from_secs_f64(off), world.reading().utc);
            estimator = Estimator::new(None);
            if let Some(memory) = memory {
                estimator.restore(&memory);
            }
            estimator.select(&honest);
            flights.clear();
            next.iter_mut().for_each(|n| *n = world.now() + 1_000_000_000);
            next_judge = next_judge.max(world.now());
            next_temperature = next_temperature.max(world.now());
        } else if at == landing {
            let n = flights.iter().position(|f| f.lands == Some(at)).expect("it lands");
            let flight = flights.swap_remove(n);
            let back = world.land(&flight);
            if let Ok(reply) = packet::parse(&back.packet, world.true_utc()) {
                let sample = Sample {
                    outward: reply.t2.minus_raw(back.sent),
                    homeward: reply.t3.minus_raw(back.received),
                    sent: back.sent,
                    received: back.received,
                    root_distance: reply.root_distance(),
                    precision: reply.resolution(),
                };
                estimator.add(flight.server, &sample);
            }
        } else if at == asking {
            for s in (0..servers).filter(|&s| next[s] == at) {
                let flight = world.ask(s);
                if flight.lands.is_some() {
                    flights.push(flight);
                }
            }
            let wanted = estimator.wanted_poll(world.raw(), interval).get().max(4_000_000_000);
            next.iter_mut().filter(|n| **n == at).for_each(|n| *n = at + wanted);
        } else if at == next_temperature {
            if let Some(celsius) = world.thermometer() {
                estimator.temperature(world.raw(), celsius);
            }
            next_temperature += 30_000_000_000;
        } else {
            let seconds = at as f64 * 1e-9;
            let estimate = estimator.estimate(world.raw());
            if let Some(e) = &estimate {
                first.get_or_insert(seconds);
                let error = (world.truth_minus_raw() - e.truth).as_secs_f64();
                watch.steadies(seconds, error);
                if seconds > scenario.judged_from {
                    let wrong = e.frequency.get() + world.crystal_ppm();
                    watch.judge(error, Some(e.bound.as_secs_f64()), Some(wrong));
                }
            }
            next_judge += judge_every;
        }
    }
    let packets: u32 = (0..servers).map(|s| world.asked(s)).sum();
    Outcome {
        scenario: scenario.name.into(),
        seed,
        sync_interval_s: interval.as_secs_f64(),
        hours: scenario.hours,
        packets,
        packets_per_server_day: f64::from(packets) / servers.max(1) as f64 * 24.0 / scenario.hours,
        first_sync_s: first,
        ..watch.outcome()
    }
}
