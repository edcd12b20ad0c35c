//! The connection interval is told only where the arrivals show it, however the host's stamps scatter.
use leadville_timesync::sim::shooter::{Habit, Radio, Shooter};
use leadville_timesync::timer::epoch::{Dating, Delay};
use leadville_timesync::timer::frame::{Frame, decode};
use leadville_timesync::units::{Nanos, RawTime};

/// How a host stamps: scatter about the event, sd, and how much later it is in the mean, ms.
type Host = (f64, f64);

/// A Pi, hosts that scatter by more than it, and hosts that are late by chance.
const HOSTS: [Host; 7] =
    [(0.4, 0.0), (1.0, 0.0), (2.0, 0.0), (4.0, 0.0), (6.0, 0.0), (0.4, 2.0), (0.4, 5.0)];

/// No shot held up.
const NONE: (u8, Nanos) = (0, Nanos::ZERO);

fn habit(shots: u32) -> Habit {
    Habit {
        num_shots: shots,
        shot_interval: Nanos::from_millis(1500),
        random_timing: true,
        timing_variance: Nanos::from_millis(1000),
        ..Habit::default()
    }
}

fn radio(interval_ms: f64, (jitter_ms, busy_ms): Host) -> Radio {
    Radio { interval_ms, jitter_ms, busy_ms, ..Radio::default() }
}

fn known(radio: &Radio) -> Delay {
    // How late the host is in the mean nobody can know: it counts as part of d0.
    let d0 = radio.shot_delay + Nanos::from_secs_f64(radio.busy_ms * 1e-3);
    Delay::calibrated(d0, Nanos::ZERO)
}

/// A string, frame by frame, one shot held up by so much; `after` each frame.
fn shoot(
    dating: &mut Dating,
    shooter: &mut Shooter,
    n: i64,
    (held_up, by): (u8, Nanos),
    mut after: impl FnMut(&Dating),
) -> RawTime {
    let fired = shooter.fire(RawTime::from_nanos((100 + 60 * n) * 1_000_000_000 + n * 77_777));
    dating.begin();
    for h in &fired.heard {
        match decode(&h.bytes).frame {
            Frame::Start { .. } => dating.start(h.at),
            Frame::Shot { body, .. } if body.shot == held_up => dating.shot(h.at + by, body.time),
            Frame::Shot { body, .. } => dating.shot(h.at, body.time),
            _ => dating.other(h.at),
        }
        after(dating);
    }
    fired.beep
}

/// Frames after which a wrong interval is told, strings whose end tells the right one, and strings whose
/// beep is inside its bound: each as a part of all.
#[derive(Debug)]
struct Told {
    wrong: f64,
    in_the_end: f64,
    inside: f64,
}

/// Two strings on each of so many new links.
fn new_links(interval_ms: f64, host: Host, shots: u32, links: u64) -> Told {
    let (mut frames, mut wrong) = (0_u32, 0_u32);
    let (mut strings, mut in_the_end, mut inside) = (0_u32, 0_u32, 0_u32);
    let is = |told: Option<f64>| told.is_some_and(|ms| (ms - interval_ms).abs() < 1e-6);
    for seed in 0..links {
        let radio = radio(interval_ms, host);
        let mut dating = Dating::new(known(&radio));
        let mut shooter = Shooter::new(habit(shots), radio, seed);
        for n in 0..2 {
            let beep = shoot(&mut dating, &mut shooter, n, NONE, |dating| {
                let told = dating.link().interval_ms().map(|(ms, _)| ms);
                frames += 1;
                wrong += u32::from(told.is_some() && !is(told));
            });
            let e = dating.estimate().unwrap();
            strings += 1;
            in_the_end += u32::from(is(e.interval_ms));
            inside += u32::from((e.epoch - beep).abs() <= e.bound);
        }
    }
    let part = |of: u32, all: u32| f64::from(of) / f64::from(all);
    let told = Told {
        wrong: part(wrong, frames),
        in_the_end: part(in_the_end, strings),
        inside: part(inside, strings),
    };
    println!("{interval_ms} ms, {shots} shots, host {host:?}: {told:.3?}");
    told
}

#[test]
fn an_interval_that_the_arrivals_do_not_show_is_not_told() {
    for interval_ms in [7.5, 15.0, 26.25, 30.0, 48.75, 50.0] {
        for host in HOSTS {
            for shots in [1, 5] {
                let told = new_links(interval_ms, host, shots, 300);
                assert!(told.wrong <= 0.02, "{interval_ms} ms, {shots} shots, {host:?}: {told:?}");
                assert!(told.inside >= 0.92, "{interval_ms} ms, {shots} shots, {host:?}: {told:?}");
            }
        }
    }
}

#[test]
fn an_interval_that_the_arrivals_show_is_told() {
    for (interval_ms, host, least) in [
        (48.75, (0.4, 0.0), 0.95),
        (48.75, (2.0, 0.0), 0.9),
        (48.75, (0.4, 2.0), 0.85),
        (30.0, (0.4, 0.0), 0.75),
        (15.0, (0.4, 0.0), 0.75),
        (7.5, (0.4, 0.0), 0.8),
    ] {
        let told = new_links(interval_ms, host, 5, 300);
        assert!(told.in_the_end >= least, "{interval_ms} ms, {host:?}: {told:?}");
    }
}

/// Of a hundred links whose interval becomes another one after four strings: what is told in the end of the
/// strings after that, each (right, wrong).
fn renegotiated(before: f64, after: f64, jitter_ms: f64) -> Vec<(u32, u32)> {
    let mut counts = vec![(0, 0); 6];
    for seed in 0..100 {
        let host = (jitter_ms, 0.0);
        let mut dating = Dating::new(known(&radio(before, host)));
        let mut first = Shooter::new(habit(6), radio(before, host), seed);
        for n in 0..4 {
            shoot(&mut dating, &mut first, n, NONE, |_| {});
        }
        let mut then = Shooter::new(habit(6), radio(after, host), seed);
        for (n, count) in (4..).zip(&mut counts) {
            shoot(&mut dating, &mut then, n, NONE, |_| {});
            match dating.estimate().unwrap().interval_ms {
                Some(ms) if (ms - after).abs() < 1e-6 => count.0 += 1,
                Some(_) => count.1 += 1,
                None => {}
            }
        }
    }
    println!("{before} → {after} ms, sd {jitter_ms}: {counts:?}");
    counts
}

#[test]
fn an_interval_that_became_another_is_told_no_longer() {
    for (before, after) in
        [(48.75, 15.0), (15.0, 48.75), (7.5, 48.75), (48.75, 50.0), (30.0, 48.75)]
    {
        for jitter_ms in [0.4, 2.0] {
            let told = renegotiated(before, after, jitter_ms);
            assert!(told.iter().all(|(_, wrong)| *wrong <= 8), "{before} → {after}: {told:?}");
            assert!(told[2].0 >= 80 && told[5].0 >= 90, "{before} → {after}: {told:?}");
        }
    }
    // Where a short interval's events cannot be told apart nothing is told in the end.
    for jitter_ms in [4.0, 6.0] {
        let told = renegotiated(48.75, 15.0, jitter_ms);
        assert!(told[5].1 <= 5, "{told:?}");
    }
}

#[test]
fn one_shot_held_up_makes_no_interval() {
    for interval_ms in [7.5, 15.0, 30.0, 48.75] {
        for by_ms in [150, 300, 1000] {
            let (mut frames, mut wrong) = (0, 0);
            for seed in 0..300 {
                let radio = radio(interval_ms, HOSTS[0]);
                let mut dating = Dating::new(known(&radio));
                let mut shooter = Shooter::new(habit(6), radio, seed);
                let late = (1 + (seed % 6) as u8, Nanos::from_millis(by_ms));
                shoot(&mut dating, &mut shooter, 0, late, |dating| {
                    let told = dating.link().interval_ms();
                    frames += 1;
                    wrong += u32::from(told.is_some_and(|(ms, _)| (ms - interval_ms).abs() > 1e-6));
                });
            }
            let part = f64::from(wrong) / f64::from(frames);
            println!("{interval_ms} ms, a shot {by_ms} ms late: {part:.3}");
            assert!(part <= 0.02, "{interval_ms} ms, a shot {by_ms} ms late: {part:.3}");
        }
    }
}
