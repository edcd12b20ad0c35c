//! Offset and frequency of the crystal from exchanges, with an honest bound. (Stand-in; replaced next.)
use super::ServerId;
use crate::units::{Nanos, Ppm, RawTime};

/// One exchange on the raw timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// T2 − T1 (UTC − raw).
    pub outward: Nanos,
    /// T3 − T4 (UTC − raw).
    pub homeward: Nanos,
    /// T1.
    pub sent: RawTime,
    /// T4.
    pub received: RawTime,
    /// Half the root delay plus the root dispersion.
    pub root_distance: Nanos,
    /// Resolution of the server's clock.
    pub precision: Nanos,
}
/// What is known of the crystal at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The instant.
    pub at: RawTime,
    /// True UTC − raw.
    pub truth: Nanos,
    /// d(true − raw)/dt.
    pub frequency: Ppm,
    /// 95 % bound of `truth`.
    pub bound: Nanos,
    /// 95 % bound of `frequency`.
    pub frequency_bound: Ppm,
}
/// What the drift file keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DriftMemory {
    /// ppm.
    pub frequency_ppm: f64,
    /// Standard deviation, ppm.
    pub sd_ppm: f64,
}
/// Stand-in.
#[derive(Debug, Default)]
pub struct Estimator {
    last: Vec<(ServerId, Sample)>,
    chosen: Vec<ServerId>,
}
impl Estimator {
    /// Stand-in.
    #[must_use]
    pub fn new(_: Option<DriftMemory>) -> Self {
        Self::default()
    }
    /// Stand-in.
    pub fn add(&mut self, server: ServerId, sample: &Sample) {
        self.forget(server);
        self.last.push((server, *sample));
    }
    /// Stand-in.
    pub fn select(&mut self, t: &[ServerId]) {
        self.chosen = t.to_vec();
    }
    /// Stand-in.
    pub fn forget(&mut self, server: ServerId) {
        self.last.retain(|(s, _)| *s != server);
    }
    /// Stand-in.
    #[must_use]
    pub fn estimate(&self, at: RawTime) -> Option<Estimate> {
        let s = self.last.iter().filter(|(s, _)| self.chosen.contains(s));
        let (_, s) = s.min_by_key(|(_, s)| s.outward - s.homeward)?;
        let age = at - s.received;
        Some(Estimate {
            at,
            truth: s.homeward + (s.outward - s.homeward).half(),
            frequency: Ppm::new(0.0),
            bound: (s.outward - s.homeward).half() + Ppm::new(20.0).over(age),
            frequency_bound: Ppm::new(20.0),
        })
    }
    /// Stand-in.
    pub fn temperature(&mut self, _: RawTime, _: f64) {}
    /// Stand-in.
    #[must_use]
    pub fn wanted_poll(&self, _: RawTime, base: Nanos) -> Nanos {
        base
    }
    /// Stand-in.
    #[must_use]
    pub fn memory(&self) -> DriftMemory {
        DriftMemory::default()
    }
}
