//! The real daemon with timers: simulated ones over its control socket, and Bluetooth that is not there.
#![allow(clippy::disallowed_methods, reason = "a test waits for real time")]
mod standin;

use leadville_timesync::os::control::Client;
use serde_json::{Value, json};
use standin::StandIn;
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
fn bus(dir: &Path, policy: &str) -> (Ended, String) {
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
    let bus = bus.spawn().expect("there is no dbus-daemon here: tests/setup.sh installs it");
    (Ended(bus), address)
}

#[test]
fn without_bluetoothd_status_says_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, address) = bus(dir.path(), "");
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
    let (_bus, address) = bus(dir.path(), policy);
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

/// Listens to the stand-in's timer.
const TO_STAND_IN: &str = "[ntp]\nservers = [\"127.0.0.1:9\"]\n[bluetooth]\nenabled = true\n\
    reconnect_at_most = \"1s\"\n\
    [[timer]]\nname = \"Bay 1\"\naddress = \"60:09:C3:00:DC:1A\"\n";

fn until(what: &str, limit: Duration, wanted: impl Fn() -> bool) {
    let start = Instant::now();
    while !wanted() {
        assert!(start.elapsed() < limit, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The timer is listened to, and what it says is heard.
fn frames_are_heard(daemon: &Daemon, bluez: &StandIn, what: &str) {
    let frames = |t: &Value| t["frames"].as_u64().unwrap();
    daemon.until(what, |t| t["connected"] == true);
    let before = frames(&daemon.timer());
    bluez.say("0105000000000000000000000001");
    daemon.until(what, |t| frames(t) > before);
}

/// What was set up for a test, in the order of its end.
struct Bench {
    daemon: Daemon,
    bluez: StandIn,
    _bus: Ended,
    _dir: tempfile::TempDir,
}

/// A stand-in so prepared, and a daemon with that under `[bluetooth]` that looks after the link every second.
fn bench(more: &str, prepare: impl FnOnce(&mut standin::State)) -> Bench {
    bench_with("1s", more, prepare)
}

fn bench_with(report: &str, more: &str, prepare: impl FnOnce(&mut standin::State)) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let (bus, address) = bus(dir.path(), "");
    let bluez = StandIn::start(&address, prepare);
    let more = format!("[bluetooth]\nhealth_report_interval = \"{report}\"\n{more}\n");
    let config = TO_STAND_IN.replace("[bluetooth]\n", &more);
    Bench { daemon: Daemon::start(&[], &config, &address), bluez, _bus: bus, _dir: dir }
}

/// The same, each in a thread of its own: every one waits for time-outs.
fn at_once(names: &'static [&'static str], test: fn(&'static str)) {
    let threads: Vec<_> =
        names.iter().map(|name| (name, std::thread::spawn(move || test(name)))).collect();
    for (name, thread) in threads {
        assert!(thread.join().is_ok(), "{name}");
    }
}

#[test]
fn a_call_that_is_never_answered_is_given_up_and_made_again() {
    at_once(
        &[
            "GetManagedObjects",
            "SetDiscoveryFilter",
            "StartDiscovery",
            "Connect",
            "StartNotify",
            "Disconnect",
        ],
        |name| {
            let out_of_sight = name.contains("Discovery");
            let Bench { daemon, bluez, .. } = &bench("", |state| {
                state.mute.insert(name.to_owned());
                state.in_reach = !out_of_sight;
                // A link that is of no use is ended.
                state.resolves = name != "Disconnect";
            });
            until(name, 2 * LONG, || bluez.calls(name).len() >= 2);
            let calls = bluez.calls(name);
            let waited = (calls[1] - calls[0]).as_secs_f64();
            // Ten seconds, twenty for Connect, and a pause.
            let given = if name == "Connect" { 20.0 } else { 10.0 };
            assert!(
                (given - 0.5..given + 20.0).contains(&waited),
                "{name}: again after {waited} s"
            );
            {
                let mut state = bluez.state();
                state.mute.clear();
                (state.in_reach, state.resolves) = (true, true);
            }
            if out_of_sight {
                bluez.adapter(true);
            }
            frames_are_heard(daemon, bluez, name);
            println!("{name}: made again after {waited:.1} s");
        },
    );
}

#[test]
fn a_call_that_is_never_answered_holds_nothing_else_up() {
    at_once(&["StopDiscovery", "GetAll", "Get", "WriteValue", "StopNotify"], |name| {
        // StopNotify is asked for after a silence, StopDiscovery after a scan.
        let silence = if name == "StopNotify" { "silence = \"1s\"" } else { "" };
        let scans = name == "StopDiscovery";
        let Bench { daemon, bluez, .. } = &bench(silence, |state| {
            state.mute.insert(name.to_owned());
            state.in_reach = !scans;
        });
        if scans {
            until("a scan", LONG, || !bluez.calls("StartDiscovery").is_empty());
            bluez.state().in_reach = true;
            bluez.adapter(true);
        }
        frames_are_heard(daemon, bluez, name);
        if name == "WriteValue" {
            // A string runs, and still the operator is told.
            let (code, text) = daemon.says(&["timer", "send", "REQ SCREEN HEX"]);
            assert_eq!((code, text.contains("does not answer")), (Some(1), true), "{text}");
            bluez.say("0103010100e500e500e500e50001");
            daemon.until("a shot while a call is open", |t| t["frames"].as_u64().unwrap() >= 2);
            bluez.state().mute.clear();
            let (code, text) = daemon.says(&["timer", "send", "REQ SCREEN TEXT"]);
            assert_eq!(code, Some(0), "{text}");
            until("the command", LONG, || {
                bluez.state().written.contains(&"REQ SCREEN TEXT".into())
            });
        }
        if name == "Get" {
            // Nobody says whether anybody is subscribed: in doubt once more.
            until("subscribed again", LONG, || bluez.calls("StartNotify").len() >= 2);
            frames_are_heard(daemon, bluez, name);
        }
        if name == "StopNotify" {
            // While a string runs nothing is touched.
            bluez.say("0108010100e500e500e500e50001");
            until("subscribed again", LONG, || bluez.calls("StartNotify").len() >= 2);
            let waited = bluez.calls("StartNotify")[1] - bluez.calls("StopNotify")[0];
            assert!((9.5..25.0).contains(&waited.as_secs_f64()), "{waited:?}");
        }
    });
}

#[test]
fn a_subscription_that_somebody_ended_is_made_again() {
    let Bench { daemon, bluez, .. } = &bench("", |_| {});
    frames_are_heard(daemon, bluez, "first");
    let before = bluez.calls("StartNotify").len();
    bluez.state().notifying = false;
    until("subscribed again", LONG, || bluez.calls("StartNotify").len() > before);
    let again = *bluez.calls("StartNotify").last().unwrap();
    frames_are_heard(daemon, bluez, "again");
    // No scan, no second link for it.
    assert_eq!(bluez.calls("Connect").len(), 1);
    let asked = bluez.calls("Get").into_iter().rfind(|at| *at < again).unwrap();
    assert!(again - asked < Duration::from_secs(3), "{:?} after it was seen", again - asked);
}

#[test]
fn after_a_silence_the_subscription_is_made_anew() {
    let Bench { daemon, bluez, .. } = &bench("silence = \"4s\"", |_| {});
    // The string is over: while one runs nothing is touched.
    frames_are_heard(daemon, bluez, "first");
    bluez.say("0108010100e500e500e500e50001");
    daemon.until("the stop", |t| t["frames"].as_u64().unwrap() >= 2);
    let heard = Instant::now();
    // bluetoothd says that all is well, and delivers nothing.
    bluez.state().delivers = false;
    bluez.say("0105000000000000000000000002");
    until("the old subscription ended", LONG, || !bluez.calls("StopNotify").is_empty());
    bluez.state().delivers = true;
    until("subscribed anew", LONG, || {
        let ended = bluez.calls("StopNotify")[0];
        bluez.calls("StartNotify").iter().any(|at| *at > ended)
    });
    let waited = (bluez.calls("StopNotify")[0] - heard).as_secs_f64();
    assert!((3.0..15.0).contains(&waited), "{waited} s");
    frames_are_heard(daemon, bluez, "again");
    assert_eq!(bluez.calls("Connect").len(), 1);
    // The link was there all the while: one line says so.
    let log = daemon.log();
    assert_eq!(log.matches("Bay 1 is listened to").count(), 1, "{log}");
    assert_eq!(log.matches("the link to Bay 1 is gone").count(), 0, "{log}");
}

#[test]
fn without_lines_about_the_link_its_subscription_is_looked_after_all_the_same() {
    // So short, the look comes every five seconds instead of ten minutes.
    let Bench { daemon, bluez, .. } = &bench_with("0s", "silence = \"5s\"", |_| {});
    daemon.until("connected", |t| t["connected"] == true);
    // Heard until shortly before the look: silence would be noticed later, and by other calls.
    let up = Instant::now();
    while up.elapsed() < Duration::from_millis(3500) {
        frames_are_heard(daemon, bluez, "a frame");
        std::thread::sleep(Duration::from_millis(200));
    }
    let before = bluez.calls("StartNotify").len();
    bluez.state().notifying = false;
    until("subscribed again", LONG, || bluez.calls("StartNotify").len() > before);
    assert!(bluez.calls("StopNotify").is_empty(), "only the silence was noticed");
    assert!(!daemon.log().contains("last heard"), "{}", daemon.log());
}

#[test]
fn without_an_adapter_status_says_so_and_one_that_comes_is_used() {
    let Bench { daemon, bluez, .. } = &bench("", |state| state.adapter = false);
    let wanted =
        |t: &Value| t["message"].as_str().is_some_and(|m| m.contains("no Bluetooth adapter"));
    daemon.until("the adapter is missed", wanted);
    bluez.adapter(true);
    frames_are_heard(daemon, bluez, "with an adapter");
    bluez.adapter(false);
    daemon.until("the adapter is missed again", |t| wanted(t) && t["connected"] == false);
    bluez.adapter(true);
    frames_are_heard(daemon, bluez, "with an adapter again");
}

#[test]
fn a_timer_whose_push_is_off_is_asked_for_its_list_and_that_is_said_in_words() {
    // So short, the check comes every two seconds instead of ten minutes.
    let Bench { daemon, bluez, .. } = &bench("silence = \"2s\"", |_| {});
    daemon.until("connected", |t| t["connected"] == true);
    let asked = || bluez.state().written.iter().filter(|w| *w == "REQ STRING HEX").count();
    until("its list is asked for", LONG, || asked() >= 1);
    // 1.00 s and 2.00 s, the string before.
    bluez.say("0a02006400c8");
    daemon.until("the list", |t| t["frames"].as_u64().unwrap() >= 1);
    assert!(!daemon.timer()["message"].as_str().unwrap_or("").contains("BLE push"));
    // Three shots that nobody was told of.
    let before = asked();
    until("its list is asked for again", LONG, || asked() > before);
    bluez.say("0a03008200be00fa");
    let wanted = |t: &Value| t["message"].as_str().is_some_and(|m| m.contains("turn on BLE push"));
    daemon.until("push off is said", wanted);
}
