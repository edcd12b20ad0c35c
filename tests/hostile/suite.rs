//! Scenarios of chrony's simulation suite that apply to a client, each with the same judgement: how
//! long until synchronised, the worst and the RMS of the true error of time and frequency after
//! that, and how many requests it took. `cargo test --test hostile suite -- --nocapture` shows them.
use crate::bench::{Bench, DAY, HOUR, MS, Plan, S};
use leadville_timesync::engine::Phase;
use leadville_timesync::sim::Random;

/// How long each lasts, and how long it may settle before it is judged.
const LASTS: i64 = 4 * HOUR;
const SETTLES: i64 = 2 * HOUR;
const SPAN_S: i64 = 16;

/// What may come out at most: s until synchronised, ms of time (worst, RMS), ppm (RMS), requests of
/// one server in an hour.
struct Most {
    sync_s: i64,
    worst_ms: f64,
    rms_ms: f64,
    ppm: f64,
    requests: usize,
}

const USUAL: Most = Most { sync_s: 32, worst_ms: 0.02, rms_ms: 0.008, ppm: 0.05, requests: 60 };

/// Lives through a scenario; what broke a limit.
fn judge(name: &str, mut b: Bench, mut each: impl FnMut(&mut Bench), most: &Most) -> Vec<String> {
    let mut synchronised = None;
    let (mut squares, mut bends, mut worst, mut count) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0);
    while b.t() < LASTS {
        b.run(SPAN_S);
        if b.phase() == Phase::Synchronised {
            let _ = synchronised.get_or_insert(b.t() / S);
        }
        if b.t() > SETTLES {
            let ms = b.error() as f64 / MS as f64;
            squares += ms * ms;
            bends += (b.told - b.crystal).powi(2);
            worst = worst.max(ms.abs());
            count += 1.0;
        }
        each(&mut b);
    }
    let (rms, ppm) = ((squares / count).sqrt(), (bends / count).sqrt());
    let servers = b.engine.sources().len();
    let requests = b.asked.len() / servers / 4;
    println!(
        "{name}: synchronised after {synchronised:?} s, worst {worst:.2} ms, RMS {rms:.3} ms and \
         {ppm:.3} ppm, {requests} requests per server and hour"
    );
    let mut broken = Vec::new();
    let mut limit = |what: &str, ok: bool| {
        if !ok {
            broken.push(format!("{name}: {what}"));
        }
    };
    limit("time to synchronise", synchronised.is_some_and(|s| s <= most.sync_s));
    limit("worst error", worst <= most.worst_ms);
    limit("RMS error", rms <= most.rms_ms);
    limit("frequency", ppm <= most.ppm);
    limit("requests", requests <= most.requests);
    broken
}

fn ways(way: impl Fn(i64, &mut Random) -> Option<(i64, i64)> + 'static) -> Bench {
    let mut b = Plan::new(3).behind(3 * S).go();
    b.crystal = 40.0;
    b.way = Box::new(move |_, t, chance| way(t, chance));
    b
}

fn ms(x: f64) -> i64 {
    (x * 1e6) as i64
}

#[test]
fn chronys_scenarios_end_in_one_judgement() {
    let mut broken = Vec::new();
    let calm = |_, _: &mut Random| Some((10 * MS, 10 * MS));
    let rough = Most { worst_ms: 0.4, rms_ms: 0.23, ..USUAL };
    broken.extend(judge("defaults", ways(calm), |_| (), &USUAL));
    for ppm in [490.0, -490.0] {
        let mut b = ways(calm);
        b.crystal = ppm;
        broken.extend(judge(&format!("a crystal of {ppm} ppm"), b, |_| (), &USUAL));
    }
    for behind in [1_000 * S, -1_000 * S, 3_000 * DAY] {
        let mut b = Plan::new(3).behind(behind).go();
        b.crystal = 40.0;
        broken.extend(judge(&format!("{} s wrong", behind / S), b, |_| (), &USUAL));
    }
    let jitter = |_, chance: &mut Random| {
        let (out, home) = (chance.exponential(20.0), chance.exponential(20.0));
        Some((ms(10.0 + out), ms(10.0 + home)))
    };
    broken.extend(judge("large jitter", ways(jitter), |_| (), &rough));
    let lopsided = |_, chance: &mut Random| Some((ms(10.0 + chance.exponential(20.0)), 10 * MS));
    broken.extend(judge("asymmetric jitter", ways(lopsided), |_| (), &rough));
    let mut chance = Random::new(3, 3);
    // 0.02 ppm every 16 s: 1.2 ppm in an hour.
    let wander = move |b: &mut Bench| b.crystal += 0.02 * chance.normal();
    broken.extend(judge("large wander", ways(calm), wander, &rough));
    let comes_and_goes =
        |t: i64, _: &mut Random| (t / (600 * S) % 3 != 1).then_some((10 * MS, 10 * MS));
    broken.extend(judge("a network that comes and goes", ways(comes_and_goes), |_| (), &USUAL));
    let half = |_, chance: &mut Random| (!chance.chance(0.5)).then_some((10 * MS, 10 * MS));
    broken.extend(judge("half of the packets lost", ways(half), |_| (), &USUAL));
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Each stranger's step is undone, the third in an hour is not fought with, and it is said.
#[test]
fn a_step_from_outside_every_500_seconds_is_undone_twice_and_then_frozen_and_named() {
    let mut b = ways(|_, _| Some((10 * MS, 10 * MS)));
    b.run(600);
    b.steps.clear();
    for _ in 0..7 {
        b.jump(10 * S);
        b.run(500);
    }
    assert_eq!(b.steps.len(), 2, "{:?}", b.steps);
    assert_eq!(b.phase(), Phase::Frozen);
    assert!(b.view().why.is_some_and(|why| why.contains("clock")), "{:?}", b.view());
}
