//! The drift monitor: history, grades and the alert.
use super::tell::{ms, stamp};
use crate::drift::Notice;
use crate::engine::Phase;
use crate::os::journal::{self, message_id};
use crate::os::led::{Led, Light};
use crate::os::notify;
use crate::record::{Point, Recorder};
use crate::state::{ClockSection, Fresh, Quality, Shared};
use crate::units::{Nanos, RawTime};
use serde_json::json;
use tokio::sync::watch;
use tracing::{info, warn};

/// No alarm so soon after the first fix: the first answers still narrow the bound.
const GRACE: Nanos = Nanos::from_secs(30);

/// Keeps the record of days: written on the way, without wake-ups of its own.
struct Record {
    recorder: Recorder,
    trouble: bool,
}

impl Record {
    fn collect(&mut self, fresh: &mut Fresh) {
        fresh.measured.iter().for_each(|measurement| self.recorder.measured(measurement));
        fresh.marks.drain(..).for_each(|mark| self.recorder.happened(mark));
    }

    fn write(&mut self, now: RawTime, point: Point) {
        let written = self.recorder.write(now, point);
        if let Err(e) = &written
            && !self.trouble
        {
            warn!(
                MESSAGE_ID = message_id(journal::Event::StateFile),
                EVENT = "state_file",
                "the history cannot be written: {e}"
            );
        }
        self.trouble = written.is_err();
    }
}

/// The clock as it is, for the record.
fn point(clock: &ClockSection) -> Point {
    let view = &clock.view;
    let now = clock.reading.utc + view.offset.unwrap_or(Nanos::ZERO);
    Point {
        time: now.iso(0),
        offset_us: view.offset.map(Nanos::as_micros_f64),
        error_bound_us: view.estimate.map(|e| e.bound.as_micros_f64()),
        frequency_ppm: view.estimate.map(|e| e.frequency.get()),
        temperature_c: clock.temperature_c,
        state: super::control::phase(view.phase),
        ..Point::default()
    }
}

/// The board's light, if the configuration names one.
struct Lamp {
    led: Option<Led>,
    trouble: bool,
}

impl Lamp {
    fn named(name: &str) -> Self {
        let mut lamp = Self { led: None, trouble: false };
        if !name.is_empty() {
            let led = Led::open(name);
            lamp.told(led.as_ref().err());
            lamp.led = led.ok();
        }
        lamp
    }

    fn told(&mut self, error: Option<&std::io::Error>) {
        if let Some(error) = error
            && !self.trouble
        {
            warn!("the light does not show the state: {error}");
        }
        self.trouble = error.is_some();
    }

    fn show(&mut self, phase: Phase, verified: bool) {
        let Some(led) = &mut self.led else { return };
        let light = match phase {
            Phase::Synchronised if verified => Light::Solid,
            Phase::Holdover => Light::SlowBlink,
            _ => Light::FastBlink,
        };
        let shown = led.show(light);
        self.told(shown.as_ref().err());
    }
}

/// Runs until told to stop.
pub async fn run(
    shared: Shared,
    recorder: Option<Recorder>,
    led: String,
    mut stop: watch::Receiver<bool>,
) {
    let mut lamp = Lamp::named(&led);
    let mut last_line = String::new();
    let mut record = recorder.map(|recorder| Record { recorder, trouble: false });
    loop {
        let stopping = tokio::select! {
            biased;
            _ = stop.changed() => true,
            () = shared.changed() => false,
        };
        let mut to_write = None;
        let judged = shared.monitor(|clock, drift, mut fresh| {
            if let Some(record) = &mut record {
                record.collect(&mut fresh);
                to_write = clock
                    .filter(|c| stopping || record.recorder.due(c.reading.raw))
                    .map(|c| (c.reading.raw, point(c)));
            }
            for measurement in fresh.measured {
                drift.history.push(measurement);
            }
            let clock = clock?;
            let view = &clock.view;
            let bound = view.estimate.map(|e| e.bound);
            // The clock as it is, not the measurement that is being corrected at this moment.
            let worst = view.offset.zip(bound).map(|(o, b)| o.abs() + b);
            let steady = worst.filter(|_| view.fixed_for.is_some_and(|t| t > GRACE));
            let notice = drift.alarm.judge(clock.reading.utc, steady);
            Some((notice, clock.reading, worst, view.offset, drift.alarm.limits))
        });
        if let (Some(record), Some((now, point))) = (&mut record, to_write) {
            record.write(now, point);
        }
        if stopping {
            return;
        }
        let Some((notice, reading, worst, offset, limits)) = judged else { continue };
        let offset_us = offset.map(Nanos::as_micros_f64);
        let mut event = match notice {
            None => json!(null),
            Some(Notice::Raised(worst)) => {
                warn!(
                    MESSAGE_ID = message_id(journal::Event::Alert),
                    EVENT = "alert",
                    OFFSET_US = offset_us,
                    QUALITY = Quality::of(worst).name(),
                    "the clock may be {} wrong; the limit is {}",
                    ms(worst),
                    ms(limits.threshold)
                );
                json!({"event": "alert", "level": "drift", "worst_us": worst.as_micros_f64(),
                       "drift_ms": offset_us.map(|o| o * 1e-3)})
            }
            Some(Notice::Severe(worst)) => {
                tracing::error!(
                    MESSAGE_ID = message_id(journal::Event::Alert),
                    EVENT = "alert",
                    OFFSET_US = offset_us,
                    QUALITY = Quality::of(worst).name(),
                    "the clock may be {} wrong, far beyond the limit of {}: do not trust its times",
                    ms(worst),
                    ms(limits.threshold)
                );
                json!({"event": "alert", "level": "severe", "worst_us": worst.as_micros_f64(),
                       "drift_ms": offset_us.map(|o| o * 1e-3)})
            }
            Some(Notice::Cleared(was)) => {
                info!(
                    MESSAGE_ID = message_id(journal::Event::AlertCleared),
                    EVENT = "alert_cleared",
                    OFFSET_US = offset_us,
                    "the clock is within {} again; it was up to {} wrong",
                    ms(limits.clear_below),
                    ms(was)
                );
                json!({"event": "alert_cleared", "worst_us": was.as_micros_f64()})
            }
        };
        if !event.is_null() {
            stamp(&mut event, reading);
            shared.tell(event);
        }
        // systemctl status shows one line; told only when its words change.
        let grade = worst.map_or(Quality::Unknown, Quality::of);
        let seen = shared.read(|s| s.clock.as_ref().map(|c| (c.view.phase, c.view.verified)));
        let (phase, verified) = seen.unwrap_or_default();
        lamp.show(phase, verified);
        let line = format!("{}, {}", phase.name(), grade.name());
        if line != last_line {
            notify::status(&line);
            last_line = line;
        }
    }
}
