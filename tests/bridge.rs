//! The real daemon with timers: simulated ones over its control socket, and Bluetooth that is not there.
#![allow(clippy::disallowed_methods, reason = "a test waits for real time")]
use leadville_timesync::os::control::Client;
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_leadville-timesync");
/// Patience on a machine that has other things to do.
const LONG: Duration = Duration::from_secs(60);
/// Three quick shots, and soon again.
const COURSE: &str = "[simulation]\nmode = \"custom_sequence\"\n\
    custom_sequence = [\"0.81s\", \"1.27s\", \"1.6s\"]\nstart_delay = \"1s\"\nstring_interval = \"5s\"\n";

/// A process that is killed when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running daemon that never touches this machine's clock.
struct Daemon {
    dir: tempfile::TempDir,
    _child: Ended,
}

impl Daemon {
    fn start(arguments: &[&str], config: &str, bus: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("timesync.toml");
        let state = dir.path().join("state");
        let text = format!(
            "[clock]\nsteer = false\n[control]\ngroup = \"\"\n[state]\ndirectory = \"{}\"\n{config}",
            state.display()
        );
        std::fs::write(&path, text).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("--socket").arg(dir.path().join("s")).arg("run").args(arguments);
        command.arg("--config").arg(&path).env("DBUS_SYSTEM_BUS_ADDRESS", bus);
        command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { _child: Ended(command.spawn().unwrap()), dir }
    }
    fn simulated() -> Self {
        Self::start(&["--simulate", "--plain", "--seed", "7"], COURSE, "unix:path=/nonexistent")
    }
    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }
    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
    fn client(&self) -> Client {
        let start = Instant::now();
        loop {
            match Client::connect(&[self.socket()]) {
                Ok(client) => return client,
                Err(e) => assert!(start.elapsed() < LONG, "{e:?}; {}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    fn ask(&self, request: &Value) -> Value {
        self.client().request(request).unwrap()
    }
    fn timer(&self) -> Value {
        self.ask(&json!({"do": "status"}))["timers"][0].clone()
    }
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let timer = self.timer();
            if wanted(&timer) {
                return timer;
            }
            assert!(start.elapsed() < LONG, "not in time: {what}; {timer}; {}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    /// Events from now on, up to the one that is wanted last.
    fn events(&self, last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut client = self.client();
        client.request(&json!({"do": "subscribe"})).unwrap();
        let mut events = Vec::new();
        let start = Instant::now();
        for line in client.lines().unwrap() {
            events.push(line.unwrap());
            if last(events.last().unwrap()) {
                return events;
            }
            assert!(start.elapsed() < LONG, "not in time; {events:?}");
        }
        panic!("the daemon has ended: {}", self.log());
    }
    fn says(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(BINARY);
        let output = command.arg("--socket").arg(self.socket()).args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }
}

fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["event"] == "timer" && e["type"] == kind).collect()
}

#[test]
fn a_string_is_told_as_it_is_shot_and_holds_the_clock_still() {
    let daemon = Daemon::simulated();
    let events = daemon.events(|e| e["event"] == "unlock" && e["name"] == "string timer");
    let at = |wanted: &dyn Fn(&Value) -> bool| events.iter().position(wanted);
    let locked = at(&|e| e["event"] == "lock" && e["name"] == "string timer").unwrap();
    let stopped = at(&|e| e["type"] == "stop").unwrap();
    assert!(locked < stopped && stopped < events.len() - 1, "{events:?}");

    let string = of(&events, "stop")[0];
    let number = &string["string_number"];
    assert_eq!((&string["shots"], &string["cut_short"]), (&json!(3), &json!(false)));
    let shots = of(&events, "shot_final");
    let times: Vec<f64> = shots.iter().map(|s| s["time_s"].as_f64().unwrap()).collect();
    assert_eq!(times, [0.81, 1.27, 1.6]);
    let splits: Vec<i64> = shots.iter().map(|s| s["split_ms"].as_i64().unwrap()).collect();
    assert_eq!(splits, [810, 460, 330]);
    for shot in &shots {
        assert_eq!((&shot["source"], &shot["string_number"]), (&json!("amg"), number));
        assert_eq!(shot["calibrated"], false);
        let utc = shot["utc_ns"].as_i64().unwrap();
        assert_eq!(shot["t_ms"].as_i64(), Some(utc / 1_000_000));
        assert!(shot["utc"].as_str().unwrap().ends_with('Z'));
        // d0 is not known: its range is in the bound.
        let bound = shot["bound_us"].as_f64().unwrap();
        assert!((60_000.0..300_000.0).contains(&bound), "{bound}");
        assert!(shot["raw_ns"].is_i64() && shot["monotonic_ns"].is_i64());
    }
    // Told while it was shot, and better in the end.
    assert!(of(&events, "shot").iter().all(|s| s["provisional"] == true));
    assert!(!of(&events, "shot").is_empty() && !of(&events, "start").is_empty());
    let sync = of(&events, "clock_sync");
    assert_eq!(sync.len(), 1, "{events:?}");
    let ms = |key: &str| sync[0][key].as_f64().unwrap();
    assert!((ms("device_time_ms") - ms("host_time_ms") - ms("delta_ms")).abs() < 0.01);
    assert!((-300.0..20.0).contains(&ms("delta_ms")), "{}", sync[0]);
}

#[test]
fn who_was_away_is_told_everything_once() {
    let daemon = Daemon::simulated();
    daemon.events(|e| e["type"] == "stop");
    daemon.events(|e| e["type"] == "stop");
    let reply = daemon.ask(&json!({"do": "timer-events", "since": null}));
    let events = reply["events"].as_array().unwrap().clone();
    let strings = of(&events, "string");
    assert!(strings.len() >= 2, "{reply}");
    assert_eq!(of(&events, "shot").len(), strings.len() * 3);
    assert!(reply["next"].is_null());
    let order: Vec<i64> = strings.iter().map(|s| s["seq"].as_i64().unwrap()).collect();
    assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    // The command says the same.
    let (code, text) = daemon.says(&["timer", "events", "--since", "1h", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let told: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(told[..events.len()], events[..]);
    // Of a time to come there is nothing.
    let (code, text) = daemon.says(&["timer", "events", "--since", "2040-01-01T00:00:00Z"]);
    assert_eq!((code, text.as_str()), (Some(0), ""));
    let (code, text) = daemon.says(&["timer", "events", "--since", "yesterday"]);
    assert_eq!(code, Some(2), "{text}");
    // It follows, too.
    let mut command = Command::new(BINARY);
    command.arg("--socket").arg(daemon.socket());
    command.args(["timer", "events", "--follow", "--since", "1h"]).stdout(Stdio::piped());
    let mut follower = Ended(command.spawn().unwrap());
    let lines = std::io::BufRead::lines(std::io::BufReader::new(follower.0.stdout.take().unwrap()));
    let stops = lines.map_while(Result::ok).filter(|line| line.contains("timer  stop  string"));
    assert!(stops.into_iter().next().is_some());
}

#[test]
fn commands_are_checked_and_told() {
    let daemon = Daemon::simulated();
    daemon.events(|e| e["type"] == "stop");
    let (code, text) = daemon.says(&["timer", "send", "SET SENSITIVITY 11"]);
    assert_eq!(code, Some(2), "{text}");
    let refused = daemon.ask(&json!({"do": "timer-send", "command": "FORMAT C"}));
    assert_eq!(refused["reply"], "error", "{refused}");
    let (code, text) = daemon.says(&["timer", "send", "SET SENSITIVITY 05"]);
    assert_eq!((code, text.as_str()), (Some(0), "timer was told SET SENSITIVITY 05\n"));
    let too_soon = daemon.ask(&json!({"do": "timer-send", "command": "REQ SETTINGS"}));
    let again = daemon.ask(&json!({"do": "timer-send", "command": "REQ SETTINGS"}));
    assert!(too_soon["reply"] == "error" || again["reply"] == "error", "{too_soon} {again}");
    let absent =
        daemon.ask(&json!({"do": "timer-send", "command": "REQ SETTINGS", "timer": "Bay 12"}));
    assert_eq!(absent["error"], "no such timer");
    // While a string runs nothing is set.
    daemon.events(|e| e["type"] == "start");
    let (code, text) = daemon.says(&["timer", "send", "SET BEEP VOLUME 1"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("a string is running"), "{text}");
    let (code, text) = daemon.says(&["timer", "scan", "--for", "1s"]);
    assert_eq!((code, text.contains("SIMULATED")), (Some(0), true), "{text}");
    let (code, text) = daemon.says(&["timer", "status"]);
    assert_eq!((code, text.starts_with("timer: connected")), (Some(0), true), "{text}");
}

#[test]
fn a_calibrated_timer_says_so_and_its_bound_shrinks() {
    let daemon = Daemon::simulated();
    let before = daemon.events(|e| e["type"] == "stop");
    let (code, text) = daemon.says(&["timer", "calibrate", "--d0", "40ms", "--bound", "3ms"]);
    assert_eq!(code, Some(0), "{text}");
    let after = daemon.events(|e| e["type"] == "stop");
    let bound = |events: &[Value]| of(events, "stop")[0]["bound_us"].as_f64().unwrap();
    assert_eq!(of(&after, "stop")[0]["calibrated"], true);
    assert!(bound(&after) < bound(&before) - 40_000.0, "{} {}", bound(&after), bound(&before));
    let timer = daemon.timer();
    assert_eq!((&timer["calibrated"], &timer["d0_ms"]), (&json!(true), &json!(40.0)));
    // The truth of two shots, from another device: what was told, 12 ms earlier.
    let reply = daemon.ask(&json!({"do": "timer-events", "since": null}));
    let shots: Vec<Value> = of(reply["events"].as_array().unwrap(), "shot")
        .into_iter()
        .filter(|s| s["calibrated"] == true)
        .take(2)
        .cloned()
        .collect();
    let pairs: String = shots.iter().fold(String::new(), |text, s| {
        let utc = s["utc_ns"].as_i64().unwrap() - 12_000_000;
        let utc = leadville_timesync::units::UtcTime::from_nanos(utc).iso(9);
        text + &format!("{},{},{utc}\n", s["string_number"], s["shot_number"])
    });
    let file = daemon.dir.path().join("pairs.csv");
    std::fs::write(&file, format!("string,shot,utc\n{pairs}")).unwrap();
    let (code, text) = daemon.says(&["timer", "calibrate", "--pairs", file.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    // 40 + 12, and half a hundredth, which the timer cuts off in the mean.
    assert!(text.contains("57.0 ms"), "{text}");
    let (code, _) = daemon.says(&["timer", "calibrate", "--forget"]);
    assert_eq!(code, Some(0));
    assert_eq!(daemon.timer()["calibrated"], false);
    let (code, text) = daemon.says(&["timer", "calibrate"]);
    assert_eq!(code, Some(2), "{text}");
}

/// Without an answer from any server, so that nothing but the timers is said.
const LISTENING: &str = "[ntp]\nservers = [\"127.0.0.1:9\"]\n[bluetooth]\nenabled = true\n";

#[test]
fn without_a_bus_status_says_what_is_missing() {
    let daemon = Daemon::start(&[], LISTENING, "unix:path=/nonexistent/bus");
    let timer = daemon
        .until("the bus is missed", |t| t["message"].as_str().is_some_and(|m| m.contains("D-Bus")));
    assert_eq!(timer["connected"], false, "{timer}");
    let (code, text) = daemon.says(&["timer", "scan", "--for", "1s"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("dbus"), "{text}");
    let (code, text) = daemon.says(&["timer", "send", "REQ SETTINGS"]);
    assert_eq!(code, Some(1), "{text}");
    let (code, text) = daemon.says(&["timer", "events"]);
    assert_eq!((code, text.as_str()), (Some(0), ""));
    assert_eq!(daemon.log().matches("no D-Bus system bus").count(), 1, "{}", daemon.log());
}

/// A bus of our own with that in its policy beside everything else allowed, and its address; `None` where
/// there is no dbus-daemon.
fn bus(dir: &Path, policy: &str) -> Option<(Ended, String)> {
    let address = format!("unix:path={}", dir.join("bus").display());
    let config = dir.join("bus.conf");
    let text = format!(
        "<busconfig><type>system</type><listen>{address}</listen><policy context=\"default\">\
         <allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\" eavesdrop=\"true\"/>\
         <allow eavesdrop=\"true\"/>{policy}</policy></busconfig>"
    );
    std::fs::write(&config, text).unwrap();
    let mut bus = Command::new("dbus-daemon");
    bus.arg(format!("--config-file={}", config.display())).args(["--nofork", "--nopidfile"]);
    bus.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(bus) = bus.spawn() else {
        eprintln!("not tested: there is no dbus-daemon here");
        return None;
    };
    Some((Ended(bus), address))
}

#[test]
fn without_bluetoothd_status_says_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some((bus, address)) = bus(dir.path(), "") else { return };
    let daemon = Daemon::start(&[], LISTENING, &address);
    let wanted =
        |t: &Value| t["message"].as_str().is_some_and(|m| m.contains("systemctl start bluetooth"));
    daemon.until("bluetoothd is missed", wanted);
    // The bus itself goes.
    drop(bus);
    daemon
        .until("the bus is missed", |t| t["message"].as_str().is_some_and(|m| m.contains("D-Bus")));
}

#[test]
fn without_permission_status_names_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let policy = "<deny send_destination=\"org.bluez\"/>";
    let Some((_bus, address)) = bus(dir.path(), policy) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Somebody is there, and may not be spoken to.
    let owner = runtime.block_on(async {
        for _ in 0..100 {
            let begun = zbus::connection::Builder::address(address.as_str());
            match begun.name("org.bluez").build().await {
                Ok(owner) => return Some(owner),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        None
    });
    assert!(owner.is_some(), "nobody can own org.bluez on this bus");
    let daemon = Daemon::start(&[], LISTENING, &address);
    let wanted = |t: &Value| t["message"].as_str().is_some_and(|m| m.contains("group bluetooth"));
    let timer = daemon.until("the permission is missed", wanted);
    assert_eq!(timer["connected"], false, "{timer}");
}

#[test]
fn with_bluetooth_off_there_is_no_timer_and_that_is_said() {
    let config = "[ntp]\nservers = [\"127.0.0.1:9\"]\n[bluetooth]\nenabled = false\n";
    let daemon = Daemon::start(&[], config, "unix:path=/nonexistent/bus");
    daemon.client();
    let (code, text) = daemon.says(&["timer", "status"]);
    assert_eq!((code, text.contains("enabled = true")), (Some(0), true), "{text}");
    let (code, text) = daemon.says(&["timer", "scan", "--for", "1s"]);
    assert_eq!(code, Some(1), "{text}");
}
