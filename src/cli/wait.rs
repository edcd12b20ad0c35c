//! Waiting until the time is right, for scripts and for the boot.
use super::ask::{connect, status_of};
use super::positive_span;
use super::say::{Done, Failure, say_line};
use super::words::{span, verdict, within_us};
use crate::config::write_span;
use crate::os::clock::monotonic_now;
use crate::state::{Status, SyncPhase};
use crate::units::Nanos;
use clap::Args;
use std::path::Path;
use std::time::Duration;

/// `wait`
#[derive(Args, Debug)]
pub struct Wait {
    /// How right
    #[arg(long, value_name = "SPAN", default_value = "20ms", value_parser = positive_span)]
    max_error: Nanos,
    /// Longest wait
    #[arg(long, value_name = "SPAN", default_value = "3min", value_parser = positive_span)]
    timeout: Nanos,
}

pub fn wait(socket: Option<&Path>, args: &Wait) -> Done {
    let start = monotonic_now();
    let mut pause = Duration::from_millis(50);
    loop {
        let why_not = match connect(socket).and_then(|mut client| status_of(&mut client)) {
            Ok((status, _)) if is_right(&status, args.max_error) => {
                say_line(&verdict(&status))?;
                return Ok(0);
            }
            Ok((status, _)) => Failure::new(verdict(&status)),
            Err(failure) => failure,
        };
        let waited = Nanos::new(monotonic_now() - start);
        if waited >= args.timeout {
            return Err(why_not.after(&format!(
                "not within {} after {}",
                write_span(args.max_error),
                span(waited.as_secs_f64())
            )));
        }
        let left = Duration::from_nanos((args.timeout - waited).get().unsigned_abs());
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Servers, or the learned rate since, say that the clock is within `limit` of UTC.
fn is_right(status: &Status, limit: Nanos) -> bool {
    matches!(status.state, SyncPhase::Synchronised | SyncPhase::Holdover)
        && within_us(status).is_some_and(|us| us <= limit.get() as f64 * 1e-3)
}
