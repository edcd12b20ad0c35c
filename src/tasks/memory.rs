//! What survives a restart: the drift file, the clock file, the steps that count, addresses.
use crate::engine::discipline::Spent;
use crate::engine::estimator::DriftMemory;
use crate::engine::{Engine, LIFE};
use crate::os::journal::{self, message_id};
use crate::os::resolve::LastGood;
use crate::os::store::{Durability, StateDir};
use crate::units::{Nanos, RawTime, UtcTime};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tracing::warn;

const DRIFT: &str = "drift";
const ADDRESSES: &str = "addresses";
const SETTLED: &str = "timesync.settled";
/// The crystal is looked at this long after the start for the first time.
const FIRST_DRIFT: Nanos = Nanos::from_secs(60);

/// The drift file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The crystal.
    pub crystal: Option<DriftMemory>,
    /// Latest verified time, s since 1970.
    pub mark_s: Option<i64>,
    /// Steps that count.
    #[serde(default)]
    pub steps: Vec<Spent>,
    /// When it was written, s since 1970.
    #[serde(default)]
    pub saved_s: i64,
}

impl Kept {
    /// Drops what cannot be: a damaged file must not be worse than none.
    fn sane(mut self, built: UtcTime) -> Self {
        let century = built.as_nanos() / 1_000_000_000 + 100 * 31_556_952;
        // Beyond the dates that this program believes a mark would refuse every server.
        let latest = (built + LIFE).as_nanos() / 1_000_000_000;
        let sound = |m: &DriftMemory| {
            m.frequency_ppm.is_finite()
                && m.frequency_ppm.abs() <= 5_000.0
                && m.sd_ppm.is_finite()
                && m.sd_ppm > 0.0
        };
        self.crystal = self.crystal.filter(sound);
        self.mark_s = self.mark_s.filter(|s| (0..latest).contains(s));
        self.steps.retain(|s| s.span_ns >= 0 && (0..century).contains(&s.at_s));
        self.steps.truncate(64);
        self
    }
}

/// The state directory, and what went wrong with it.
#[derive(Debug)]
pub struct Memory {
    dir: Option<StateDir>,
    /// Why nothing is kept, for `status`.
    pub trouble: Option<String>,
    runtime: Option<PathBuf>,
    addresses: LastGood,
    clock_due: Option<RawTime>,
    drift_due: Option<RawTime>,
    drift_wait: Nanos,
}

impl Memory {
    /// Opens the directory; without one the daemon runs and says so.
    #[must_use]
    pub fn open(path: Option<&Path>, runtime: Option<PathBuf>) -> Self {
        let (dir, trouble) = match path.map(StateDir::open) {
            None => (None, None),
            Some(Ok(dir)) => (Some(dir), None),
            Some(Err(e)) => {
                let trouble = format!("nothing is remembered over a restart: {e}");
                warn!(
                    MESSAGE_ID = message_id(journal::Event::StateFile),
                    EVENT = "state_file",
                    "{trouble}"
                );
                (None, Some(trouble))
            }
        };
        let mut memory = Self {
            dir,
            trouble,
            runtime,
            addresses: LastGood::default(),
            clock_due: None,
            drift_due: None,
            drift_wait: FIRST_DRIFT,
        };
        if let Some(text) = memory.load(ADDRESSES) {
            memory.addresses = LastGood::from_text(&text);
        }
        memory
    }

    fn load(&mut self, name: &str) -> Option<String> {
        match self.dir.as_ref()?.load(name) {
            Ok(text) => text,
            Err(e) => {
                self.complain(&format!("a state file is not used: {e}"));
                None
            }
        }
    }

    fn complain(&mut self, sentence: &str) {
        if self.trouble.as_deref() != Some(sentence) {
            warn!(
                MESSAGE_ID = message_id(journal::Event::StateFile),
                EVENT = "state_file",
                "{sentence}"
            );
            self.trouble = Some(sentence.to_owned());
        }
    }

    /// The drift file, as far as it makes sense.
    pub fn kept(&mut self, built: UtcTime) -> Kept {
        let Some(text) = self.load(DRIFT) else { return Kept::default() };
        match serde_json::from_str::<Kept>(&text) {
            Ok(kept) => kept.sane(built),
            Err(e) => {
                self.complain(&format!("the drift file is damaged and starts anew: {e}"));
                Kept::default()
            }
        }
    }

    /// The last good addresses.
    #[must_use]
    pub fn addresses(&self) -> &LastGood {
        &self.addresses
    }

    /// The time of the clock file, if it can be one of this program's life.
    #[must_use]
    pub fn clock(&self, built: UtcTime) -> Option<UtcTime> {
        self.dir.as_ref().and_then(StateDir::kept_clock).filter(|kept| *kept < built + LIFE)
    }

    /// Whether this boot was synchronised before.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.runtime.as_ref().is_some_and(|dir| dir.join(SETTLED).is_file())
    }

    /// Notes that this boot is synchronised; told to systemd's waiters too.
    pub fn settle(&self) {
        let Some(dir) = &self.runtime else { return };
        let _ = std::fs::write(dir.join(SETTLED), "");
        let _ = std::fs::write("/run/systemd/timesync/synchronized", "");
    }

    /// Keeps addresses that worked.
    pub fn remember_addresses<'a>(
        &mut self,
        good: impl Iterator<Item = (&'a str, Vec<std::net::IpAddr>)>,
        durability: Durability,
    ) {
        let mut changed = false;
        for (name, addresses) in good {
            changed |= self.addresses.remember(name, &addresses);
        }
        if changed {
            let text = self.addresses.text();
            self.save(ADDRESSES, &text, durability);
        }
    }

    fn save(&mut self, name: &str, text: &str, durability: Durability) {
        let Some(dir) = &self.dir else { return };
        match dir.save(name, text, durability) {
            Ok(()) => self.trouble = None,
            Err(e) => self.complain(&format!("a state file cannot be written: {e}")),
        }
    }

    /// Whether [`Self::tick`] has something to do.
    #[must_use]
    pub fn is_due(&self, now: RawTime) -> bool {
        [self.clock_due, self.drift_due].iter().any(|due| due.is_none_or(|t| t <= now))
    }

    /// Writes what is due. `still` while the clock is held: then nothing waits for the disk.
    pub fn tick(
        &mut self,
        now: RawTime,
        utc: UtcTime,
        engine: &Engine,
        every: (Nanos, Nanos),
        still: bool,
    ) {
        if self.clock_due.is_none_or(|t| t <= now) {
            self.clock_due = Some(now + every.0);
            self.keep_clock(utc);
        }
        if *self.drift_due.get_or_insert(now + self.drift_wait) <= now {
            // Most is learned in the beginning: kept after 1, 2, 4 … minutes, then at the interval.
            if self.keep_drift(utc, engine, still) {
                self.drift_wait = (self.drift_wait + self.drift_wait).min(every.1);
            }
            self.drift_due = Some(now + self.drift_wait);
        }
    }

    /// The clock was set: the time of day is kept at once, for before it was another one; so is
    /// the step, which counts whatever becomes of us.
    pub fn stepped(&mut self, now: RawTime) {
        (self.clock_due, self.drift_due) = (Some(now), Some(now));
    }

    /// When somebody must wake up to keep the time of day, if nobody has done so for a quarter of
    /// its interval beyond the turn; what was learned is written on the way.
    #[must_use]
    pub fn due(&self, every: Nanos) -> Option<RawTime> {
        self.dir.as_ref().and(self.clock_due).map(|due| due + every.half().half())
    }

    /// Keeps the time of day, never backwards by itself.
    pub fn keep_clock(&mut self, utc: UtcTime) {
        let Some(dir) = &self.dir else { return };
        if let Err(e) = dir.touch_clock(utc) {
            self.complain(&format!("the clock file cannot be written: {e}"));
        }
    }

    /// Keeps what was learned; false if that is nothing.
    pub fn keep_drift(&mut self, utc: UtcTime, engine: &Engine, still: bool) -> bool {
        let kept = Kept {
            crystal: engine.memory(),
            mark_s: engine.mark().map(|m| m.as_nanos().div_euclid(1_000_000_000)),
            steps: engine.spent().to_vec(),
            saved_s: utc.as_nanos().div_euclid(1_000_000_000),
        };
        // What was learned before is not overwritten by having learned nothing yet.
        if kept.crystal.is_none() && kept.steps.is_empty() {
            return false;
        }
        if let Ok(text) = serde_json::to_string(&kept) {
            let durability = if still { Durability::Whenever } else { Durability::Now };
            self.save(DRIFT, &text, durability);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Settings;
    use crate::engine::discipline::Limits;
    use crate::units::Reading;

    #[test]
    fn what_is_learned_after_the_first_minute_does_not_wait_for_an_hour_to_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(Some(dir.path()), None);
        let every = (Nanos::from_secs(300), Nanos::from_secs(3_600));
        let utc = UtcTime::from_nanos(1_800_000_000_000_000_000);
        let raw = |s: i64| RawTime::from_nanos(s * 1_000_000_000);
        let engine = |learned| {
            let settings = Settings {
                sync_interval: Nanos::from_secs(300),
                limits: Limits::default(),
                built: utc,
                mark: None,
                settled: false,
                restored: false,
                steer: false,
                memory: learned,
                spent: Vec::new(),
                seed: 1,
            };
            Engine::new(settings, Vec::new(), Reading { raw: raw(0), utc })
        };
        let ignorant = engine(None);
        memory.tick(raw(0), utc, &ignorant, every, false);
        memory.tick(raw(61), utc, &ignorant, every, false);
        assert_eq!(memory.kept(utc).crystal, None);
        assert_eq!(memory.due(every.0), Some(raw(375)), "it wakes for nothing");
        let crystal = DriftMemory { frequency_ppm: 40.0, sd_ppm: 1.0, ..DriftMemory::default() };
        memory.tick(raw(130), utc, &engine(Some(crystal)), every, false);
        assert_eq!(memory.kept(utc).crystal.map(|c| c.frequency_ppm), Some(40.0));
    }

    #[test]
    fn a_clock_file_and_a_mark_beyond_this_programs_life_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(Some(dir.path()), None);
        let built = UtcTime::from_nanos(1_800_000_000_000_000_000);
        for (years, believed) in [(1, true), (19, true), (21, false), (90, false), (170, false)] {
            let date = built + Nanos::from_secs(years * 31_556_952);
            memory.keep_clock(date);
            assert_eq!(memory.clock(built).is_some(), believed, "{years} years on");
            let mark_s = Some(date.as_nanos() / 1_000_000_000);
            let text = serde_json::to_string(&Kept { mark_s, ..Kept::default() }).unwrap();
            std::fs::write(dir.path().join(DRIFT), text).unwrap();
            assert_eq!(memory.kept(built).mark_s.is_some(), believed, "{years} years on");
        }
    }

    #[test]
    fn a_step_that_counts_is_kept_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(Some(dir.path()), None);
        let every = (Nanos::from_secs(300), Nanos::from_secs(3_600));
        let utc = UtcTime::from_nanos(1_800_000_000_000_000_000);
        let raw = |s: i64| RawTime::from_nanos(s * 1_000_000_000);
        let settings = Settings {
            sync_interval: Nanos::from_secs(300),
            limits: Limits::default(),
            built: utc,
            mark: None,
            settled: true,
            restored: false,
            steer: true,
            memory: None,
            spent: vec![Spent { at_s: 1_799_999_990, span_ns: 5_000_000_000 }],
            seed: 1,
        };
        let engine = Engine::new(settings, Vec::new(), Reading { raw: raw(0), utc });
        memory.tick(raw(0), utc, &engine, every, false);
        memory.stepped(raw(10));
        memory.tick(raw(10), utc, &engine, every, false);
        assert_eq!(memory.kept(utc).steps.len(), 1, "a kill would forget it");
    }
}
