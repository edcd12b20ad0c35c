//! For programs in Rust: the time of the range, asked of the running daemon over its control socket.
//!
//! ```
//! # let socket = std::env::temp_dir().join(format!("doc-{}/timesync.sock", std::process::id()));
//! # let place = Some(socket.clone());
//! # std::thread::spawn(|| leadville_timesync::tasks::run(Default::default(),
//! #     leadville_timesync::tasks::Options { socket: place, file: None,
//! #         simulate: Some(leadville_timesync::tasks::Simulate { seed: 1, faults: false, plain: true }) }));
//! use leadville_timesync::client::TimeSynchronizer;
//! use std::time::Duration;
//!
//! // Without `socket` the system's daemon is looked for, then the user's own.
//! let time = TimeSynchronizer::builder().socket(&socket).build();
//! # while !time.status().is_ok_and(|s| s.corrected_utc_ns.is_some()) { std::thread::sleep(Duration::from_millis(50)); }
//! println!("{}", time.status()?.verdict);
//! let now = time.corrected_time()?;
//! println!("it is {}, within {} µs", now.utc.iso(6), now.bound.as_micros_f64());
//! assert!(now.bound > leadville_timesync::units::Nanos::ZERO);
//!
//! // The clock is held still while something must not move.
//! time.lock("match", Duration::from_secs(600))?;
//! assert!(time.status()?.locks.iter().any(|l| l.name == "match"));
//! time.unlock("match")?;
//! # Ok::<(), leadville_timesync::client::Error>(())
//! ```
//!
//! Everything here waits plainly, for 5 s at most; an asynchronous program calls it where it may wait.
use crate::drift::{Alarm, AlertLimits, Notice};
use crate::os::clock::monotonic_now;
use crate::os::control::{Client, places};
pub use crate::state::{Measurement, ServerStatus, Stamp, Status, SyncPhase};
use crate::units::{Nanos, UtcTime};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a daemon that is gone is looked for.
const RETRY: Duration = Duration::from_secs(2);
/// After measurements the status is not read again within this, ns.
const OFTEN: i64 = 1_000_000_000;

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// No daemon answers, or it may not be asked: what was tried and what to do, as a sentence.
    NotRunning(io::Error),
    /// The daemon answered that it will not, or cannot yet.
    Refused {
        /// Why, as a sentence.
        sentence: String,
        /// What to do, if anything.
        hint: Option<String>,
    },
    /// Daemon and library are of different versions.
    NotUnderstood(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(e) => e.fmt(f),
            Self::Refused { sentence, hint: None } => f.write_str(sentence),
            Self::Refused { sentence, hint: Some(hint) } => write!(f, "{sentence} ({hint})"),
            Self::NotUnderstood(what) => write!(f, "the daemon's answer is not understood: {what}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        Self::NotRunning(e)
    }
}

/// What happened, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When; `None` for what has no date.
    pub utc: Option<UtcTime>,
    /// What.
    pub what: Happened,
    /// All of it, as the daemon said it.
    pub json: Value,
}

/// The kinds of events. Offsets are true − ours: positive means that our clock is behind.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Happened {
    /// A server was measured.
    Measured {
        /// Its name.
        source: String,
        /// Its offset.
        offset: Nanos,
        /// 95 % bound of the estimate.
        bound: Nanos,
    },
    /// |offset| + bound is above the daemon's limit; once per episode and level.
    Alert {
        /// Far above it.
        severe: bool,
        /// |offset| + bound.
        worst: Nanos,
    },
    /// It is below again.
    AlertCleared,
    /// The clock is being moved by this; positive is forward.
    Correction(Nanos),
    /// The clock was stepped by this.
    Step(Nanos),
    /// The clock is held still for this name.
    Lock(String),
    /// No longer.
    Unlock(String),
    /// Where the daemon stands has changed.
    State(SyncPhase),
    /// From a shot timer: `type` says what, `utc_ns` and `bound_us` when.
    Timer,
    /// So many events were lost, because they were not read.
    Lost(u64),
    /// Anything else, by its name.
    Other(String),
}

impl Event {
    fn of(json: Value) -> Self {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let span = |key: &str| Nanos::from_secs_f64(json[key].as_f64().unwrap_or(0.0) * 1e-6);
        let what = match json["event"].as_str().unwrap_or_default() {
            "sync" => Happened::Measured {
                source: text("source"),
                offset: span("offset_us"),
                bound: span("error_bound_us"),
            },
            "alert" => {
                Happened::Alert { severe: json["level"] == "severe", worst: span("worst_us") }
            }
            "alert_cleared" => Happened::AlertCleared,
            "correction" => Happened::Correction(span("offset_us")),
            "step" => Happened::Step(span("offset_us")),
            "lock" => Happened::Lock(text("name")),
            "unlock" => Happened::Unlock(text("name")),
            "state" => match serde_json::from_value(json["state"].clone()) {
                Ok(phase) => Happened::State(phase),
                Err(_) => Happened::Other("state".into()),
            },
            "timer" => Happened::Timer,
            "lost" => Happened::Lost(json["count"].as_u64().unwrap_or(0)),
            other => Happened::Other(other.to_owned()),
        };
        let utc = json["utc_ns"].as_i64().map(UtcTime::from_nanos);
        let utc = utc.or_else(|| UtcTime::from_iso(json["utc"].as_str()?));
        Self { utc, what, json }
    }
}

type OnSync = Box<dyn FnMut(&Status) + Send>;
type OnSpan = Box<dyn FnMut(Nanos) + Send>;

/// What is wanted of the daemon: [`TimeSynchronizer::builder`]. Servers, intervals and limits of
/// the clock itself are the daemon's own, in `/etc/leadville/timesync.toml`.
pub struct Builder {
    places: Vec<PathBuf>,
    drift_threshold: Nanos,
    ntp_timeout: Duration,
    on_sync: Option<OnSync>,
    on_drift_alert: Option<OnSpan>,
    on_correction: Option<OnSpan>,
}

impl Builder {
    /// Asks at this socket alone. Otherwise `$LEADVILLE_SOCKET`, the system's, the user's own.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.places = vec![path.into()];
        self
    }
    /// |offset| + bound at which `on_drift_alert` is called [20 ms]; it may be called again once it
    /// was below three quarters of it.
    #[must_use]
    pub fn drift_threshold(mut self, limit: Nanos) -> Self {
        self.drift_threshold = limit;
        self
    }
    /// How long [`TimeSynchronizer::force_sync`] waits for a server [10 s].
    #[must_use]
    pub fn ntp_timeout(mut self, patience: Duration) -> Self {
        self.ntp_timeout = patience;
        self
    }
    /// Called after measurements and changes of state, at most once a second.
    #[must_use]
    pub fn on_sync(mut self, call: impl FnMut(&Status) + Send + 'static) -> Self {
        self.on_sync = Some(Box::new(call));
        self
    }
    /// Called once per episode, with the offset (true − ours).
    #[must_use]
    pub fn on_drift_alert(mut self, call: impl FnMut(Nanos) + Send + 'static) -> Self {
        self.on_drift_alert = Some(Box::new(call));
        self
    }
    /// Called with what the clock is moved by; positive is forward.
    #[must_use]
    pub fn on_correction(mut self, call: impl FnMut(Nanos) + Send + 'static) -> Self {
        self.on_correction = Some(Box::new(call));
        self
    }
    /// Done. With callbacks a thread follows the daemon, over its restarts, until this is dropped.
    #[must_use]
    pub fn build(self) -> TimeSynchronizer {
        let Self { places, drift_threshold, ntp_timeout, on_sync, on_drift_alert, on_correction } =
            self;
        let wanted = on_sync.is_some() || on_drift_alert.is_some() || on_correction.is_some();
        let limits = AlertLimits {
            threshold: drift_threshold,
            clear_below: Nanos::new(drift_threshold.get() / 4 * 3),
            severe: Nanos::new(i64::MAX),
        };
        let follower = wanted.then(|| {
            let follower = Follower {
                places: places.clone(),
                alarm: Alarm { limits, episode: None },
                on_sync,
                on_drift_alert,
                on_correction,
            };
            Subscription::start(follower)
        });
        TimeSynchronizer { places, ntp_timeout, _follower: follower }
    }
}

/// The running daemon, seen from another program.
pub struct TimeSynchronizer {
    places: Vec<PathBuf>,
    ntp_timeout: Duration,
    _follower: Option<Subscription>,
}

impl TimeSynchronizer {
    /// Says where the daemon is and what is wanted of it.
    ///
    /// ```
    /// use leadville_timesync::{client::TimeSynchronizer, units::Nanos};
    /// let time = TimeSynchronizer::builder()
    ///     .socket("/nonexistent/timesync.sock")
    ///     .drift_threshold(Nanos::from_millis(10))
    ///     .on_sync(|status| println!("{}", status.verdict))
    ///     .on_drift_alert(|offset| eprintln!("the clock is {offset} behind"))
    ///     .on_correction(|by| println!("the clock is moved by {by}"))
    ///     .build();
    /// // No daemon is an error in words, not a panic; the callbacks come when it is there.
    /// assert!(time.status().unwrap_err().to_string().contains("no daemon is running"));
    /// ```
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            places: places(None),
            drift_threshold: Nanos::from_millis(20),
            ntp_timeout: Duration::from_secs(10),
            on_sync: None,
            on_drift_alert: None,
            on_correction: None,
        }
    }

    /// Everything about the clock, now.
    ///
    /// # Errors
    /// See [`Error`], as for all that follow.
    pub fn status(&self) -> Result<Status, Error> {
        understood(self.ask(&json!({"do": "status"}))?)
    }

    /// The servers, and what each is good for.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn sources(&self) -> Result<Vec<ServerStatus>, Error> {
        understood(self.ask(&json!({"do": "sources"}))?["servers"].take())
    }

    /// The last 100 measurements, oldest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn history(&self) -> Result<Vec<Measurement>, Error> {
        understood(self.ask(&json!({"do": "history"}))?["history"].take())
    }

    /// The best estimate of UTC now, with its bound.
    ///
    /// # Errors
    /// [`Error::Refused`] before the first synchronisation.
    pub fn corrected_time(&self) -> Result<Stamp, Error> {
        let asked = monotonic_now();
        let stamp = self.stamp(asked)?;
        Ok(Stamp { utc: stamp.utc + Nanos::new(monotonic_now() - asked), ..stamp })
    }

    /// The UTC of an instant of CLOCK_MONOTONIC (ns), up to two days away.
    ///
    /// # Errors
    /// [`Error::Refused`] before the first synchronisation.
    pub fn stamp(&self, monotonic_ns: i64) -> Result<Stamp, Error> {
        let reply = self.ask(&json!({"do": "stamp", "monotonic_ns": monotonic_ns}))?;
        let (utc, bound) = (reply["utc_ns"].as_i64(), reply["bound_us"].as_f64());
        let (Some(utc), Some(bound)) = (utc, bound) else {
            return Err(Error::NotUnderstood(reply.to_string()));
        };
        let bound = Nanos::from_secs_f64(bound * 1e-6);
        Ok(Stamp { utc: UtcTime::from_nanos(utc), bound })
    }

    /// Has the servers asked now, as their spacing allows, and waits for an answer of one.
    ///
    /// # Errors
    /// [`Error::Refused`] when none came in time, or when we may not ask for it.
    pub fn force_sync(&self) -> Result<Status, Error> {
        let events = self.events()?;
        self.ask(&json!({"do": "sync-now"}))?;
        let patience = i64::try_from(self.ntp_timeout.as_nanos()).unwrap_or(i64::MAX);
        let end = monotonic_now().saturating_add(patience);
        let measured = events.until(end, |e| matches!(e.what, Happened::Measured { .. }));
        if measured {
            return self.status();
        }
        let sentence = "no server has answered".to_owned();
        Err(Error::Refused { sentence, hint: Some("leadville-timesync sources".into()) })
    }

    /// The clock is held still: no step, no slew, until [`Self::unlock`] or the end of `length`.
    ///
    /// # Errors
    /// [`Error::Refused`] for a length above 7 days, or when we may not.
    pub fn lock(&self, name: &str, length: Duration) -> Result<(), Error> {
        self.ask(&json!({"do": "lock", "name": name, "for_s": length.as_secs_f64()})).map(|_| ())
    }

    /// The clock may be corrected again.
    ///
    /// # Errors
    /// [`Error::Refused`] when nobody holds that lock, or when we may not.
    pub fn unlock(&self, name: &str) -> Result<(), Error> {
        self.ask(&json!({"do": "unlock", "name": name})).map(|_| ())
    }

    /// What happens from now on: an iterator that ends when the daemon stops.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn events(&self) -> Result<Events, Error> {
        let mut client = Client::connect(&self.places)?;
        checked(client.request(&json!({"do": "subscribe"}))?)?;
        let end = client.other_end()?;
        Ok(Events { lines: Some(Box::new(client.lines()?)), end })
    }

    fn ask(&self, request: &Value) -> Result<Value, Error> {
        checked(Client::connect(&self.places)?.request(request)?)
    }
}

fn checked(reply: Value) -> Result<Value, Error> {
    if reply["reply"] != "error" {
        return Ok(reply);
    }
    let text = |key: &str| reply[key].as_str().map(str::to_owned);
    Err(Error::Refused { sentence: text("error").unwrap_or_default(), hint: text("hint") })
}

fn understood<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|e| Error::NotUnderstood(e.to_string()))
}

/// What happens, as it happens; waits for the next. See [`TimeSynchronizer::events`].
pub struct Events {
    lines: Option<Box<dyn Iterator<Item = io::Result<Value>> + Send>>,
    end: UnixStream,
}

impl Events {
    /// Ends the iterator from another thread.
    ///
    /// # Errors
    /// What the system says when it has no descriptor left.
    pub fn stopper(&self) -> io::Result<impl Fn() + Send + 'static> {
        let end = self.end.try_clone()?;
        Ok(move || drop(end.shutdown(Shutdown::Both)))
    }

    /// Waits for an event, until `end` (CLOCK_MONOTONIC, ns) at the latest.
    fn until(mut self, end: i64, wanted: impl Fn(&Event) -> bool) -> bool {
        let Some(mut lines) = self.lines.take() else { return false };
        let (tell, told) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            lines.try_for_each(|line| tell.send(line.map(Event::of)).map_err(drop))
        });
        let found = loop {
            let left = u64::try_from(end - monotonic_now()).unwrap_or(0);
            match told.recv_timeout(Duration::from_nanos(left)) {
                Ok(Ok(event)) if wanted(&event) => break true,
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => break false,
            }
        };
        let _ = self.end.shutdown(Shutdown::Both);
        let _ = waiting.join();
        found
    }
}

impl Iterator for Events {
    type Item = Event;
    fn next(&mut self) -> Option<Event> {
        self.lines.as_mut()?.next()?.ok().map(Event::of)
    }
}

/// What follows the daemon for callbacks.
struct Follower {
    places: Vec<PathBuf>,
    alarm: Alarm,
    on_sync: Option<OnSync>,
    on_drift_alert: Option<OnSpan>,
    on_correction: Option<OnSpan>,
}

impl Follower {
    fn looked(&mut self, status: &Status) {
        let offset = status.offset_us.map(|us| Nanos::from_secs_f64(us * 1e-6));
        let bound = status.error_bound_us.map(|us| Nanos::from_secs_f64(us * 1e-6));
        let worst = offset.zip(bound).map(|(o, b)| o.abs() + b);
        let notice = self.alarm.judge(UtcTime::from_nanos(status.utc_ns), worst);
        if let (Some(Notice::Raised(_)), Some(offset), Some(call)) =
            (notice, offset, &mut self.on_drift_alert)
        {
            call(offset);
        }
        if let Some(call) = &mut self.on_sync {
            call(status);
        }
    }

    fn while_here(&mut self, time: &TimeSynchronizer, events: Events) -> Result<(), Error> {
        self.looked(&time.status()?);
        let mut last = monotonic_now();
        for event in events {
            match event.what {
                Happened::Correction(by) => {
                    if let Some(call) = &mut self.on_correction {
                        call(by);
                    }
                }
                Happened::Measured { .. } if monotonic_now() - last >= OFTEN => {}
                Happened::Alert { .. } | Happened::AlertCleared | Happened::State(_) => {}
                _ => continue,
            }
            last = monotonic_now();
            self.looked(&time.status()?);
        }
        Ok(())
    }
}

/// A thread that follows the daemon; ends when dropped.
struct Subscription {
    stop: Option<mpsc::Sender<()>>,
    end: Arc<Mutex<Option<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Subscription {
    fn start(mut follower: Follower) -> Self {
        let (stop, stopped) = mpsc::channel();
        let end = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let builder = TimeSynchronizer::builder();
            let time = Builder { places: follower.places.clone(), ..builder }.build();
            loop {
                if let Ok(events) = time.events()
                    && let Ok(own) = events.end.try_clone()
                {
                    *shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(own);
                    // A stop from before the line above would not have been noticed.
                    if matches!(stopped.try_recv(), Err(mpsc::TryRecvError::Empty)) {
                        let _gone = follower.while_here(&time, events);
                    }
                }
                if stopped.recv_timeout(RETRY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        Self { stop: Some(stop), end, thread: Some(thread) }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        drop(self.stop.take());
        let end = self.end.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(end) = end {
            let _ = end.shutdown(Shutdown::Both);
        }
        // Dropped by a callback itself, it cannot wait for itself.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
