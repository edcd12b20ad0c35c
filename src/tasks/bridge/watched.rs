//! One timer that is listened to: its link, its strings, and how it looks from outside.
use super::keep::{Kept, KeptString, Known};
use super::link::{Link, Stage};
use crate::config::Timer;
use crate::timer::bay::Bay;
use crate::timer::epoch::Delay;
use crate::timer::frame::hex;
use crate::timer::lag::Lag;
use crate::timer::string::PUSH_OFF;
use crate::units::{Nanos, RawTime, UtcTime};
use serde_json::{Value, json};

/// Frames kept of one string: 150 shots, a list, and as many again.
const MOST_FRAMES: usize = 400;

/// One timer.
#[derive(Clone, Debug)]
pub struct Watched {
    /// As configured.
    pub timer: Timer,
    /// The way to it.
    pub link: Link,
    /// What it says.
    pub bay: Bay,
    /// Its address, once known.
    pub address: String,
    /// Frames of the string in progress: raw ns and hex.
    pub frames: Vec<(i64, String)>,
    /// The running or last string and its number in the order of telling.
    pub telling: Option<(u16, i64)>,
    /// When anything was heard last.
    pub heard: Option<(RawTime, Option<UtcTime>)>,
    /// Signal strength while it was not connected, dBm, and when.
    pub rssi: Option<(i16, RawTime)>,
    /// `REQ STRING HEX` is to be written then.
    pub list_due: Option<RawTime>,
    /// It counts shots and pushes none.
    pub push_off: bool,
    /// Why the last string's times may be wrong.
    pub alert: Option<String>,
    /// What BlueZ said last about it.
    pub trouble: Option<String>,
    /// Bound of the last string's shots.
    pub bound: Option<Nanos>,
}

impl Watched {
    /// A timer nobody has heard of yet.
    #[must_use]
    pub fn new(timer: Timer, longest_wait: Nanos) -> Self {
        let address = timer.address.clone();
        let bay = Bay::new(delay(&timer, None));
        Self {
            timer,
            link: Link::new(longest_wait),
            bay,
            address,
            frames: Vec::new(),
            telling: None,
            heard: None,
            rssi: None,
            list_due: None,
            push_off: false,
            alert: None,
            trouble: None,
            bound: None,
        }
    }

    /// The timer's device was found: what is known of its address counts.
    pub fn found(&mut self, address: &str, kept: &Kept) {
        if self.address != address {
            address.clone_into(&mut self.address);
        }
        self.learned(kept);
    }

    /// Takes what was learned and taught before.
    pub fn learned(&mut self, kept: &Kept) {
        let known = kept.timers.get(&self.address).copied();
        self.bay.dating_mut().set_delay(delay(&self.timer, known.as_ref()));
        if let Some((mean, sd, strings)) = known.and_then(|k| k.lag_ms)
            && self.bay.dating().lag().strings() == 0
        {
            self.bay.dating_mut().set_lag(Lag::known(mean, sd, strings));
        }
    }

    /// The name by which events know it.
    #[must_use]
    pub fn id(&self) -> &str {
        if self.address.is_empty() { &self.timer.name } else { &self.address }
    }

    /// Keeps a frame with the string.
    pub fn note(&mut self, at: RawTime, bytes: &[u8]) {
        if self.frames.len() < MOST_FRAMES {
            self.frames.push((at.as_nanos(), hex(bytes)));
        }
    }

    /// The string with that number as it is kept and told; without UTC.
    #[must_use]
    pub fn kept(&self, string: u16, boot: &str, next_seq: i64) -> Option<KeptString> {
        let dated = self.bay.dated(string)?;
        let seq = self.telling.filter(|(n, _)| *n == string).map_or(next_seq, |(_, seq)| seq);
        let mut kept = KeptString::new(seq, self.id(), &self.timer.name, boot, &dated);
        kept.frames.clone_from(&self.frames);
        Some(kept)
    }

    /// The state of the link in words.
    #[must_use]
    fn state(&self) -> &'static str {
        match self.link.stage {
            Stage::Away if self.link.device.is_some() => "out of reach",
            Stage::Away => "not seen",
            Stage::Connecting => "connecting",
            Stage::Resolving(_) | Stage::Subscribing => "preparing",
            Stage::Listening(_) => "listening",
        }
    }

    /// What a person should know or do.
    fn message(&self, general: Option<&str>) -> Option<String> {
        if let Some(general) = general {
            return Some(general.to_owned());
        }
        if self.push_off {
            return Some(PUSH_OFF.into());
        }
        if self.alert.is_some() {
            return self.alert.clone();
        }
        match self.link.stage {
            Stage::Away => Some(self.trouble.clone().unwrap_or_else(|| {
                "press a key on it: it switches itself off after 15 minutes".into()
            })),
            Stage::Listening(_) if self.bay.strings().tally().frames == 0 => {
                Some("nothing heard yet; if that stays so, turn on BLE push in its menu".into())
            }
            _ => None,
        }
    }

    /// As `status` shows it.
    #[must_use]
    pub fn status(&self, now: RawTime, general: Option<&str>) -> Value {
        let tally = self.bay.strings().tally();
        let dating = self.bay.dating();
        let (lag, lag_sd) = dating.lag().mean_sd();
        let lag = (dating.lag().strings() > 0).then_some((lag, lag_sd));
        let since = match self.link.stage {
            Stage::Listening(since) => Some((now - since).as_secs_f64()),
            _ => None,
        };
        json!({
            "timer_id": self.id(), "name": self.timer.name, "address": self.address,
            "connected": self.link.is_listening(), "state": self.state(),
            "message": self.message(general), "connected_for_s": since,
            "links": self.link.links, "link_ours": self.link.ours,
            "last_heard": self.heard.and_then(|h| h.1).map(|utc| utc.iso(0)),
            "last_heard_s": self.heard.map(|h| (now - h.0).as_secs_f64()),
            "string_number": self.bay.strings().current().map(|r| r.number),
            "bound_ms": self.bound.map(Nanos::as_millis_f64),
            "calibrated": dating.delay().calibrated,
            "d0_ms": dating.delay().value.as_millis_f64(),
            "interval_ms": dating.link().interval_ms().map(|(ms, _)| ms),
            "lag_ms": lag.map(|l| l.0), "lag_sd_ms": lag.map(|l| l.1),
            "lag_strings": dating.lag().strings(),
            "frames": tally.frames, "unknown": tally.unknown, "warnings": tally.warnings,
            "duplicates": tally.duplicates, "unknown_hex": tally.unknown_hex,
            "rssi_dbm": self.rssi.map(|r| r.0),
            "rssi_age_s": self.rssi.map(|r| (now - r.1).as_secs_f64()),
        })
    }
}

/// The delay of a timer: taught, else configured, else its range.
fn delay(timer: &Timer, known: Option<&Known>) -> Delay {
    let ms = |ms: f64| Nanos::from_secs_f64(ms * 1e-3);
    match (known.and_then(|k| k.d0_ms), timer.d0) {
        (Some((d0, bound)), _) => Delay::calibrated(ms(d0), ms(bound)),
        (None, Some(d0)) => Delay::calibrated(d0, timer.d0_bound),
        (None, None) => Delay {
            value: Nanos::ZERO.max(timer.d0_min).min(timer.d0_max),
            least: timer.d0_min,
            most: timer.d0_max,
            calibrated: false,
        },
    }
}
