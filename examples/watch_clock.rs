//! The three callbacks of the former system, in Rust: `cargo run --example watch_clock`.
use leadville_timesync::client::{Error, TimeSynchronizer};
use leadville_timesync::units::Nanos;

fn main() -> Result<(), Error> {
    let time = watch(TimeSynchronizer::builder()).build();
    let now = time.corrected_time()?;
    println!("it is {}, within {:.2} ms", now.utc.iso(3), now.bound.as_millis_f64());
    std::thread::sleep(std::time::Duration::from_secs(60));
    Ok(())
}

/// What is to be told.
#[must_use]
pub fn watch(time: leadville_timesync::client::Builder) -> leadville_timesync::client::Builder {
    time.drift_threshold(Nanos::from_millis(20))
        .on_sync(|status| println!("{}", status.verdict))
        .on_drift_alert(|offset| {
            println!("ALERT: the clock is {:.1} ms behind", offset.as_millis_f64());
        })
        .on_correction(|by| println!("the clock is moved by {:.3} ms", by.as_millis_f64()))
}
