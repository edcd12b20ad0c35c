//! The bridge task: timers found, listened to and dated, whatever the radio does.
//!
//! One loop: what BlueZ tells, what calls came back, what is due, what clients ask. Calls run
//! beside the loop, so that no notification waits for one.
pub mod desk;
pub mod keep;
pub mod link;
mod pretend;
mod radio;
mod tell;
pub mod watched;

use crate::config::{Config, Timer};
use crate::os::bluez::{Bluez, Caller, Read, Refused, Told};
use crate::os::clock;
use crate::os::store::StateDir;
use crate::state::{Request, Shared};
use crate::tasks::Simulate;
use crate::timer::command::REQ_STRING;
use crate::units::{Nanos, RawTime};
use desk::{Questions, refusal};
use keep::Kept;
use link::{Stage, Wish};
use pretend::Pretend;
use radio::Scan;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tell::tell_link;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};
use watched::Watched;

/// A timer that never pushed on this link is asked for its list so often.
const PUSH_CHECK: Nanos = Nanos::from_secs(600);
/// What bluetoothd may have left unsaid of a device is asked for so often, in doubt.
const READ_AGAIN: Nanos = Nanos::from_secs(2);
/// A bluetoothd that does not answer is asked again after this, at most.
const BUS_LONGEST: Nanos = Nanos::from_secs(30);
/// A bus that is not there, a bluetoothd whose coming the bus tells, or one that we may not use: after this, at most.
const BUS_RARELY: Nanos = Nanos::from_secs(300);

/// What came of a call.
enum Done {
    Connected(usize, Result<(), Refused>),
    Read(Read),
    Subscribed(usize, Result<(), Refused>),
    Dropped(usize, Result<(), Refused>),
    Scanning(Result<(), Refused>),
    ScanEnded,
    Notifying(usize, Result<bool, Refused>),
    Wrote(usize, String, Result<(), Refused>, Option<oneshot::Sender<Value>>),
    Saved(Result<(), String>),
}

/// The bridge.
pub struct Bridge {
    config: Config,
    shared: Shared,
    kept: Kept,
    boot: String,
    watched: Vec<Watched>,
    bluez: Option<Bluez>,
    /// bluetoothd has answered since it came.
    answered: bool,
    bus_due: Option<RawTime>,
    bus_wait: Nanos,
    trouble: Option<String>,
    scan: Scan,
    /// Where a scan was begun.
    scanned: Vec<String>,
    scan_until: Option<RawTime>,
    health_due: Option<RawTime>,
    last_write: Option<RawTime>,
    saving: bool,
    pretend: Option<Pretend>,
    /// The simulated raw clock is so far ahead of ours.
    ahead: Nanos,
    done: mpsc::UnboundedSender<Done>,
}

/// What tells this boot from another: the kernel's word; where a service may not read that, a word
/// of our own in `runtime`, which is empty at boot; else one for this run alone.
fn boot(runtime: Option<&Path>) -> String {
    if let Ok(id) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        return id.trim().to_owned();
    }
    let path = runtime.map(|directory| directory.join("timesync.boot"));
    let known = path.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
    if let Some(id) = known.filter(|id| !id.is_empty() && id.len() < 100) {
        return id;
    }
    let now = clock::read();
    let id = format!("{:x}-{:x}-{:x}", now.utc.as_nanos(), now.raw.as_nanos(), std::process::id());
    if let Some(path) = path {
        let _ = std::fs::write(path, &id);
    }
    id
}

/// Runs the bridge until told to stop. Strings are kept in `directory`; `runtime` is emptied at
/// boot. `pretend`: a simulated shooter, no radio.
pub async fn run(
    config: Config,
    shared: Shared,
    directory: Option<PathBuf>,
    runtime: Option<PathBuf>,
    pretend: Option<Simulate>,
    questions: Questions,
    mut stop: watch::Receiver<bool>,
) {
    let (done, mut back) = mpsc::unbounded_channel();
    let mut questions = questions.0;
    let mut bridge = Bridge::new(config, shared, directory, runtime.as_deref(), pretend, done);
    bridge.step().await;
    loop {
        let due = bridge.due();
        let wait = due.map(|at| (at - bridge.now()).max(Nanos::ZERO));
        let bluez = bridge.bluez.as_mut();
        tokio::select! {
            biased;
            _ = stop.changed() => break,
            told = async {
                match bluez {
                    Some(bluez) => bluez.next().await,
                    None => std::future::pending().await,
                }
            } => bridge.told(told).await,
            Some(done) = back.recv() => bridge.came_back(done).await,
            Some(question) = questions.recv() => bridge.asked(question),
            () = async {
                match wait {
                    Some(wait) => tokio::time::sleep(Duration::from_nanos(wait.get() as u64)).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
        bridge.step().await;
    }
    // The link stays for whoever else uses it; bluetoothd ends our subscription with our name.
    bridge.save_now();
}

/// Opens a link. bluetoothd was seen not to answer, nor to say that the link is up, though it was:
/// the device is read now and then meanwhile.
async fn connect(i: usize, path: String, caller: Caller, done: mpsc::UnboundedSender<Done>) {
    let again = Duration::from_nanos(READ_AGAIN.get() as u64);
    let mut connecting = std::pin::pin!(caller.connect(&path));
    loop {
        let came = tokio::time::timeout(again, &mut connecting).await;
        read_again(&path, &caller, &done).await;
        if let Ok(result) = came {
            let _ = done.send(Done::Connected(i, result));
            return;
        }
    }
}

/// Reads what bluetoothd may have left unsaid of a device.
async fn read_again(path: &str, caller: &Caller, done: &mpsc::UnboundedSender<Done>) {
    if let Ok(read) = caller.device(path).await {
        let _ = done.send(Done::Read(read));
    }
}

impl Bridge {
    fn new(
        config: Config,
        shared: Shared,
        directory: Option<PathBuf>,
        runtime: Option<&Path>,
        pretend: Option<Simulate>,
        done: mpsc::UnboundedSender<Done>,
    ) -> Self {
        let longest = config.bluetooth.reconnect_at_most;
        let mut timers: Vec<Timer> = config.timer.iter().filter(|t| t.enabled).cloned().collect();
        if config.timer.is_empty() || (pretend.is_some() && timers.is_empty()) {
            timers.push(Timer::default());
        }
        let directory = directory.and_then(|path| match StateDir::open(path) {
            Ok(directory) => Some(directory),
            Err(e) => {
                warn!("strings are not kept on disk: {e}");
                None
            }
        });
        let kept = Kept::open(directory, config.state.strings as usize);
        if let Some(trouble) = &kept.trouble {
            warn!("kept strings: {trouble}; begun anew");
        }
        let mut watched: Vec<Watched> =
            timers.into_iter().map(|t| Watched::new(t, longest)).collect();
        for w in &mut watched {
            w.learned(&kept);
        }
        let pretend = pretend.map(|s| Pretend::new(&config.simulation, s.seed, s.faults));
        let mut bridge = Self {
            boot: boot(runtime),
            config,
            shared,
            kept,
            watched,
            bluez: None,
            answered: false,
            bus_due: Some(clock::raw_now()),
            bus_wait: Nanos::from_secs(1),
            trouble: None,
            scan: Scan::Idle(None),
            scanned: Vec::new(),
            scan_until: None,
            health_due: None,
            last_write: None,
            saving: false,
            pretend,
            ahead: Nanos::ZERO,
            done,
        };
        if bridge.pretend.is_some() {
            bridge.bus_due = None;
            let now = bridge.now();
            let w = &mut bridge.watched[0];
            w.link.stage = Stage::Listening(now);
            w.link.links = 1;
            w.address = "SIMULATED".into();
        }
        bridge.publish();
        bridge
    }

    /// When something is due without anybody telling.
    fn due(&self) -> Option<RawTime> {
        let scan = match self.scan {
            Scan::Idle(at) if self.wants_scan() => at,
            Scan::On(until) => Some(until),
            _ => None,
        };
        let timers = self.watched.iter().flat_map(|w| {
            [w.link.due(), w.list_due, w.bay.strings().next_tick(), self.silent_at(w)]
                .into_iter()
                .flatten()
        });
        let undated = self.undated().then(|| self.now() + Nanos::from_secs(5));
        let pretend = self.pretend.as_ref().map(Pretend::due);
        [self.bus_due, self.health_due, scan, undated, pretend]
            .into_iter()
            .flatten()
            .chain(timers)
            .min()
    }

    /// When a link that is up will have been without a word for too long.
    fn silent_at(&self, w: &Watched) -> Option<RawTime> {
        let Stage::Listening(since) = w.link.stage else { return None };
        let idle = self.pretend.is_none() && w.bay.strings().current().is_none();
        let last = w.heard.map_or(since, |h| h.0.max(since));
        idle.then(|| last + self.config.bluetooth.silence)
    }

    /// The subscription is ended and made again: it may have been lost unsaid.
    fn subscribe_anew(&mut self, i: usize) {
        let w = &mut self.watched[i];
        let device = w.link.device.as_deref().unwrap_or("");
        let Some(bluez) = &self.bluez else { return };
        let Some(path) = bluez.tree.characteristic(device, true).map(str::to_owned) else { return };
        let (caller, done) = (bluez.caller(), self.done.clone());
        w.link.stage = Stage::Subscribing;
        tracing::debug!("{}: nothing heard for long; subscribing anew", w.timer.name);
        tokio::task::spawn_local(async move {
            let _ = caller.stop_notify(&path).await;
            let _ = done.send(Done::Subscribed(i, caller.start_notify(&path).await));
        });
    }

    fn running(&self) -> bool {
        self.watched.iter().any(|w| w.bay.strings().current().is_some())
    }

    /// Everything that follows from how things stand.
    async fn step(&mut self) {
        let now = self.now();
        if self.bus_due.is_some_and(|at| now >= at) {
            self.open_bus(now).await;
        }
        self.pretended(now).await;
        for i in 0..self.watched.len() {
            let said = self.watched[i].bay.tick(now);
            self.tell_all(i, &said, None).await;
            if self.watched[i].list_due.is_some_and(|at| now >= at) {
                self.watched[i].list_due = None;
                if !self.running() && self.watched[i].link.is_listening() {
                    self.write(i, REQ_STRING.into(), None);
                }
            }
        }
        self.look(now).await;
        for i in 0..self.watched.len() {
            if self.silent_at(&self.watched[i]).is_some_and(|at| now >= at) {
                self.subscribe_anew(i);
            }
        }
        self.wish(now);
        self.scan(now);
        if self.health_due.is_some_and(|at| now >= at) {
            self.health(now);
        }
        if self.undated() {
            self.revise().await;
        }
        self.save();
    }

    async fn open_bus(&mut self, now: RawTime) {
        self.bus_due = None;
        let opened = match self.bluez.take() {
            Some(bluez) => Ok(bluez),
            None => Bluez::open().await,
        };
        let mut longest = BUS_RARELY;
        let trouble = match opened {
            Ok(mut bluez) => {
                let read = bluez.refresh().await;
                // Kept even so: the bus tells when bluetoothd comes.
                self.bluez = Some(bluez);
                read.err().map(|e| {
                    if e.is_denied() {
                        "not allowed to use BlueZ: the daemon's user must be in group bluetooth".into()
                    } else if e.is_absent() {
                        "bluetoothd is not running: sudo apt install bluez, sudo systemctl start bluetooth".into()
                    } else {
                        longest = BUS_LONGEST;
                        format!("BlueZ does not answer: {}", e.text)
                    }
                })
            }
            Err(e) => Some(format!("no D-Bus system bus ({}): is dbus running?", e.text)),
        };
        self.answered = trouble.is_none();
        if self.answered {
            self.bus_wait = Nanos::from_secs(1);
            self.scan = Scan::Idle(None);
        } else {
            let wait = self.bus_wait.min(longest);
            self.bus_due = Some(now + wait);
            self.bus_wait = wait + wait;
            self.in_trouble(trouble);
        }
    }

    /// What keeps Bluetooth as a whole from working, said once.
    fn in_trouble(&mut self, trouble: Option<String>) {
        if self.trouble == trouble {
            return;
        }
        match &trouble {
            Some(text) => warn!("timers: {text}"),
            None => info!("timers: Bluetooth is ready"),
        }
        self.trouble = trouble;
        self.publish();
    }

    async fn told(&mut self, told: Told) {
        let now = self.now();
        match told {
            Told::Notification(path, at, bytes) => {
                let from = |w: &Watched| {
                    w.link.device.as_ref().is_some_and(|d| path.starts_with(&format!("{d}/")))
                };
                if let Some(i) = self.watched.iter().position(from) {
                    self.doubt(i, now);
                    self.heard(i, at, &bytes).await;
                }
            }
            Told::Changed => {}
            Told::Owner(true) => self.bus_due = Some(now),
            Told::Owner(false) => {
                if let Some(bluez) = &mut self.bluez {
                    bluez.tree = crate::os::bluez::Tree::default();
                }
                self.answered = false;
                self.all_lost(now).await;
                let text = "bluetoothd has ended; waiting for it (sudo systemctl start bluetooth)";
                self.in_trouble(Some(text.into()));
            }
            Told::Closed => {
                self.bluez = None;
                self.answered = false;
                self.all_lost(now).await;
                self.bus_due = Some(now + Nanos::from_secs(1));
                self.in_trouble(Some("the D-Bus connection was closed".into()));
            }
        }
    }

    /// A frame comes of a link that is not known to be up: its device is read again.
    fn doubt(&mut self, i: usize, now: RawTime) {
        let w = &mut self.watched[i];
        let lately = w.doubted.is_some_and(|at| now - at < READ_AGAIN);
        let (Some(path), Some(bluez)) = (&w.link.device, &self.bluez) else { return };
        if !w.link.is_listening() && !lately {
            w.doubted = Some(now);
            let (caller, done, path) = (bluez.caller(), self.done.clone(), path.clone());
            tokio::task::spawn_local(async move { read_again(&path, &caller, &done).await });
        }
    }

    async fn all_lost(&mut self, now: RawTime) {
        self.scan = Scan::Idle(None);
        self.scanned.clear();
        for i in 0..self.watched.len() {
            if self.watched[i].link.reset() {
                self.lost(i, now).await;
            }
        }
    }

    /// Does what each link wishes.
    fn wish(&mut self, now: RawTime) {
        for i in 0..self.watched.len() {
            let Some(bluez) = &self.bluez else { return };
            let wish = self.watched[i].link.wish(&bluez.tree, now);
            let (caller, done) = (bluez.caller(), self.done.clone());
            match wish {
                Wish::Nothing | Wish::Scan => {}
                Wish::Connect(path) => {
                    // A scan and a connection attempt disturb one another; one at a time.
                    let busy = self.watched.iter().any(|w| w.link.stage == Stage::Connecting);
                    if busy || self.scan == Scan::Changing {
                        continue;
                    }
                    if matches!(self.scan, Scan::On(_)) {
                        self.end_scan();
                        continue;
                    }
                    self.watched[i].link.stage = Stage::Connecting;
                    tokio::task::spawn_local(connect(i, path, caller, done));
                    self.publish();
                }
                Wish::Subscribe(path) => {
                    self.watched[i].link.stage = Stage::Subscribing;
                    tokio::task::spawn_local(async move {
                        let _ = done.send(Done::Subscribed(i, caller.start_notify(&path).await));
                    });
                }
                Wish::Drop(path) => {
                    self.watched[i].link.ours = false;
                    self.watched[i].trouble = Some("its services could not be read".into());
                    tokio::task::spawn_local(async move {
                        let result = caller.disconnect(&path).await;
                        let _ = done.send(Done::Dropped(i, result));
                    });
                }
            }
        }
    }

    async fn came_back(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Connected(i, result) => {
                self.look(now).await;
                let w = &mut self.watched[i];
                if w.link.stage == Stage::Connecting {
                    if let Err(e) = result.as_ref()
                        && !e.is_already()
                    {
                        tracing::debug!("{}: connecting failed: {}", w.timer.name, e.text);
                        w.trouble = Some(format!("connecting failed: {}", e.text));
                    }
                    w.link.failed(now);
                }
            }
            Done::Subscribed(i, Ok(())) => self.up(i, now),
            Done::Subscribed(i, Err(e)) if e.is_already() => self.up(i, now),
            Done::Subscribed(i, Err(e)) => {
                let w = &mut self.watched[i];
                w.trouble = Some(format!("subscribing failed: {}", e.text));
                w.link.failed(now);
            }
            Done::Dropped(_, Ok(())) => {}
            Done::Dropped(i, Err(e)) => {
                tracing::debug!("{}: disconnecting failed: {}", self.watched[i].timer.name, e.text);
                self.watched[i].link.not_dropped(now);
            }
            Done::Read(read) => {
                if let Some(bluez) = &mut self.bluez {
                    bluez.tree.told(&read);
                }
            }
            Done::Scanning(begun) => self.scanning(begun, now),
            Done::ScanEnded => self.scan_ended(now),
            Done::Notifying(_, Ok(true)) => {}
            Done::Notifying(i, _) => self.watched[i].link.unsubscribed(now),
            Done::Wrote(i, text, result, back) => {
                let w = &self.watched[i];
                let answer = match &result {
                    Ok(()) => json!({"v": crate::state::PROTOCOL, "reply": "ok",
                        "message": format!("{} was told {text}", w.timer.name)}),
                    Err(e) => refusal(&format!("the timer was not told: {}", e.text), None),
                };
                if let Some(back) = back {
                    let _ = back.send(answer);
                } else if let Err(e) = result {
                    warn!("{}: {text} was not told: {}", w.timer.name, e.text);
                }
            }
            Done::Saved(result) => {
                self.saving = false;
                if let Err(e) = result {
                    warn!("strings are not kept on disk: {e}");
                    self.kept.trouble = Some(e);
                }
            }
        }
    }

    /// Frames can come.
    fn up(&mut self, i: usize, now: RawTime) {
        let w = &mut self.watched[i];
        w.link.subscribed(now);
        w.trouble = None;
        w.bay.link_up();
        w.list_due.get_or_insert(now + Nanos::from_secs(3));
        // A subscription made again on the same link is no news.
        if !std::mem::replace(&mut w.link.told, true) {
            let message = format!("{} is listened to", w.timer.name);
            tell_link(&self.shared, w, "connected", &message, &format!(" ({})", w.address));
        }
        let every = self.health_every();
        self.health_due.get_or_insert(now + every);
        self.publish();
    }

    /// How often the links are looked after: without lines about them too.
    fn health_every(&self) -> Nanos {
        let reports = self.config.bluetooth.health_report_interval;
        if reports > Nanos::ZERO { reports } else { self.push_check() }
    }

    fn push_check(&self) -> Nanos {
        PUSH_CHECK.min(self.config.bluetooth.silence)
    }

    /// A link is gone: normal weather, the timer switches itself off.
    async fn lost(&mut self, i: usize, now: RawTime) {
        let w = &mut self.watched[i];
        w.bay.link_lost(now);
        w.list_due = None;
        if let Scan::Idle(_) = self.scan {
            // It may be back at once.
            self.scan = Scan::Idle(None);
        }
        let running = w.bay.strings().current().is_some();
        let message = format!("the link to {} is gone", w.timer.name);
        let more = if running { " in the middle of a string" } else { "" };
        tell_link(&self.shared, w, "disconnected", &message, more);
        if running {
            self.hold(i, self.config.lock.string_link_lost).await;
        }
        self.publish();
    }

    /// A string holds the clock still for so long from now.
    async fn hold(&self, i: usize, span: Nanos) {
        if !self.config.lock.during_strings {
            return;
        }
        let name = format!("string {}", self.watched[i].timer.name);
        let request =
            if span > Nanos::ZERO { Request::Lock(name, span) } else { Request::Unlock(name) };
        let _ = self.shared.ask(request).await;
    }

    /// A line about each connected timer, if the configuration wants any, and whether anybody is still subscribed.
    fn health(&mut self, now: RawTime) {
        let every = self.health_every();
        let lines = self.config.bluetooth.health_report_interval > Nanos::ZERO;
        self.health_due = None;
        for (i, w) in self.watched.iter().enumerate().filter(|(_, w)| w.link.is_listening()) {
            self.health_due = Some(now + every);
            if lines {
                let tally = w.bay.strings().tally();
                let ago = w.heard.map(|h| (now - h.0).as_secs_f64().round());
                info!(
                    TIMER = w.timer.name.as_str(),
                    FRAMES = tally.frames,
                    UNKNOWN = tally.unknown,
                    WARNINGS = tally.warnings,
                    "{} is connected, {} frames, last heard {}",
                    w.timer.name,
                    tally.frames,
                    ago.map_or_else(|| "never".to_owned(), |s| format!("{s} s ago"))
                );
            }
            let Some(bluez) = &self.bluez else { continue };
            let device = w.link.device.as_deref().unwrap_or("");
            let Some(path) = bluez.tree.characteristic(device, true).map(str::to_owned) else {
                continue;
            };
            let (caller, done) = (bluez.caller(), self.done.clone());
            tokio::task::spawn_local(async move {
                let _ = done.send(Done::Notifying(i, caller.is_notifying(&path).await));
            });
        }
        // It may push nothing: then its list is the only witness.
        let push_check = self.push_check();
        let reports = |span: Nanos| span.get() / every.get().max(1);
        let is_quiet = |w: &Watched| {
            let Stage::Listening(since) = w.link.stage else { return false };
            let span = now - since;
            !w.bay.strings().has_pushed()
                && span >= push_check
                && reports(span) % reports(push_check).max(1) == 0
        };
        let quiet = self.watched.iter().enumerate().filter(|(_, w)| is_quiet(w));
        let quiet: Vec<usize> = quiet.map(|(i, _)| i).collect();
        for i in quiet {
            self.write(i, REQ_STRING.into(), None);
        }
        self.publish();
    }

    /// Writes a command to a timer.
    fn write(&mut self, i: usize, text: String, back: Option<oneshot::Sender<Value>>) {
        self.last_write = Some(self.now());
        if text == REQ_STRING {
            let now = self.now();
            self.watched[i].bay.list_asked(now);
        }
        if self.pretend.is_some() {
            self.pretend_told(&text, self.now());
            let _ = self.done.send(Done::Wrote(i, text, Ok(()), back));
            return;
        }
        let device = self.watched[i].link.device.clone().unwrap_or_default();
        let path = self.bluez.as_ref().and_then(|b| {
            b.tree.characteristic(&device, false).map(|p| (p.to_owned(), b.caller()))
        });
        let Some((path, caller)) = path else {
            if let Some(back) = back {
                let _ = back.send(refusal("the timer cannot be written to", None));
            }
            return;
        };
        let done = self.done.clone();
        tokio::task::spawn_local(async move {
            let result = caller.write(&path, text.as_bytes()).await;
            let _ = done.send(Done::Wrote(i, text, result, back));
        });
    }

    /// Strings go to disk between strings, on another thread: arrivals are stamped on this one.
    fn save(&mut self) {
        if !self.kept.dirty || self.saving || self.running() {
            return;
        }
        if let Some(save) = self.kept.to_save() {
            self.saving = true;
            let done = self.done.clone();
            tokio::task::spawn_local(async move {
                let saved = tokio::task::spawn_blocking(save).await;
                let _ = done.send(Done::Saved(saved.unwrap_or_else(|e| Err(e.to_string()))));
            });
        }
    }

    fn save_now(&mut self) {
        if self.kept.dirty
            && let Some(save) = self.kept.to_save()
            && let Err(e) = save()
        {
            warn!("strings are not kept on disk: {e}");
        }
    }

    /// The timers as the status shows them.
    fn publish(&self) {
        let now = self.now();
        let general = self.trouble.as_deref();
        let timers = self.watched.iter().map(|w| w.status(now, general)).collect();
        self.shared.publish_timers(timers);
    }
}
