//! What the tasks may know of one another: one state, one lock, who is told.
//!
//! The lock never leaves this file, and no guard lives across an `.await`.
use crate::config::Config;
use crate::drift::{Alarm, AlertLimits, History};
use crate::engine::View;
use crate::engine::byhand::{Effect, Word};
use crate::record::{MOST_MARKS, Mark};
use crate::units::{Nanos, RawTime, Reading, UtcTime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, RwLock};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

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

/// What a receiver beside us is called.
pub const RECEIVER: &str = "GPS";

impl ServerStatus {
    /// A receiver beside us, which is not asked.
    #[must_use]
    pub fn beside(&self) -> bool {
        self.name == RECEIVER && self.address.is_none() && self.next_poll_s.is_none()
    }
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
    /// `drift` (above `[alert] drift_threshold`) or `severe` (above `[alert] severe`).
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

/// A timeline that somebody's word began, while no server is heard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ByHandStatus {
    /// When it was said, ISO 8601 UTC.
    pub since: String,
    /// `set-time`, `phone`, `date` (somebody set the clock itself) or `neighbour` (another computer's word).
    pub how: String,
    /// Give or take when it was said, µs.
    pub uncertainty_us: f64,
}

/// Time served to others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServeStatus {
    /// Addresses and ports.
    pub listen: Vec<String>,
    /// Stratum served now; `null`: no answers, since there is no time to serve.
    pub stratum: Option<u8>,
    /// Requests answered.
    pub answered: u64,
    /// Datagrams that are no client's request of 48 bytes.
    pub malformed: u64,
    /// Requests from networks that are not allowed.
    pub strangers: u64,
    /// Requests beyond an address's rate.
    pub too_often: u64,
    /// Requests that came while there was no time to serve.
    pub no_time: u64,
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
    /// What people say the time is would be taken: no server has said it since the start.
    #[serde(default)]
    pub takes_word: bool,
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
    /// Offset of the last measurement before its correction, ms (the original's name).
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
    /// Grade of the error bound alone, without the offset (the original's name).
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
    /// Somebody's word that carries the time, if one does.
    #[serde(default)]
    pub by_hand: Option<ByHandStatus>,
    /// Time served to others, if it is.
    #[serde(default)]
    pub serve: Option<ServeStatus>,
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

/// An instant that is written as ISO 8601 with microseconds. Kept as a number: a hundred little
/// texts among what comes and goes would hold the heap's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Moment(pub UtcTime);

impl Default for Moment {
    fn default() -> Self {
        Self(UtcTime::from_nanos(0))
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.iso(6))
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

impl TryFrom<String> for Moment {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        UtcTime::from_iso(&text).map(Self).ok_or("not a time in ISO 8601")
    }
}

/// One line of the history: a measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// ISO 8601 UTC.
    pub time: Moment,
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

// ── what is shared while running ─────────────────────────────────────────────────────────

/// The clock's section: written by the resync task alone.
#[derive(Clone, Debug)]
pub struct ClockSection {
    /// The engine's view.
    pub view: View,
    /// When it was taken.
    pub reading: Reading,
    /// CLOCK_MONOTONIC at that moment, ns.
    pub monotonic_ns: i64,
    /// All servers.
    pub servers: Vec<ServerStatus>,
    /// Who holds the clock still.
    pub locks: Vec<LockStatus>,
    /// The kernel clock is corrected.
    pub steering: bool,
    /// Why not.
    pub steering_why: Option<String>,
    /// °C.
    pub temperature_c: Option<f64>,
    /// Measurements made.
    pub sync_count: u64,
    /// Offset of the last measurement, before its correction.
    pub last_offset: Option<Nanos>,
    /// When the last usable exchange came.
    pub last_sync: Option<UtcTime>,
    /// Requests sent.
    pub packets: u64,
    /// What is wrong with the state directory.
    pub trouble: Option<String>,
    /// Another program steers this clock too.
    pub foreign_steering: bool,
    /// Time served to others.
    pub serve: Option<ServeStatus>,
    /// Time should be served and is not.
    pub serves_in_vain: bool,
    /// How long |offset| + bound stays within the alert threshold, from now on.
    pub good_for: Option<Nanos>,
}

/// The monitor's section: written by the drift monitor alone.
#[derive(Clone, Debug)]
pub struct DriftSection {
    /// The last 100 measurements.
    pub history: History,
    /// The alert.
    pub alarm: Alarm,
}

/// What was measured and what happened since the monitor's last turn.
#[derive(Debug, Default)]
pub struct Fresh {
    /// Measurements.
    pub measured: VecDeque<Measurement>,
    /// What belongs into the record of days.
    pub marks: VecDeque<Mark>,
}

/// Puts `new` at the end and keeps `most`: the oldest go.
pub(crate) fn keep<T>(queue: &mut VecDeque<T>, new: impl IntoIterator<Item = T>, most: usize) {
    queue.extend(new);
    while queue.len() > most {
        queue.pop_front();
    }
}

/// What tasks may know of one another. Each section has one writer.
#[derive(Debug)]
pub struct SyncState {
    /// By the resync task.
    pub clock: Option<ClockSection>,
    /// What the monitor has not seen yet.
    fresh: Fresh,
    /// By the drift monitor.
    pub drift: DriftSection,
    /// By the timer bridge.
    pub timers: Vec<serde_json::Value>,
    /// The configuration's part that others show.
    pub sync_interval: Nanos,
    /// Servers are asked.
    pub ntp_enabled: bool,
}

/// A time of another program, dated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stamp {
    /// UTC.
    pub utc: UtcTime,
    /// 95 % bound.
    pub bound: Nanos,
}

/// What other tasks ask of the resync task, which owns the engine.
#[derive(Debug)]
pub enum Request {
    /// Publish a fresh view.
    Refresh,
    /// Date an instant of the raw clock.
    Stamp(RawTime),
    /// Ask the servers now.
    SyncNow,
    /// Hold the clock still.
    Lock(String, Nanos),
    /// End a lock.
    Unlock(String),
    /// Correct the offset at once.
    Step,
    /// Somebody says what time it is.
    ByHand(Word),
    /// What would come of that.
    Weigh(Word),
    /// Forget history and sums.
    Reset,
    /// A new configuration.
    Reconfigure(Box<Config>),
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Done.
    Done,
    /// Dated; `None` while the time is not known.
    Stamp(Option<Stamp>),
    /// What would be done.
    Weighed(Effect),
    /// Not done, and why.
    Refused(String),
}

/// A request with the way back.
pub type Asked = (Request, oneshot::Sender<Answer>);

struct Inner {
    state: RwLock<SyncState>,
    changed: Notify,
    events: broadcast::Sender<Arc<str>>,
    requests: mpsc::Sender<Asked>,
}

/// The handle every task holds. The lock never leaves this file.
#[derive(Clone)]
pub struct Shared {
    inner: Arc<Inner>,
}

impl Shared {
    /// A state nobody has written to, and the end at which requests arrive.
    #[must_use]
    pub fn new(
        limits: AlertLimits,
        sync_interval: Nanos,
        ntp_enabled: bool,
    ) -> (Self, mpsc::Receiver<Asked>) {
        let (requests, inbox) = mpsc::channel(64);
        let state = SyncState {
            clock: None,
            fresh: Fresh::default(),
            drift: DriftSection {
                history: History::default(),
                alarm: Alarm { limits, episode: None },
            },
            timers: Vec::new(),
            sync_interval,
            ntp_enabled,
        };
        let inner = Inner {
            state: RwLock::new(state),
            changed: Notify::new(),
            events: broadcast::channel(64).0,
            requests,
        };
        (Self { inner: Arc::new(inner) }, inbox)
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&SyncState) -> T) -> T {
        look(&self.inner.state.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut SyncState) -> T) -> T {
        change(&mut self.inner.state.write().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The resync task's new view; the monitor is woken when something was measured.
    pub fn publish_clock(
        &self,
        clock: ClockSection,
        measured: impl IntoIterator<Item = Measurement>,
    ) {
        self.write(|s| {
            s.clock = Some(clock);
            keep(&mut s.fresh.measured, measured, crate::drift::HISTORY);
        });
        self.inner.changed.notify_one();
    }

    /// Waits until the clock section was published again.
    pub async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// The monitor's turn: new measurements in, its section out.
    pub fn monitor<T>(
        &self,
        judge: impl FnOnce(Option<&ClockSection>, &mut DriftSection, Fresh) -> T,
    ) -> T {
        self.write(|s| {
            let fresh = std::mem::take(&mut s.fresh);
            judge(s.clock.as_ref(), &mut s.drift, fresh)
        })
    }

    /// The bridge's new view of its timers.
    pub fn publish_timers(&self, timers: Vec<serde_json::Value>) {
        self.write(|s| s.timers = timers);
    }

    /// Changed configuration.
    pub fn reconfigure(&self, limits: AlertLimits, sync_interval: Nanos) {
        self.write(|s| {
            s.drift.alarm.limits = limits;
            s.sync_interval = sync_interval;
        });
    }

    /// Forgets the history.
    pub fn forget_history(&self) {
        self.write(|s| s.drift.history.clear());
    }

    /// Whether anybody is subscribed.
    #[must_use]
    pub fn is_listened_to(&self) -> bool {
        self.inner.events.receiver_count() > 0
    }

    /// Tells the record and all subscribers one event; `v` and nothing else is added.
    pub fn tell(&self, mut event: serde_json::Value) {
        if let Some(mark) = Mark::of(&event) {
            self.write(|s| keep(&mut s.fresh.marks, [mark], MOST_MARKS));
        }
        if !self.is_listened_to() {
            return;
        }
        if let Some(object) = event.as_object_mut() {
            object.insert("v".into(), PROTOCOL.into());
        }
        let _ = self.inner.events.send(event.to_string().into());
    }

    /// From now on, a line per event.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<str>> {
        self.inner.events.subscribe()
    }

    /// Asks the resync task.
    pub async fn ask(&self, request: Request) -> Answer {
        let (back, answer) = oneshot::channel();
        let gone = || Answer::Refused("the daemon is stopping".into());
        if self.inner.requests.send((request, back)).await.is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }

    /// Dates an instant of the raw clock; `None` while the time is not known.
    pub async fn stamp(&self, raw: RawTime) -> Option<Stamp> {
        match self.ask(Request::Stamp(raw)).await {
            Answer::Stamp(stamp) => stamp,
            _ => None,
        }
    }
}
