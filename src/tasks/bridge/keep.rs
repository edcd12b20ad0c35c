//! Strings kept for who was away: in memory, and on disk between strings.
use crate::os::store::{Durability, StateDir};
use crate::timer::bay::DatedString;
use crate::timer::frame::Centis;
use crate::units::{Nanos, RawTime, UtcTime};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

const STRINGS: &str = "strings.json";
const TIMERS: &str = "timers.json";
/// A state file holds a megabyte; strings beyond this are dropped, oldest first.
const MOST_BYTES: usize = 900_000;
/// Events told in one reply.
const PAGE: usize = 400;

/// A shot as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptShot {
    /// Its number.
    pub n: u8,
    /// Hundredths since the beep.
    pub cs: u16,
    /// Arrival on the raw clock of that boot, ns.
    pub arrival: Option<i64>,
    /// It contradicts what else is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspect: bool,
}

/// A string as it is kept: enough to date it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptString {
    /// Rises with each string that begins, over restarts.
    pub seq: i64,
    /// The timer's address.
    pub timer_id: String,
    /// The bay.
    pub name: String,
    /// The timer's number for it.
    pub string: u16,
    /// Which boot the raw times are of.
    pub boot: String,
    /// The beep on the raw clock, ns.
    pub raw_ns: i64,
    /// Its 95 % bound on the raw timeline, ns.
    pub bound_ns: i64,
    /// The same with d0 taken as known, ns.
    pub inside_ns: i64,
    /// d0 was measured.
    pub calibrated: bool,
    /// The d0 that was taken off, ns.
    #[serde(default)]
    pub taken_ns: Option<i64>,
    /// Connection interval, ms.
    pub interval_ms: Option<f64>,
    /// The beep, ns since 1970; `None` while the time was not known.
    pub utc_ns: Option<i64>,
    /// 95 % bound of that, ns.
    pub utc_bound_ns: Option<i64>,
    /// In order.
    pub shots: Vec<KeptShot>,
    /// Frames as heard: raw ns and hex.
    pub frames: Vec<(i64, String)>,
}

impl KeptString {
    /// Whether its numbers can be: a damaged file must not be worse than none.
    fn is_sound(&self) -> bool {
        // Seventy years, so that sums of a few stay in range.
        let time = |ns: i64| (-(1 << 61)..1 << 61).contains(&ns);
        let times = [self.utc_ns, self.utc_bound_ns, self.taken_ns].into_iter().flatten();
        let arrivals = self.shots.iter().filter_map(|s| s.arrival);
        let all = times.chain(arrivals).chain(self.frames.iter().map(|f| f.0));
        all.chain([self.raw_ns, self.bound_ns, self.inside_ns]).all(time)
            && (0..1 << 53).contains(&self.seq)
            && self.interval_ms.is_none_or(f64::is_finite)
    }

    /// From a dated string.
    #[must_use]
    pub fn new(seq: i64, id: &str, name: &str, boot: &str, s: &DatedString) -> Self {
        Self {
            seq,
            timer_id: id.to_owned(),
            name: name.to_owned(),
            string: s.number,
            boot: boot.to_owned(),
            raw_ns: s.estimate.epoch.as_nanos(),
            bound_ns: s.estimate.bound.get(),
            inside_ns: s.estimate.inside.get(),
            calibrated: s.estimate.calibrated,
            taken_ns: Some(s.estimate.taken.get()),
            interval_ms: s.estimate.interval_ms,
            utc_ns: None,
            utc_bound_ns: None,
            shots: s
                .shots
                .iter()
                .map(|shot| KeptShot {
                    n: shot.number,
                    cs: shot.time.0,
                    arrival: shot.arrival.map(RawTime::as_nanos),
                    suspect: shot.suspect,
                })
                .collect(),
            frames: Vec::new(),
        }
    }

    /// When it was, or nothing.
    #[must_use]
    pub fn utc(&self) -> Option<UtcTime> {
        self.utc_ns.map(UtcTime::from_nanos)
    }

    /// The frame that arrived then, in hex.
    fn frame(&self, arrival: Option<i64>) -> Option<&str> {
        self.frames.iter().find(|(at, _)| Some(*at) == arrival).map(|(_, hex)| hex.as_str())
    }

    /// What consumers of the former bridge know as `clock_sync`: how late the first shot that
    /// was heard was stamped.
    #[must_use]
    pub fn clock_sync(&self) -> Option<Value> {
        let shot = self.shots.iter().find(|s| s.arrival.is_some() && !s.suspect)?;
        let device = self.utc_ns? + i64::from(shot.cs) * 10_000_000;
        let host = device + shot.arrival? - self.raw_ns - i64::from(shot.cs) * 10_000_000;
        let ms = |ns: i64| Nanos::new(ns).as_millis_f64();
        Some(json!({"event": "timer", "type": "clock_sync", "source": "amg", "seq": self.seq,
            "timer_id": self.timer_id, "name": self.name, "string_number": self.string,
            "delta_ms": ms(device - host), "device_time_ms": ms(device), "host_time_ms": ms(host),
            "utc": self.utc().map(|t| t.iso(6)), "calibrated": self.calibrated}))
    }

    /// Its events: the beep, each shot, the whole string.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let common = |kind: &str, since: Centis| {
            let utc = self.utc().map(|t| t + since.span());
            let within = crate::timer::epoch::Estimate::within(since);
            let own = if since.0 == 0 { Nanos::ZERO } else { within };
            json!({"event": "timer", "type": kind, "source": "amg", "seq": self.seq,
                "timer_id": self.timer_id, "name": self.name, "string_number": self.string,
                "utc": utc.map(|t| t.iso(6)), "utc_ns": utc.map(UtcTime::as_nanos),
                "t_ms": utc.map(|t| t.as_nanos().div_euclid(1_000_000)),
                "raw_ns": self.raw_ns + since.span().get(), "boot_id": self.boot,
                "bound_us": self.utc_bound_ns.map(|b| Nanos::new(b + own.get()).as_micros_f64()),
                "calibrated": self.calibrated})
        };
        let mut events = vec![common("start", Centis(0))];
        let mut before = Some(0_u16);
        for (expected, shot) in (1_u8..).zip(&self.shots) {
            let mut event = common("shot", Centis(shot.cs));
            let split = before.filter(|_| expected == shot.n).and_then(|b| shot.cs.checked_sub(b));
            event["shot_number"] = shot.n.into();
            event["time_s"] = Centis(shot.cs).seconds().into();
            event["split_ms"] = split.map(|cs| u32::from(cs) * 10).into();
            event["latency_ms"] = shot
                .arrival
                .map(|at| Nanos::new(at - self.raw_ns - i64::from(shot.cs) * 10_000_000))
                .map(Nanos::as_millis_f64)
                .into();
            event["suspect"] = shot.suspect.into();
            event["raw"] = self.frame(shot.arrival).into();
            before = Some(shot.cs);
            events.push(event);
        }
        let last = self.shots.last().map_or(Centis(0), |s| Centis(s.cs));
        let mut whole = common("string", Centis(0));
        whole["shots"] = self.shots.len().into();
        whole["last_s"] = last.seconds().into();
        whole["interval_ms"] = self.interval_ms.into();
        whole["bound_d0_known_us"] = Nanos::new(self.inside_ns).as_micros_f64().into();
        events.push(whole);
        events
    }
}

/// What is learned and taught of one timer, by address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Calibrated delay and its 95 % bound, ms.
    pub d0_ms: Option<(f64, f64)>,
    /// Lag of SHOT behind START frames, its sd (ms), and from how many strings.
    pub lag_ms: Option<(f64, f64, u32)>,
}

impl Known {
    /// Whether its numbers can be of a timer.
    fn is_sound(&self) -> bool {
        let second = |ms: f64| ms.abs() <= 1e3;
        self.d0_ms.is_none_or(|(d0, bound)| second(d0) && second(bound) && bound >= 0.0)
            && self.lag_ms.is_none_or(|(lag, sd, _)| second(lag) && second(sd) && sd >= 0.0)
    }
}

/// Everything kept.
#[derive(Clone, Debug)]
pub struct Kept {
    directory: Option<StateDir>,
    most: usize,
    /// Oldest first.
    pub strings: VecDeque<KeptString>,
    /// The number given to a string last.
    newest: i64,
    /// By address.
    pub timers: BTreeMap<String, Known>,
    /// Something is not on disk yet.
    pub dirty: bool,
    /// What could not be read or written, in words.
    pub trouble: Option<String>,
}

impl Kept {
    /// Reads what is on disk. What cannot be read is left where it is and begun anew.
    #[must_use]
    pub fn open(directory: Option<StateDir>, most: usize) -> Self {
        let mut kept = Self {
            directory,
            most,
            strings: VecDeque::new(),
            newest: 0,
            timers: BTreeMap::new(),
            dirty: false,
            trouble: None,
        };
        kept.strings = kept.read(STRINGS).unwrap_or_default();
        kept.strings.retain(KeptString::is_sound);
        kept.newest = kept.strings.iter().map(|s| s.seq).max().unwrap_or(0);
        kept.timers = kept.read(TIMERS).unwrap_or_default();
        kept.timers.retain(|_, known| known.is_sound());
        kept
    }

    fn read<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let text = match self.directory.as_ref()?.load(name) {
            Ok(text) => text?,
            Err(e) => {
                self.trouble = Some(e.to_string());
                return None;
            }
        };
        serde_json::from_str(&text).map_err(|e| self.trouble = Some(format!("{name}: {e}"))).ok()
    }

    /// The number of a string that begins; no other has it, on whatever bay.
    pub fn next_seq(&mut self) -> i64 {
        self.newest += 1;
        self.newest
    }

    /// Keeps a string, or the better version of one that is kept.
    pub fn keep(&mut self, string: KeptString) {
        match self.strings.iter_mut().rev().find(|s| s.seq == string.seq) {
            Some(known) => *known = string,
            None => self.strings.push_back(string),
        }
        while self.strings.len() > self.most.max(1) {
            self.strings.pop_front();
        }
        self.dirty = true;
    }

    /// What to write where; called between strings, written by whoever may wait for a disk.
    pub fn to_save(&mut self) -> Option<impl FnOnce() -> Result<(), String> + Send + 'static> {
        self.dirty = false;
        let directory = self.directory.clone()?;
        let mut lines: Vec<String> =
            self.strings.iter().filter_map(|s| serde_json::to_string(s).ok()).collect();
        let mut bytes: usize = lines.iter().map(|l| l.len() + 2).sum();
        let mut drop = 0;
        while bytes > MOST_BYTES && drop < lines.len() {
            bytes -= lines[drop].len() + 2;
            drop += 1;
        }
        self.strings.drain(..drop);
        lines.drain(..drop);
        let strings = format!("[{}]", lines.join(",\n"));
        let timers = serde_json::to_string(&self.timers).ok()?;
        Some(move || {
            directory.save(STRINGS, &strings, Durability::Now).map_err(|e| e.to_string())?;
            directory.save(TIMERS, &timers, Durability::Now).map_err(|e| e.to_string())
        })
    }

    /// Events since then, a page from the `next`-th on, and where the next page begins.
    #[must_use]
    pub fn since(&self, since: Option<UtcTime>, next: usize) -> (Vec<Value>, Option<usize>) {
        let recent = |s: &&KeptString| {
            // An undated string is told whatever was asked: better twice than never.
            since.is_none_or(|since| s.utc().is_none_or(|utc| utc + Nanos::from_secs(660) >= since))
        };
        let mut events = Vec::new();
        for (i, string) in self.strings.iter().filter(recent).enumerate().skip(next) {
            if events.len() >= PAGE {
                return (events, Some(i));
            }
            events.extend(string.events());
        }
        (events, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(seq: i64) -> KeptString {
        KeptString {
            seq,
            timer_id: "60:09:C3:00:00:01".into(),
            name: "Bay 2".into(),
            string: 3,
            boot: "b".into(),
            raw_ns: 1_000_000_000,
            bound_ns: 5_000_000,
            inside_ns: 4_000_000,
            calibrated: true,
            taken_ns: Some(0),
            interval_ms: Some(48.75),
            utc_ns: Some(1_795_384_316_000_000_000 + seq * 60_000_000_000),
            utc_bound_ns: Some(5_500_000),
            shots: vec![
                KeptShot { n: 1, cs: 100, arrival: Some(2_030_000_000), suspect: false },
                KeptShot { n: 2, cs: 150, arrival: None, suspect: false },
            ],
            frames: vec![(1, "0105".into())],
        }
    }

    #[test]
    fn events_carry_the_names_that_consumers_know() {
        let events = string(0).events();
        assert_eq!(events.len(), 4);
        let shot = &events[2];
        assert_eq!((&shot["type"], &shot["source"]), (&json!("shot"), &json!("amg")));
        assert_eq!(shot["t_ms"], 1_795_384_317_500_i64);
        assert_eq!((&shot["shot_number"], &shot["split_ms"]), (&json!(2), &json!(500)));
        assert_eq!(shot["utc"], "2026-11-22T21:51:57.500000Z");
        assert_eq!(events[1]["latency_ms"], 30.0);
    }

    #[test]
    fn strings_survive_on_disk_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Kept::open(StateDir::open(dir.path()).ok(), 10);
        let mut kept = open();
        for _ in 0..25 {
            let seq = kept.next_seq();
            kept.keep(string(seq));
        }
        kept.to_save().unwrap()().unwrap();
        let mut again = open();
        assert_eq!((again.strings.len(), again.next_seq()), (10, 26));
        let since = UtcTime::from_nanos(string(24).utc_ns.unwrap() + 660_000_000_000);
        assert_eq!(again.since(Some(since), 0).0.len(), 2 * 4);
    }

    #[test]
    fn strings_of_two_bays_at_once_are_both_kept() {
        let mut kept = Kept::open(None, 10);
        let (first, second) = (kept.next_seq(), kept.next_seq());
        kept.keep(string(second));
        kept.keep(string(first));
        assert_eq!(kept.strings.iter().map(|s| s.seq).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(kept.next_seq(), 3);
    }

    #[test]
    fn numbers_that_cannot_be_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let damaged = |n: i64, damage: fn(&mut KeptString)| {
            let mut string = string(n);
            damage(&mut string);
            string
        };
        let strings = [
            string(1),
            damaged(2, |s| s.seq = i64::MAX),
            damaged(3, |s| s.utc_ns = Some(i64::MAX)),
            damaged(4, |s| s.shots[0].arrival = Some(i64::MIN)),
        ];
        let text = serde_json::to_string(&strings).unwrap();
        std::fs::write(dir.path().join(STRINGS), text).unwrap();
        let timers =
            r#"{"a":{"d0_ms":[1e300,1],"lag_ms":null},"b":{"d0_ms":[38,4],"lag_ms":null}}"#;
        std::fs::write(dir.path().join(TIMERS), timers).unwrap();
        let mut kept = Kept::open(StateDir::open(dir.path()).ok(), 10);
        assert_eq!((kept.strings.len(), kept.next_seq()), (1, 2));
        assert_eq!(kept.timers.keys().collect::<Vec<_>>(), ["b"]);
        assert!(!kept.since(None, 0).0.is_empty());
    }

    #[test]
    fn a_torn_file_is_said_and_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(STRINGS), "[{\"seq\":").unwrap();
        let kept = Kept::open(StateDir::open(dir.path()).ok(), 10);
        assert!(kept.strings.is_empty() && kept.trouble.is_some());
    }
}
