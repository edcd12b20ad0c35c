//! How well strings are dated: simulated shooters at a simulated timer.
use leadville_timesync::sim::shooter::{Habit, Radio, Shooter};
use leadville_timesync::timer::epoch::{Dating, Delay};
use leadville_timesync::timer::frame::{Frame, decode};
use leadville_timesync::timer::lag::Lag;
use leadville_timesync::units::{Nanos, RawTime};

/// Shots after which the epoch is looked at.
const AFTER: [usize; 4] = [1, 3, 6, 10];

#[derive(Default)]
struct Score {
    errors: Vec<f64>,
    widths: Vec<f64>,
    inside: usize,
}

impl Score {
    fn sd(&self) -> f64 {
        let n = self.errors.len() as f64;
        let mean = self.errors.iter().sum::<f64>() / n;
        (self.errors.iter().map(|e| (e - mean) * (e - mean)).sum::<f64>() / n).sqrt()
    }
    fn rms(&self) -> f64 {
        (self.errors.iter().map(|e| e * e).sum::<f64>() / self.errors.len() as f64).sqrt()
    }
    fn coverage(&self) -> f64 {
        self.inside as f64 / self.errors.len() as f64
    }
    fn width(&self) -> f64 {
        let mut widths = self.widths.clone();
        widths.sort_by(f64::total_cmp);
        widths[widths.len() / 2]
    }
}

struct Trial {
    interval_ms: f64,
    /// The start frame counts, its lag behind the shots known.
    start: bool,
    /// Every string on a link of its own: interval and phase are measured from it alone.
    fresh: bool,
    strings: i64,
    seed: u64,
}

/// Scores after 1, 3, 6 and 10 shots; d0 is known.
fn shoot(trial: &Trial) -> [Score; 4] {
    let habit = Habit {
        num_shots: 10,
        shot_interval: Nanos::from_millis(1500),
        random_timing: true,
        timing_variance: Nanos::from_millis(1000),
        ..Habit::default()
    };
    let radio = Radio { interval_ms: trial.interval_ms, ..Radio::default() };
    let d0 = radio.shot_delay;
    let mut shooter = Shooter::new(habit, radio, trial.seed);
    let known = Delay::calibrated(d0, Nanos::ZERO);
    let mut dating = Dating::new(known);
    let mut scores: [Score; 4] = Default::default();
    for n in 0..trial.strings {
        if trial.fresh {
            shooter.reconnected();
            dating = Dating::new(known);
        }
        if trial.start {
            dating.set_lag(Lag::known(40.0, 0.5, 20));
        }
        let fired = shooter.fire(RawTime::from_nanos((100 + 60 * n) * 1_000_000_000 + n * 77_777));
        dating.begin();
        let mut shots = 0;
        for h in &fired.heard {
            match decode(&h.bytes).frame {
                Frame::Start { .. } if trial.start => dating.start(h.at),
                Frame::Shot { body, .. } => {
                    dating.shot(h.at, body.time);
                    shots += 1;
                    let Some(score) = AFTER.iter().position(|a| *a == shots) else { continue };
                    let e = dating.estimate().unwrap();
                    let error = (e.epoch - fired.beep).as_millis_f64();
                    let bound = e.bound.as_millis_f64();
                    let score = &mut scores[score];
                    score.errors.push(error);
                    score.widths.push(2.0 * bound);
                    score.inside += usize::from(error.abs() <= bound);
                }
                _ => dating.other(h.at),
            }
        }
    }
    for (score, after) in scores.iter().zip(AFTER) {
        println!(
            "{} ms, start {}, fresh {}, {after} shots: sd {:.2} rms {:.2} ms, inside {:.3}, width {:.1} ms",
            trial.interval_ms,
            trial.start,
            trial.fresh,
            score.sd(),
            score.rms(),
            score.coverage(),
            score.width()
        );
    }
    scores
}

fn expect(trial: &Trial, limits: [f64; 4], from: usize) {
    let scores = shoot(trial);
    for ((score, limit), after) in scores.iter().zip(limits).zip(AFTER).skip(from) {
        let (sd, rms) = (score.sd(), score.rms());
        assert!(sd <= limit && rms <= limit * 1.03, "after {after} shots: sd {sd} rms {rms}");
        assert!(score.coverage() >= 0.95, "after {after} shots: {}", score.coverage());
        assert!(score.width() <= 4.0 * sd, "after {after} shots: {} for sd {sd}", score.width());
    }
}

#[test]
fn two_thousand_strings_are_dated_as_well_as_can_be_from_shots_alone() {
    let trial = Trial { interval_ms: 48.75, start: false, fresh: false, strings: 2000, seed: 1 };
    expect(&trial, [27.0, 11.0, 7.2, 4.8], 0);
}

#[test]
fn a_start_frame_makes_them_better() {
    let trial = Trial { interval_ms: 48.75, start: true, fresh: false, strings: 2000, seed: 2 };
    expect(&trial, [16.0, 9.5, 6.1, 4.7], 0);
}

#[test]
fn a_short_interval_makes_them_better_still() {
    for (start, limit) in [(false, 2.8), (true, 2.5)] {
        let scores =
            shoot(&Trial { interval_ms: 15.0, start, fresh: false, strings: 2000, seed: 3 });
        let six = &scores[2];
        assert!(six.sd() <= limit && six.coverage() >= 0.95 && six.width() <= 4.0 * six.sd());
    }
}

#[test]
fn an_interval_measured_from_the_string_itself_is_no_excuse() {
    for interval_ms in [48.75, 15.0, 30.0, 50.0] {
        let trial = Trial { interval_ms, start: true, fresh: true, strings: 600, seed: 4 };
        let scores = shoot(&trial);
        for (score, after) in scores.iter().zip(AFTER) {
            assert!(
                score.coverage() >= 0.935,
                "{interval_ms} ms, {after} shots: {}",
                score.coverage()
            );
        }
        assert!(scores[3].width() <= 4.4 * scores[3].sd(), "{interval_ms} ms");
    }
}

#[test]
fn the_lag_of_shots_behind_starts_is_learned() {
    let habit = Habit { random_timing: true, ..Habit::default() };
    let mut shooter = Shooter::new(habit, Radio::default(), 5);
    let mut dating = Dating::new(Delay::default());
    for n in 0..60 {
        dating.begin();
        for h in shooter.fire(RawTime::from_nanos(n * 40_000_000_000)).heard {
            match decode(&h.bytes).frame {
                Frame::Start { .. } => dating.start(h.at),
                Frame::Shot { body, .. } => dating.shot(h.at, body.time),
                _ => dating.other(h.at),
            }
        }
        assert_eq!(dating.end(), None, "string {n}");
    }
    let (mean, sd) = dating.lag().mean_sd();
    assert!((mean - 40.0).abs() < 6.0 && sd < 6.0, "{mean} {sd}");
}

#[test]
fn with_d0_unknown_the_bound_says_so() {
    let mut shooter = Shooter::new(Habit::default(), Radio::default(), 6);
    let mut dating = Dating::new(Delay::default());
    let fired = shooter.fire(RawTime::from_nanos(0));
    dating.begin();
    for h in &fired.heard {
        if let Frame::Shot { body, .. } = decode(&h.bytes).frame {
            dating.shot(h.at, body.time);
        }
    }
    let e = dating.estimate().unwrap();
    assert!(
        !e.calibrated && e.bound >= Nanos::from_millis(60) && e.inside < Nanos::from_millis(40)
    );
    assert!((e.epoch - fired.beep).abs() <= e.bound);
}

#[test]
fn a_shot_that_arrives_a_second_late_spoils_nothing() {
    let mut dating = Dating::new(Delay::calibrated(Nanos::from_millis(40), Nanos::ZERO));
    let mut shooter = Shooter::new(Habit { num_shots: 8, ..Habit::default() }, Radio::default(), 8);
    for late in 1..=8 {
        let fired = shooter.fire(RawTime::from_nanos(late * 60_000_000_000));
        dating.begin();
        let mut odd = None;
        for h in &fired.heard {
            if let Frame::Shot { body, .. } = decode(&h.bytes).frame {
                let held_up = i64::from(body.shot) == late;
                let at = if held_up { h.at + Nanos::from_secs(1) } else { h.at };
                dating.shot(at, body.time);
                odd = odd.or(held_up.then_some((at, body.time)));
            }
        }
        let e = dating.estimate().unwrap();
        assert!((e.epoch - fired.beep).abs() <= e.bound + Nanos::from_millis(5), "shot {late}");
        let (at, time) = odd.unwrap();
        assert!(dating.is_outside(at, time), "shot {late}");
    }
}
