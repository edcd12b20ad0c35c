//! A scenario in the simulated world: how right the clock would be.
use super::positive_span;
use super::say::{Done, Failure};
use crate::units::Nanos;
use clap::Args;

/// `simulate`
#[derive(Args, Debug)]
pub struct Simulate {
    /// S1 to S9
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

pub fn simulate(args: &Simulate) -> Done {
    let _ = (args.seed, args.sync_interval, args.json);
    Err(Failure::new(format!("{}: scenarios come next", args.scenario)))
}
