//! A day without internet, lived through in the simulated world: what is said must be true.
use leadville_timesync::sim::{Outcome, scenario, simulate};
use leadville_timesync::units::Nanos;

/// Seeds that no tuning has seen, as in `make bench-accuracy`.
const FIRST_SEED: u64 = 1001;

fn days(name: &str, seeds: u64) -> Vec<Outcome> {
    let scenario = scenario(name).unwrap();
    let one = |seed| {
        let scenario = scenario.clone();
        std::thread::spawn(move || simulate(&scenario, seed, Nanos::from_secs(300)))
    };
    let days: Vec<_> = (FIRST_SEED..FIRST_SEED + seeds).map(one).collect();
    let days: Vec<_> = days.into_iter().map(|day| day.join().unwrap()).collect();
    for d in &days {
        println!(
            "{name}, seed {}: worst {:.0} µs, inside {:.3}, a bound was stated {:.3} of the day; \
             {} of {} promises broken, the first for {:?} s",
            d.seed, d.max_us, d.coverage, d.stated, d.broken, d.promises, d.promised_s
        );
    }
    days
}

/// A 95 % bound that is left is left for hours, since the crystal stays as wrong as it is: the share
/// counts over all days.
fn inside(days: &[Outcome]) -> f64 {
    days.iter().map(|d| d.coverage).sum::<f64>() / days.len() as f64
}

fn promises(days: &[Outcome]) -> (u32, u32) {
    days.iter().fold((0, 0), |(told, broken), d| (told + d.promises, broken + d.broken))
}

#[test]
fn on_a_match_day_after_a_cold_start_the_error_stays_inside_the_bound() {
    let days = days("S9", 8);
    assert!(inside(&days) >= 0.95, "inside {:.3} of the days", inside(&days));
    // Blind before the power cut, and with servers after it; between them nothing is claimed.
    assert!(days.iter().all(|d| d.stated > 0.4), "silence is no honesty");
    let (told, broken) = promises(&days);
    assert!(f64::from(broken) <= 0.05 * f64::from(told), "{broken} of {told} promises broken");
}

#[test]
fn on_a_match_day_with_a_drift_file_20_ms_last_as_long_as_was_told() {
    let days = days("S9d", 8);
    assert!(inside(&days) >= 0.95, "inside {:.3} of the days", inside(&days));
    assert!(days.iter().all(|d| d.stated > 0.99), "a bound is stated all day");
    let (told, broken) = promises(&days);
    assert!(told > 400, "only {told} promises were told");
    assert!(f64::from(broken) <= 0.05 * f64::from(told), "{broken} of {told} promises broken");
}

#[test]
fn with_a_drift_file_and_a_box_in_the_shade_20_ms_last_for_seven_hours() {
    let days = days("shade", 8);
    for d in &days {
        assert!(d.max_us < 20_000.0, "seed {}: {} µs", d.seed, d.max_us);
        assert!(d.coverage >= 0.95, "seed {}: inside {}", d.seed, d.coverage);
    }
    let (told, broken) = promises(&days);
    assert!(told > 400 && broken == 0, "{broken} of {told} promises broken");
}
