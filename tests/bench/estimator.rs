//! What one more sample costs the estimator alone, µs of processor time: a full window, by servers
//! and poll, and whether their answers come one by one or in rounds. `cargo run --release --example estimator`; a line of JSON each, read by `quick.py`.
use leadville_timesync::engine::estimator::{Estimator, Sample};
use leadville_timesync::units::{Nanos, RawTime};

const SAMPLES: usize = 1500;
/// The window is full, and what the start costs is over.
const STEADY: usize = 400;

/// Processor time of this thread, s: what else runs on the machine is not measured.
fn spent() -> f64 {
    let now = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("the kernel counts it");
    std::time::Duration::from(now).as_secs_f64()
}

/// Evenly spread in (0, 1).
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// How long each sample took, µs, sorted; a crystal that wanders by 1e-9 per √s, queues of 0.3 ms.
fn samples(servers: usize, poll: f64, rounds: bool) -> Vec<f64> {
    let mut dice = 1;
    let mut estimator = Estimator::new(None);
    let (mut offset, mut frequency, mut at) = (0.0, 12e-6, 0.0);
    let mut took = Vec::new();
    for n in 0..SAMPLES {
        let step = match n % servers {
            _ if !rounds => poll / servers as f64,
            0 => poll,
            _ => 1e-4,
        };
        at += step;
        frequency += 1e-9 * step.sqrt() * (uniform(&mut dice) - 0.5) * 12_f64.sqrt();
        offset += frequency * step;
        let base = 2e-3 + 1e-3 * (n % servers) as f64;
        let [out, home] = [(); 2].map(|()| base - 3e-4 * libm::log(uniform(&mut dice)));
        let sent = RawTime::from_nanos(0) + Nanos::from_secs_f64(at);
        let sample = Sample {
            outward: Nanos::from_secs_f64(offset + out),
            homeward: Nanos::from_secs_f64(offset - home),
            sent,
            received: sent + Nanos::from_secs_f64(out + home),
            root_distance: Nanos::from_millis(1),
            precision: Nanos::new(60),
        };
        let start = spent();
        estimator.add(n % servers, &sample);
        let estimate = estimator.estimate(sample.received);
        took.push((spent() - start) * 1e6);
        assert!(estimate.is_some());
    }
    took.drain(..STEADY);
    took.sort_by(f64::total_cmp);
    took
}

fn main() {
    let cases =
        [(1, 64.0, false), (4, 64.0, false), (4, 300.0, false), (4, 300.0, true), (8, 64.0, false)];
    for (servers, poll, rounds) in cases {
        let took = samples(servers, poll, rounds);
        let mean = took.iter().sum::<f64>() / took.len() as f64;
        let at = |share: f64| took[(share * (took.len() - 1) as f64) as usize];
        let (median, late) = (at(0.5), at(0.99));
        println!(
            r#"{{"servers": {servers}, "poll_s": {poll}, "rounds": {rounds}, "mean_us": {mean:.1}, "median_us": {median:.1}, "p99_us": {late:.1}}}"#
        );
    }
}
