//! The commands: one file per idea. All are plain and blocking; only `query` needs a runtime.
//!
//! Exit codes: 0 done (of `--check`: good or better), 1 error, 2 usage; of `--check` also 3 fair,
//! 4 poor, 5 critical, 6 unknown, 7 frozen.
mod ask;
mod check;
mod events;
mod history;
mod import;
mod orders;
pub mod paint;
mod query;
mod say;
mod simulate;
pub mod status;
pub mod svg;
pub mod timer;
mod wait;
pub mod watch;
mod web;
pub mod words;

use crate::config::{self, Config, parse_span};
use crate::os::notify;
use crate::tasks;
use crate::units::Nanos;
use clap::{Args, CommandFactory, Parser, Subcommand};
pub use say::{Done, Failure};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Keeps this computer's clock right and dates every shot in UTC, with an honest bound.
#[derive(Debug, Parser)]
#[command(name = "leadville-timesync", version, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 good or done, 1 error, 2 usage; of status --check: 3 fair, \
                        4 poor, 5 critical, 6 unknown, 7 frozen.")]
struct Cli {
    /// Talk to the daemon at this socket
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run(Run),
    /// Say whether the time is right, and why
    Status(ask::Status),
    /// List the servers and what each is good for
    Sources(ask::Json),
    /// List or draw what was measured
    History(history::History),
    /// Ask servers for the time, once, without the daemon
    #[command(visible_alias = "ask")]
    Query(query::Query),
    /// Ask all servers now
    SyncNow,
    /// Hold the clock still, as during a match
    Lock(orders::Lock),
    /// Let the clock be corrected again
    Unlock(orders::Unlock),
    /// Step the clock to the estimate now
    Step,
    /// Forget history, corrections and a freeze
    Reset,
    /// Set the time by hand, where no server can be reached
    SetTime(orders::SetTime),
    /// Wait until the time is right
    Wait(wait::Wait),
    /// Say what UTC it is, or was, at a time of another clock
    Stamp(ask::Stamp),
    /// Show what happens: syncs, alerts, steps, locks, shots
    Events(events::Events),
    /// Shot timers: scan, status, events, send, calibrate, replay
    Timer(timer::TimerArgs),
    /// The status, live
    Watch(watch::Watch),
    /// The web page: enable, disable
    Web(web::Web),
    /// Check a configuration file
    CheckConfig(check::Check),
    /// Run a scenario in the simulated world
    Simulate(simulate::Simulate),
    /// Make a configuration from the former system's JSON
    ImportConfig(import::Import),
}

/// `run`
#[derive(Args, Debug)]
struct Run {
    /// Configuration file [default: /etc/leadville/timesync.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Run on a simulated crystal against simulated servers; the clock is not touched
    #[arg(long)]
    simulate: bool,
    /// Which simulated world
    #[arg(long, value_name = "N", default_value_t = 1, requires = "simulate")]
    seed: u64,
    /// With misfortunes: servers die and lie, somebody sets the clock, the timer's link drops
    #[arg(long, requires = "simulate")]
    faults: bool,
    /// Log lines instead of a live view
    #[arg(long, requires = "simulate")]
    plain: bool,
}

/// A span of time on the command line, written as in the configuration.
fn positive_span(text: &str) -> Result<Nanos, String> {
    match parse_span(text)? {
        span if span > Nanos::ZERO => Ok(span),
        _ => Err("it must be more than nothing".into()),
    }
}

/// The commands as clap knows them: what the manual and the completions are made from.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let _ = usage.print();
            return ExitCode::from(if usage.use_stderr() { 2 } else { 0 });
        }
    };
    let socket = cli.socket.as_deref();
    let done = match cli.command {
        Command::Run(args) => return run(&args, cli.socket),
        Command::Status(args) => ask::status(socket, &args),
        Command::Sources(args) => ask::sources(socket, &args),
        Command::History(args) => history::history(socket, &args),
        Command::Query(args) => query::query(&args),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::SyncNow => orders::plain(socket, "sync-now"),
        Command::Lock(args) => orders::lock(socket, &args),
        Command::Unlock(args) => orders::unlock(socket, &args),
        Command::Step => orders::plain(socket, "step"),
        Command::Reset => orders::plain(socket, "reset"),
        Command::SetTime(args) => orders::set_time(socket, &args),
        Command::Wait(args) => wait::wait(socket, &args),
        Command::Stamp(args) => ask::stamp(socket, &args),
        Command::Events(args) => events::events(socket, &args),
        Command::Timer(args) => return timer::run(args, cli.socket),
        Command::Watch(args) => watch::watch(socket, &args),
        Command::Web(args) => web::web(&args),
        Command::CheckConfig(args) => check::check(&args),
        Command::ImportConfig(args) => import::import(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.exit(),
    }
}

/// Starts the daemon with its configuration.
fn run(args: &Run, socket: Option<PathBuf>) -> ExitCode {
    let (config, file) = match configuration(args.config.as_deref(), args.simulate) {
        Ok(found) => found,
        Err(failure) => return failure.exit(),
    };
    let (seed, faults, plain) = (args.seed, args.faults, args.plain);
    let simulate = args.simulate.then_some(tasks::Simulate { seed, faults, plain });
    tasks::run(config, tasks::Options { file, socket, simulate })
}

/// The configuration and the file it is from. The default file may be missing; a simulation looks
/// at a file only if it is named.
fn configuration(
    named: Option<&Path>,
    simulate: bool,
) -> Result<(Config, Option<PathBuf>), Failure> {
    let default = Path::new(config::DEFAULT_PATH);
    let path = match named {
        Some(path) => path,
        None if simulate || !default.exists() => return Ok((Config::default(), None)),
        None => default,
    };
    let config = Config::load(path).map_err(|error| {
        let sentence = error.to_string();
        // While systemd waits to start us again, `systemctl status` shows no line of the journal.
        notify::status(&sentence);
        Failure::new(sentence).hint("check a changed file with: leadville-timesync check-config")
    })?;
    Ok((config, Some(path.to_owned())))
}
