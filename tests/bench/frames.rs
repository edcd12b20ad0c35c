//! What a frame costs from its bytes to the string's new date, µs of processor time, by interval and
//! length of the string: `cargo run --release --example frames` (`make bench-timer`).
//!
//! Fails above 50 µs in the mean of strings of six shots or more, on a link that is kept and on new ones.
//! A new link's first frames cost more: its interval is in question, and a string of one shot settles it late.
use leadville_timesync::sim::shooter::{Habit, Radio, Shooter};
use leadville_timesync::timer::bay::Bay;
use leadville_timesync::timer::epoch::Delay;
use leadville_timesync::units::RawTime;
use std::process::ExitCode;
use std::time::Duration;

/// Per frame in the mean, µs.
const LIMIT: f64 = 50.0;
const STRINGS: i64 = 300;

/// Processor time of this thread: what else runs on the machine is not measured.
fn spent() -> Duration {
    nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("the kernel counts it").into()
}

/// How long each frame took, µs, in order. `fresh`: every string on a link of its own, its interval
/// not known before.
fn frames(interval_ms: f64, shots: u32, fresh: bool) -> Vec<f64> {
    let habit = Habit { num_shots: shots, random_timing: true, ..Habit::default() };
    let radio = Radio { interval_ms, ..Radio::default() };
    let mut shooter = Shooter::new(habit, radio, 9);
    let mut bay = Bay::new(Delay::default());
    let mut took = Vec::new();
    for n in 0..STRINGS {
        if fresh {
            shooter.reconnected();
            bay = Bay::new(Delay::default());
        }
        let fired = shooter.fire(RawTime::from_nanos(n * 400_000_000_000));
        for heard in &fired.heard {
            let start = spent();
            let said = bay.hear(heard.at, &heard.bytes);
            let estimate = bay.estimate(fired.number);
            took.push(spent().saturating_sub(start).as_secs_f64() * 1e6);
            std::hint::black_box((said, estimate));
        }
    }
    took.sort_by(f64::total_cmp);
    took
}

fn main() -> ExitCode {
    let mut slow = false;
    println!("interval ms  shots  link  frames    mean  median    99 %     max   (µs per frame)");
    for interval_ms in [48.75, 15.0, 7.5] {
        for shots in [1, 6, 10, 150] {
            for fresh in [false, true] {
                let took = frames(interval_ms, shots, fresh);
                let mean = took.iter().sum::<f64>() / took.len() as f64;
                slow |= shots >= 6 && mean > LIMIT;
                println!(
                    "{interval_ms:11} {shots:6}  {}  {:6} {mean:7.1} {:7.1} {:7.1} {:7.1}",
                    if fresh { "new " } else { "kept" },
                    took.len(),
                    took[took.len() / 2],
                    took[took.len() * 99 / 100],
                    took[took.len() - 1],
                );
            }
        }
    }
    if slow {
        eprintln!("above {LIMIT} µs in the mean");
    }
    ExitCode::from(u8::from(slow))
}
