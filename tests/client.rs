//! The library's side of the control socket, against the running daemon; the examples with it.
#![allow(clippy::disallowed_methods, reason = "a test waits for another process")]
use leadville_timesync::client::{Error, Happened, TimeSynchronizer};
use leadville_timesync::units::Nanos;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

#[path = "../examples/shots.rs"]
#[allow(dead_code, reason = "its main is for cargo run")]
mod shots;
#[path = "../examples/watch_clock.rs"]
#[allow(dead_code, reason = "its main is for cargo run")]
mod watch_clock;

struct Daemon {
    folder: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    fn socket(&self) -> PathBuf {
        self.folder.path().join("timesync.sock")
    }

    fn spawn(folder: &std::path::Path) -> Child {
        Command::new(env!("CARGO_BIN_EXE_leadville-timesync"))
            .arg("--socket")
            .arg(folder.join("timesync.sock"))
            .args(["run", "--simulate", "--plain"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Self { child: Self::spawn(folder.path()), folder };
        let time = TimeSynchronizer::builder().socket(daemon.socket()).build();
        until(60, || time.status().is_ok_and(|s| s.corrected_utc_ns.is_some()));
        daemon
    }

    fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

fn until(seconds: u64, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !done() {
        assert!(Instant::now() < end, "not within {seconds} s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn it_answers_what_the_daemon_answers() {
    let daemon = Daemon::start();
    let time = TimeSynchronizer::builder().socket(daemon.socket()).build();
    let status = time.status().unwrap();
    let now = time.corrected_time().unwrap();
    let known = status.corrected_utc_ns.unwrap();
    assert!((now.utc.as_nanos() - known).abs() < 1_000_000_000, "{now:?} against {known}");
    assert_eq!(time.sources().unwrap().len(), 4);
    assert!(!time.history().unwrap().is_empty());

    let before = time.status().unwrap().sync_count;
    let after = time.force_sync().unwrap().sync_count;
    assert!(after > before, "{before} then {after} measurements");

    let events = time.events().unwrap();
    time.lock("match", Duration::from_secs(60)).unwrap();
    time.unlock("match").unwrap();
    let of_match = |what: &Happened| matches!(what, Happened::Lock(name) | Happened::Unlock(name) if name == "match");
    let seen: Vec<_> = events.map(|e| e.what).filter(of_match).take(2).collect();
    assert_eq!(seen, [Happened::Lock("match".into()), Happened::Unlock("match".into())]);
    assert!(matches!(time.unlock("match"), Err(Error::Refused { .. })));
}

#[test]
fn a_shot_is_dated_by_the_example() {
    let daemon = Daemon::start();
    let time = TimeSynchronizer::builder().socket(daemon.socket()).build();
    let events = time.events().unwrap();
    let stop = events.stopper().unwrap();
    let (tell, told) = mpsc::channel();
    let listener = std::thread::spawn(move || {
        events.filter_map(|e| shots::shot(&e)).for_each(|line| tell.send(line).unwrap_or(()));
    });
    // The simulated shooter begins a string now and then.
    let line = told.recv_timeout(Duration::from_secs(60)).expect("no shot in a minute");
    assert!(line.contains(" shot ") && line.contains("Z, ± "), "{line}");
    stop();
    listener.join().unwrap();
}

#[test]
fn callbacks_come_over_a_restart_of_the_daemon_and_end_with_their_owner() {
    let mut daemon = Daemon::start();
    let (tell, told) = mpsc::channel();
    let time = watch_clock::watch(TimeSynchronizer::builder())
        .socket(daemon.socket())
        .drift_threshold(Nanos::new(1)) // everything is above it: one alert, not one per look
        .on_sync({
            let tell = tell.clone();
            move |status| drop(tell.send(format!("sync {}", status.verdict)))
        })
        .on_drift_alert(move |offset| drop(tell.send(format!("alert {offset}"))))
        .build();
    let first = told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(first.starts_with("alert"), "{first}");
    assert!(told.recv_timeout(Duration::from_secs(20)).unwrap().starts_with("sync"));
    daemon.stop();
    daemon.child = Daemon::spawn(daemon.folder.path());
    let again = Instant::now();
    let mut lines = Vec::new();
    until(60, || {
        let known = lines.len();
        lines.extend(told.try_iter());
        lines.len() > known && again.elapsed() > Duration::from_secs(3)
    });
    drop(time);
    // The callbacks are gone, and their sender with them: nothing is told any more.
    lines.extend(told.iter());
    assert!(lines.iter().all(|line| line.starts_with("sync")), "one alert per episode: {lines:?}");
}
