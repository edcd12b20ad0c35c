//! A scenario in the simulated world: how right the clock would be.
use super::positive_span;
use super::say::{Done, Failure, say, say_line};
use crate::sim;
use crate::units::Nanos;
use clap::Args;
use std::fmt::Write as _;

/// `simulate`
#[derive(Args, Debug)]
pub struct Simulate {
    /// S1 to S9, or another of the named ones
    scenario: String,
    /// Which world
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Time between two rounds
    #[arg(long, value_name = "SPAN", default_value = "5min", value_parser = positive_span)]
    sync_interval: Nanos,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the scenario through the whole engine and says how right the clock was.
pub fn simulate(args: &Simulate) -> Done {
    let Some(scenario) = sim::scenario(&args.scenario) else {
        let known = sim::NAMES.join(", ");
        let sentence = format!("there is no scenario \"{}\"; there are {known}", args.scenario);
        return Err(Failure::new(sentence).usage());
    };
    let o = sim::simulate(&scenario, args.seed, args.sync_interval);
    if args.json {
        say_line(&serde_json::to_string_pretty(&o).map_err(|e| Failure::new(e.to_string()))?)?;
        return Ok(0);
    }
    let mut text = format!("{}: {}\n", o.scenario, scenario.about);
    let when = |s: Option<f64>| s.map_or_else(|| "never".into(), |s| format!("after {s:.1} s"));
    let lines = [
        (
            "true error of the clock",
            format!(
                "{:.0} µs RMS, {:.0} µs sd, 95 % within {:.0} µs, worst {:.0} µs",
                o.rms_us, o.sd_us, o.p95_us, o.max_us
            ),
        ),
        (
            "stated bound",
            format!(
                "held {:.1} % of the time; median {}",
                o.coverage * 100.0,
                o.bound_median_us.map_or_else(|| "unknown".into(), |b| format!("{b:.0} µs"))
            ),
        ),
        ("first synchronised", when(o.first_sync_s)),
        ("within 20 ms", when(o.within_20ms_s)),
        ("within 1 ms", when(o.within_1ms_s)),
        ("steps", o.steps.to_string()),
        ("requests", format!("{} ({:.0} per server and day)", o.packets, o.packets_per_server_day)),
    ];
    for (what, figure) in lines {
        let _ = writeln!(text, "  {what:<24} {figure}");
    }
    say(&text)?;
    Ok(0)
}
