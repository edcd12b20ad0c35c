//! Shots in UTC, as they fall: `cargo run --example shots`, beside `make run`.
use leadville_timesync::client::{Error, Event, Happened, TimeSynchronizer};

fn main() -> Result<(), Error> {
    let time = TimeSynchronizer::builder().build();
    eprintln!("{}", time.status()?.verdict);
    time.events()?.filter_map(|event| shot(&event)).for_each(|line| println!("{line}"));
    Ok(())
}

/// A line for a shot: which timer, which shot, when, how well that is known.
#[must_use]
pub fn shot(event: &Event) -> Option<String> {
    let (json, utc) = (&event.json, event.utc?);
    if event.what != Happened::Timer || json["type"] != "shot" {
        return None;
    }
    let timer = json["name"].as_str().or(json["timer_id"].as_str())?;
    let bound = json["bound_us"].as_f64()? / 1e3;
    Some(format!("{timer} shot {} at {}, ± {bound:.1} ms", json["shot_number"], utc.iso(3)))
}
