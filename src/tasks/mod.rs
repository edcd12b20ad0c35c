//! The three loops of the daemon. (Written next.)
use crate::config::Config;
use std::path::PathBuf;
use std::process::ExitCode;

/// How the daemon was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The file that the configuration is from, to be read again at SIGHUP; `None`: the defaults.
    pub file: Option<PathBuf>,
    /// `--socket`, which goes before the configuration's.
    pub socket: Option<PathBuf>,
    /// Run in the simulated world; the kernel clock is not touched.
    pub simulate: Option<Simulate>,
}

/// Which simulated world, and how it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simulate {
    /// The same seed gives the same world.
    pub seed: u64,
    /// Log lines instead of a live view.
    pub plain: bool,
}

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn run(_config: Config, _options: Options) -> ExitCode {
    eprintln!("leadville-timesync: the daemon is not built yet");
    ExitCode::FAILURE
}
