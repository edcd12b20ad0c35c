//! The estimator alone over scenarios × seeds: `cargo run --release --example alone -- S1,S2 300 5 [first seed]`.
use leadville_timesync::sim;
use leadville_timesync::units::Nanos;

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let names = arguments.next().unwrap_or_else(|| "S1,S2,S3,S4,S5,S8".into());
    let interval: i64 = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(300);
    let seeds: u64 = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(5);
    let first: u64 = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(1);
    println!(
        "scenario      rms     sd    p95    max  packets  coverage(min)  width/rms  <20ms  <1ms  ppm"
    );
    for name in names.split(',') {
        let Some(scenario) = sim::scenario(name) else {
            println!("{name}: unknown");
            continue;
        };
        let runs: Vec<_> = (first..first + seeds)
            .map(|seed| sim::estimate_alone(&scenario, seed, Nanos::from_secs(interval), 5.0))
            .collect();
        let lowest = runs.iter().map(|r| r.coverage).fold(1.0, f64::min);
        println!(
            "{name:9} {:7.0} {:6.0} {:6.0} {:6.0} {:8.0} {:8.3}({:.3}) {:9.2} {:7.0} {:6.0} {:.3}",
            median(runs.iter().map(|r| r.rms_us)),
            median(runs.iter().map(|r| r.sd_us)),
            median(runs.iter().map(|r| r.p95_us)),
            median(runs.iter().map(|r| r.max_us)),
            median(runs.iter().map(|r| r.packets_per_server_day)),
            median(runs.iter().map(|r| r.coverage)),
            lowest,
            median(runs.iter().map(|r| r.width_over_rms.unwrap_or(f64::NAN))),
            median(runs.iter().map(|r| r.within_20ms_s.unwrap_or(f64::NAN))),
            median(runs.iter().map(|r| r.within_1ms_s.unwrap_or(f64::NAN))),
            median(runs.iter().map(|r| r.max_freq_error_ppm)),
        );
    }
}
