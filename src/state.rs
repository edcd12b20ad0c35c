//! What the tasks may know of one another: one state, one lock, who is told.
//!
//! The lock never leaves this file, and no guard lives across an `.await`.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the control protocol; grows only when a field changes its meaning.
pub const PROTOCOL: u32 = 1;

/// Where the daemon stands with the time. The order of the states is that of a life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncPhase {
    /// Nothing known yet.
    #[default]
    Starting,
    /// The clock file's time is set; how long the power was off is unknown.
    Restored,
    /// Nothing to restore and no server has answered.
    Unsynchronised,
    /// Servers say what time it is.
    Synchronised,
    /// Servers have been silent; the learned frequency carries the time.
    Holdover,
    /// Steering is stopped because what was heard is absurd or contradictory.
    Frozen,
}

/// Five grades of |offset| + error bound; a boundary belongs to the worse grade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    /// Below 5 ms.
    Excellent,
    /// Below 10 ms.
    Good,
    /// Below 25 ms.
    Fair,
    /// Below 50 ms.
    Poor,
    /// 50 ms or worse.
    Critical,
    /// Not known: nothing was ever measured.
    #[default]
    Unknown,
}

/// What one server is good for at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Not heard yet.
    #[default]
    Waiting,
    /// In use.
    Selected,
    /// Sound, but not used (a duplicate, too uncertain, smeared near a leap second).
    Unused,
    /// Outvoted by the others.
    Falseticker,
    /// Does not answer.
    Unreachable,
    /// Answers, but with nothing usable.
    Rejected,
}

/// One server as others see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// As written in the configuration.
    pub name: String,
    /// Address in use, with port; `null` while the name is not resolved.
    pub address: Option<String>,
    /// What it is good for.
    pub role: Role,
    /// Why it is not used, or `null` when it is.
    pub why: Option<String>,
    /// Its last offset (true − ours), µs.
    pub offset_us: Option<f64>,
    /// Round trip of its last exchange, µs.
    pub delay_us: Option<f64>,
    /// Half the round trip plus the root distance, µs.
    pub max_error_us: Option<f64>,
    /// Its stratum, 1..15.
    pub stratum: Option<u8>,
    /// Its reference identifier as text or address.
    pub reference_id: Option<String>,
    /// The last eight exchanges, newest in the lowest bit.
    pub reach: u8,
    /// Requests sent.
    pub requests: u64,
    /// Usable replies received.
    pub replies: u64,
    /// Age of the last usable reply, s.
    pub last_reply_s: Option<f64>,
    /// When it is asked next, s from now.
    pub next_poll_s: Option<f64>,
    /// Taken at its word without a second opinion.
    pub trusted: bool,
    /// Replies not used, counted by reason.
    pub rejected: BTreeMap<String, u64>,
}

/// Somebody holds the clock still.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LockStatus {
    /// Who holds it (`match`, `string Bay 2`, …).
    pub name: String,
    /// Seconds until it ends by itself.
    pub ends_in_s: f64,
}

/// The drift alert.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AlertStatus {
    /// `drift` (above the threshold) or `severe` (above 50 ms).
    pub level: String,
    /// When it began, ISO 8601 UTC.
    pub since: String,
    /// The worst |offset| + bound of this episode, µs.
    pub worst_us: f64,
    /// In words.
    pub message: String,
}

/// Carried by the learned frequency alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldoverStatus {
    /// When the last usable reply came, ISO 8601 UTC.
    pub since: String,
    /// Seconds since then.
    pub age_s: f64,
    /// Seconds from now for which |offset| + bound stays within the threshold; `null` when already outside.
    pub within_threshold_for_s: Option<f64>,
}

/// The numbers of one moment. `null` is unknown, never zero, never NaN.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Protocol version.
    pub v: u32,
    /// Program version.
    pub version: String,
    /// One sentence for a person.
    pub verdict: String,
    /// What to do next, if anything; one sentence each.
    pub hints: Vec<String>,
    /// Where we stand.
    pub state: SyncPhase,
    /// Two agreeing operators, or a trusted source.
    pub verified: bool,
    /// First synchronisation of this boot is done.
    pub settled: bool,
    /// Grade of |offset| + bound.
    pub quality: Quality,
    /// The kernel clock is being corrected.
    pub steering: bool,
    /// Why it is not, or `null`.
    pub steering_why: Option<String>,
    /// CLOCK_REALTIME at this status, ns since 1970.
    pub utc_ns: i64,
    /// CLOCK_MONOTONIC_RAW at this status, ns.
    pub raw_ns: i64,
    /// CLOCK_MONOTONIC at this status, ns.
    pub monotonic_ns: i64,
    /// Best estimate of UTC, ns since 1970; `null` before the first synchronisation.
    pub corrected_utc_ns: Option<i64>,
    /// True − ours, µs.
    pub offset_us: Option<f64>,
    /// 95 % bound of the estimate, µs.
    pub error_bound_us: Option<f64>,
    /// Guarantee: delay/2 + root distance + drift, µs.
    pub max_error_us: Option<f64>,
    /// What the kernel is told, ppm (= −crystal error).
    pub frequency_ppm: Option<f64>,
    /// 95 % bound of the frequency, ppm.
    pub frequency_bound_ppm: Option<f64>,
    /// Temperature of the processor, °C.
    pub temperature_c: Option<f64>,
    /// Leap second announced for the end of today: +1, −1, 0.
    pub leap: i8,
    /// Last usable exchange, ISO 8601 UTC; `null` if none.
    pub last_sync_time: Option<String>,
    /// |offset| of the last measurement with its sign, ms (the original's name).
    pub clock_drift_ms: Option<f64>,
    /// Measurements made.
    pub sync_count: u64,
    /// Largest |offset| in the history, ms.
    pub max_drift_ms: Option<f64>,
    /// Mean signed offset in the history, ms.
    pub avg_drift_ms: Option<f64>,
    /// As `quality` (the original's name).
    pub sync_quality: Quality,
    /// Servers are configured and asked.
    pub ntp_enabled: bool,
    /// As `offset_us`, ms (the original's name).
    pub ntp_offset_ms: Option<f64>,
    /// As `quality`, of what NTP alone says.
    pub ntp_quality: Quality,
    /// Sum of the corrections applied, ms.
    pub correction_applied_ms: f64,
    /// Alert threshold, ms.
    pub drift_threshold_ms: f64,
    /// Resync interval, s.
    pub sync_interval_s: f64,
    /// Measurements in the history (at most 100).
    pub drift_history_count: usize,
    /// Steps made since start.
    pub steps: u64,
    /// The alert, if one is on.
    pub alert: Option<AlertStatus>,
    /// Holdover, if in it.
    pub holdover: Option<HoldoverStatus>,
    /// Why frozen, if frozen.
    pub frozen: Option<String>,
    /// Who holds the clock still.
    pub locks: Vec<LockStatus>,
    /// All servers.
    pub servers: Vec<ServerStatus>,
    /// All timers.
    pub timers: Vec<serde_json::Value>,
    /// Requests sent in all.
    pub packets: u64,
    /// Uptime of the daemon, s.
    pub uptime_s: f64,
}

/// One line of the history: a measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// ISO 8601 UTC.
    pub time: String,
    /// CLOCK_MONOTONIC_RAW, ns.
    pub raw_ns: i64,
    /// True − ours before correction, µs.
    pub offset_us: f64,
    /// 95 % bound, µs.
    pub error_bound_us: f64,
    /// Frequency told to the kernel, ppm.
    pub frequency_ppm: f64,
    /// Grade.
    pub quality: Quality,
    /// °C, if known.
    pub temperature_c: Option<f64>,
}
