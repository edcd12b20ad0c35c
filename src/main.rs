//! The daemon and its commands.
use std::process::ExitCode;

fn main() -> ExitCode {
    leadville_timesync::cli::main()
}
