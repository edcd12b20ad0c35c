//! The page, the metrics and MQTT: everything it knows it asks of the daemon.
use std::process::ExitCode;

fn main() -> ExitCode {
    leadville_timesync::web::main()
}
