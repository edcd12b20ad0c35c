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

/// What is kept of a string beside what the bay knows of it.
#[derive(Clone, Debug, Default)]
struct Telling {
    /// Its number, and that in the order of telling.
    number: Option<(u16, i64)>,
    /// Its frames: raw ns and hex.
    frames: Vec<(i64, String)>,
}

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
    /// Of the running or last string, and of the one before.
    telling: [Telling; 2],
    /// The frame that begins a string, until it is begun.
    opening: Option<(i64, String)>,
    /// When anything was heard last.
    pub heard: Option<(RawTime, Option<UtcTime>)>,
    /// Signal strength while it was not connected, dBm, and when.
    pub rssi: Option<(i16, RawTime)>,
    /// Its device was read again then.
    pub doubted: Option<RawTime>,
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
            telling: Default::default(),
            opening: None,
            heard: None,
            rssi: None,
            doubted: None,
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

    /// Keeps a frame with the string, or for the string that it begins.
    pub fn note(&mut self, at: RawTime, bytes: &[u8], begins: bool) {
        let frame = (at.as_nanos(), hex(bytes));
        let frames = &mut self.telling[0].frames;
        if begins {
            self.opening = Some(frame);
        } else if frames.len() < MOST_FRAMES {
            frames.push(frame);
        }
    }

    /// A string begins.
    pub fn begin(&mut self, string: u16, seq: i64) {
        let frames = self.opening.take().into_iter().collect();
        self.telling.swap(0, 1);
        self.telling[0] = Telling { number: Some((string, seq)), frames };
    }

    /// The string with that number as it is kept and told; without UTC.
    #[must_use]
    pub fn kept(&self, string: u16, boot: &str) -> Option<KeptString> {
        let dated = self.bay.dated(string)?;
        let ours = |t: &&Telling| t.number.is_some_and(|(number, _)| number == string);
        let telling = self.telling.iter().find(ours)?;
        let (_, seq) = telling.number?;
        let mut kept = KeptString::new(seq, self.id(), &self.timer.name, boot, &dated);
        kept.frames.clone_from(&telling.frames);
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
        let parts = [self.of_link(), self.alert.clone()];
        let said: Vec<String> = parts.into_iter().flatten().collect();
        (!said.is_empty()).then(|| said.join("; "))
    }

    fn of_link(&self) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::frame::from_hex;
    use crate::timer::string::Happening;

    #[test]
    fn an_alert_does_not_hide_what_to_do_about_the_link() {
        let mut w = Watched::new(Timer::default(), Nanos::from_secs(30));
        w.alert = Some("shot 3 is odd".into());
        let message = w.message(None).unwrap();
        assert!(message.starts_with("press a key"), "{message}");
        assert!(message.ends_with("; shot 3 is odd"), "{message}");
    }

    #[test]
    fn a_string_keeps_its_frames_and_its_place_when_the_next_has_begun() {
        let mut w = Watched::new(Timer::default(), Nanos::from_secs(30));
        let frames = [
            (1, "0105000000000000000000000001"),
            (2, "0103010100640064006400640001"),
            // The next begins, and only then comes the second shot.
            (9, "0105000100000000006400640002"),
            (10, "0103020200960032006400960001"),
        ];
        let mut seq = 40;
        for (s, text) in frames {
            let (at, bytes) = (RawTime::from_nanos(s * 1_000_000_000), from_hex(text).unwrap());
            let said = w.bay.hear(at, &bytes);
            let begun = said.iter().find_map(|h| match h {
                Happening::Started { string, .. } => Some(*string),
                _ => None,
            });
            w.note(at, &bytes, begun.is_some());
            if let Some(string) = begun {
                seq += 1;
                w.begin(string, seq);
            }
        }
        let first = w.kept(1, "b").unwrap();
        assert_eq!((first.seq, first.shots.len()), (41, 2));
        let kept: Vec<_> = first.frames.iter().map(|f| f.1.as_str()).collect();
        assert_eq!(kept, [frames[0].1, frames[1].1]);
        assert!(w.kept(2, "b").is_none_or(|second| second.seq == 42));
    }
}
