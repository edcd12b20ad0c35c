//! Serving time, by real clients and by those who mean harm; the clock of this machine is never
//! touched: the daemon only watches, and chronyd runs with `-Q`, which measures and ends.
#![allow(clippy::disallowed_methods, reason = "a test's patience is measured in real time")]
use leadville_timesync::engine::packet::{self, ntp};
use leadville_timesync::units::{Nanos, UtcTime};
use serde_json::Value;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, thread};

const PROGRAM: &str = env!("CARGO_BIN_EXE_leadville-timesync");

/// Ends what it started.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A daemon that serves, and only watches its own clock.
struct Daemon {
    _process: Running,
    _folder: tempfile::TempDir,
    socket: PathBuf,
    log: PathBuf,
    port: u16,
}

impl Daemon {
    fn start(servers: &[String], serve: &str) -> Self {
        Self::start_by(servers, serve, |program, _| {
            let mut command = Command::new(program[0]);
            command.args(&program[1..]);
            command
        })
    }

    /// `launch` makes the command from the program's words and the port.
    fn start_by(servers: &[String], serve: &str, launch: impl Fn(&[&str], u16) -> Command) -> Self {
        let daemon = Self::launch_by(servers, serve, launch);
        let _ = daemon.until("it serves", |s| s["serve"]["listen"].is_array());
        daemon
    }

    fn launch_by(
        servers: &[String],
        serve: &str,
        launch: impl Fn(&[&str], u16) -> Command,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (socket, log) = (folder.path().join("timesync.sock"), folder.path().join("log"));
        let (config, port) = (folder.path().join("timesync.toml"), free_port());
        let list: Vec<String> = servers.iter().map(|s| format!("\"{s}\"")).collect();
        let text = format!(
            "[ntp]\nenabled = {}\nservers = [{}]\nsync_interval = \"16s\"\ntimeout = \"2s\"\n\
             [clock]\nsteer = false\n[state]\ndirectory = \"{}\"\n[control]\nsocket = \"{}\"\n\
             group = \"\"\n[serve]\nenabled = true\nlisten = \"127.0.0.1:{port}\"\n\
             allow = [\"127.0.0.1\"]\n{serve}\n",
            !servers.is_empty(),
            list.join(", "),
            folder.path().display(),
            socket.display(),
        );
        fs::write(&config, text).unwrap();
        let config = config.display().to_string();
        let run = ["run", "--config", &config];
        // Root also gives the right away, so that not even a defect reaches this machine's clock.
        let mut words = vec!["setpriv", "--bounding-set", "-sys_time", "--inh-caps", "-sys_time"];
        if !nix::unistd::getuid().is_root() {
            words.clear();
        }
        words.push(PROGRAM);
        words.extend(run);
        let out = fs::File::create(&log).unwrap();
        let process = launch(&words, port)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("the daemon starts");
        Self { _process: Running(process), _folder: folder, socket, log, port }
    }

    fn tell(&self, args: &[&str]) -> Output {
        Command::new(PROGRAM).args(args).arg("--socket").arg(&self.socket).output().unwrap()
    }

    fn until(&self, sentence: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let out = self.tell(&["status", "--json"]);
            let status: Option<Value> = serde_json::from_slice(&out.stdout).ok();
            if let Some(status) = status.filter(&condition) {
                return status;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "not within a minute: {sentence}\n{}\n{}",
                String::from_utf8_lossy(&out.stdout),
                fs::read_to_string(&self.log).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Somebody says what time it is, truly.
    fn told_by_hand(&self) {
        let now = utc().iso(3);
        let out = self.tell(&["set-time", &now, "--uncertainty", "500ms"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    fn ask(&self) -> Option<[u8; 48]> {
        Client::new("127.0.0.1:0", self).ask(0x23)
    }
}

fn utc() -> UtcTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    UtcTime::from_nanos(since.as_nanos() as i64)
}

/// The simplest client, as an ESP32 has: one datagram out, one in.
struct Client(UdpSocket);

impl Client {
    fn new(from: &str, daemon: &Daemon) -> Self {
        let socket = UdpSocket::bind(from).unwrap();
        socket.connect(daemon.address()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        Self(socket)
    }

    fn send(&self, bytes: &[u8]) {
        let _ = self.0.send(bytes);
    }

    fn hear(&self) -> Option<[u8; 48]> {
        let mut buffer = [0; 256];
        let length = self.0.recv(&mut buffer).ok()?;
        assert_eq!(length, 48, "never more out than in");
        buffer[..48].try_into().ok()
    }

    fn ask(&self, first: u8) -> Option<[u8; 48]> {
        let mut request = [0; 48];
        request[0] = first;
        request[40..48].copy_from_slice(&ntp(utc()).to_be_bytes());
        self.send(&request);
        let reply = self.hear()?;
        assert_eq!(reply[24..32], request[40..48], "our own transmit time comes back");
        Some(reply)
    }
}

fn chronyd() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chronyd.sh");
    let out = Command::new(script).output().expect("tests/chronyd.sh runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
}

/// chronyd measures once, prints, and ends: `-Q` never touches the clock.
fn chronyd_measures(folder: &Path, port: u16) -> f64 {
    let mut command = Command::new(chronyd());
    command.args(["-Q", "-t", "20"]);
    if nix::unistd::getuid().is_root() {
        command.args(["-u", "root"]);
    } else {
        command.arg("-U");
    }
    let out = command
        .arg(format!("server 127.0.0.1 port {port} iburst maxsamples 4"))
        .arg(format!("pidfile {}", folder.join("q.pid").display()))
        .arg("cmdport 0")
        .arg("bindcmdaddress /")
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    let wrong = text.split("System clock wrong by ").nth(1).and_then(|t| t.split(' ').next());
    wrong.and_then(|w| w.parse().ok()).unwrap_or_else(|| panic!("chronyd does not use us: {text}"))
}

/// A chronyd that serves this machine's own time, as stratum 1.
fn honest(folder: &Path) -> (Running, String) {
    let (port, conf) = (free_port(), folder.join("honest.conf"));
    let text = format!(
        "port {port}\nbindaddress 127.0.0.1\nallow 127.0.0.0/8\ncmdport 0\nbindcmdaddress /\n\
         pidfile {}\nlocal stratum 1\n",
        folder.join("honest.pid").display()
    );
    fs::write(&conf, text).unwrap();
    let mut command = Command::new(chronyd());
    command.args(["-x", "-d"]);
    if nix::unistd::getuid().is_root() {
        command.args(["-u", "root"]);
    } else {
        command.arg("-U");
    }
    command.arg("-f").arg(&conf).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    (Running(command.spawn().expect("chronyd starts")), format!("127.0.0.1:{port}"))
}

#[test]
fn real_clients_take_our_time_and_see_what_it_is_worth() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, address) = honest(folder.path());
    let daemon = Daemon::start(std::slice::from_ref(&address), "per_minute = 6000");
    let status = daemon.until("it follows chronyd", |s| s["serve"]["stratum"] == 2);
    let error_us = status["max_error_us"].as_f64().unwrap();
    // A bare client.
    let reply = packet::parse(&daemon.ask().expect("an answer"), utc()).unwrap();
    assert_eq!((reply.stratum, reply.reference_id), (2, [127, 0, 0, 1]));
    assert!((reply.t3 - utc()).abs() < Nanos::from_millis(50));
    let root_us = reply.root_distance().as_micros_f64();
    assert!(root_us > 10.0 && root_us < error_us + 1_000.0, "{root_us} µs, ours {error_us}");
    // Version 3, as old clients speak.
    assert_eq!(Client::new("127.0.0.1:0", &daemon).ask(0x1b).unwrap()[0] >> 3 & 7, 3);
    // chronyd.
    let wrong = chronyd_measures(folder.path(), daemon.port);
    assert!(wrong.abs() < 0.001, "{wrong} s from a server that serves this very clock");
    // Our own.
    let out = Command::new(PROGRAM)
        .args(["query", "--json", "--count", "4", &daemon.address()])
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    let offset = json["offset_us"].as_f64().unwrap();
    assert!(offset.abs() < 1_000.0, "{json:#}");
    // A second daemon, one stratum below.
    let second = Daemon::start(&[daemon.address()], "");
    let status = second.until("it follows ours", |s| s["serve"]["stratum"] == 3);
    assert!(status["offset_us"].as_f64().unwrap().abs() < 1_000.0, "{status:#}");
    // What was answered was counted.
    let status = daemon.until("all are counted", |s| s["serve"]["answered"].as_u64() >= Some(10));
    assert_eq!(status["serve"]["strangers"], 0);
    let text = String::from_utf8(daemon.tell(&["status"]).stdout).unwrap();
    assert!(text.contains("Serving  on 127.0.0.1:"), "{text}");
}

/// In a network of its own, where port 123 is free and ours to take.
#[test]
fn debians_own_sntp_client_takes_our_time() {
    let found = Command::new("ntpdig").arg("--version").output();
    assert!(found.is_ok(), "ntpdig is missing: `make test` installs Debian's ntpsec-ntpdig");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("timesync.toml");
    let socket = folder.path().join("timesync.sock");
    let text = format!(
        "[ntp]\nenabled = false\n[clock]\nsteer = false\n[state]\ndirectory = \"{0}\"\n[control]\n\
         socket = \"{1}\"\ngroup = \"\"\n[serve]\nenabled = true\nlocal = true\nallow = [\"127.0.0.1\"]\n",
        folder.path().display(),
        socket.display()
    );
    fs::write(&config, text).unwrap();
    let script = format!(
        "ip link set lo up && {{ {PROGRAM} run --config {config} 2>{folder}/log & }}; daemon=$!\n\
         trap 'kill $daemon' EXIT\n\
         for i in $(seq 100); do [ -S {socket} ] && break; sleep 0.1; done\n\
         {PROGRAM} --socket {socket} set-time $(date -u +%Y-%m-%dT%H:%M:%S.%3NZ) --uncertainty 500ms\n\
         ntpdig -j -t 2 127.0.0.1",
        config = config.display(),
        socket = socket.display(),
        folder = folder.path().display(),
    );
    let mut command = Command::new("unshare");
    command.args(if nix::unistd::getuid().is_root() { &["-n"][..] } else { &["-rn"] });
    let out = command.args(["sh", "-c", &script]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let json = said.lines().find_map(|l| serde_json::from_str::<Value>(l).ok());
    let json = json.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&out.stderr)));
    assert_eq!(json["stratum"], 10, "{json:#}");
    assert!(json["offset"].as_f64().unwrap().abs() < 0.1, "{json:#}");
}

#[test]
fn without_a_time_there_is_silence_and_with_somebodys_word_stratum_10() {
    let daemon = Daemon::start(&[], "local = true\nper_minute = 6000");
    daemon.told_by_hand();
    daemon.until("it serves the word", |s| s["serve"]["stratum"] == 10);
    let reply = packet::parse(&daemon.ask().expect("an answer"), utc()).unwrap();
    assert_eq!(reply.stratum, 10);
    assert_eq!(reply.reference_id[..2], [127, 127]);
    assert!(reply.root_dispersion >= Nanos::from_millis(500), "{}", reply.root_dispersion);
    // A neighbour follows, and does not call it UTC.
    let neighbour = Daemon::start(&[daemon.address()], "local = true");
    let status = neighbour.until("it follows", |s| s["state"] == "synchronised");
    assert_eq!((&status["verified"], &status["serve"]["stratum"]), (&false.into(), &11.into()));
    assert!(status["error_bound_us"].as_f64().unwrap() >= 500_000.0, "{status:#}");
    // Who is not asked to lead says nothing of a word, or of nothing.
    let quiet = Daemon::start(&[], "");
    assert_eq!(quiet.ask(), None);
    quiet.told_by_hand();
    quiet.until("the word is in force", |s| s["by_hand"].is_object());
    assert_eq!(quiet.ask(), None);
    quiet.until("both were counted", |s| s["serve"]["no_time"] == 2);
}

#[test]
fn hostile_requests_get_silence_and_the_next_honest_one_its_answer() {
    let daemon = Daemon::start(&[], "local = true\nper_minute = 6000");
    daemon.told_by_hand();
    daemon.until("it serves", |s| s["serve"]["stratum"] == 10);
    let client = Client::new("127.0.0.1:0", &daemon);
    let mut sent = 0;
    let mut send = |bytes: &[u8]| {
        client.send(bytes);
        sent += 1;
        if sent % 100 == 0 {
            thread::sleep(Duration::from_millis(20)); // not the kernel's queue is on trial
        }
    };
    for length in (0..48).chain(49..=52).chain([68, 72, 96, 1_400, 9_000, 65_507]) {
        let mut bytes = vec![0; length];
        if let Some(first) = bytes.first_mut() {
            *first = 0x23;
        }
        send(&bytes);
    }
    for first in 0..=255_u8 {
        let (version, mode) = (first >> 3 & 7, first & 7);
        if mode == 3 && (version == 3 || version == 4) {
            continue;
        }
        let mut bytes = [0xa5; 48];
        bytes[0] = first;
        send(&bytes);
    }
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..2_000 {
        let mut bytes = [0; 48];
        for byte in &mut bytes {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (noise >> 56) as u8;
        }
        if bytes[0] & 7 != 3 {
            send(&bytes);
        }
    }
    assert_eq!(client.hear(), None);
    // From a network that is not allowed.
    let stranger = Client::new("127.0.0.2:0", &daemon);
    assert_eq!(stranger.ask(0x23), None);
    assert!(client.ask(0x23).is_some(), "and then an honest one");
    let status = daemon.until("all were counted", |s| {
        s["serve"]["malformed"].as_u64() >= Some(sent - 50) && s["serve"]["strangers"] == 1
    });
    assert_eq!(status["serve"]["answered"], 1);
}

#[test]
fn who_asks_too_often_is_answered_a_few_times_only() {
    let daemon = Daemon::start(&[], "local = true\nper_minute = 6");
    daemon.told_by_hand();
    daemon.until("it serves", |s| s["serve"]["stratum"] == 10);
    let client = Client::new("127.0.0.1:0", &daemon);
    client.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let answered = (0..40).filter(|_| client.ask(0x23).is_some()).count();
    assert!((6..=7).contains(&answered), "{answered}");
    daemon.until("it is counted", |s| s["serve"]["too_often"].as_u64() >= Some(30));
}

#[test]
fn a_port_that_is_taken_is_said_in_status_and_journal() {
    let taken = std::cell::OnceCell::new();
    let daemon = Daemon::launch_by(&[], "", |program, port| {
        taken.set(UdpSocket::bind(("127.0.0.1", port)).unwrap()).unwrap();
        let mut command = Command::new(program[0]);
        command.args(&program[1..]);
        command
    });
    let status = daemon.until("it runs", |s| s["hints"].is_array());
    let hints = status["hints"].to_string();
    assert!(hints.contains("no time is served"), "{hints}");
    let log = fs::read_to_string(&daemon.log).unwrap();
    assert!(log.contains("no time is served on 127.0.0.1:") && log.contains("in use"), "{log}");
}

#[test]
fn a_socket_that_systemd_holds_is_used_instead_of_our_own() {
    // As systemd does it: the socket as descriptor 3, and to whom it belongs.
    let daemon = Daemon::start_by(&[], "local = true", |program, port| {
        let script = "import os, socket, sys\n\
                      s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                      s.bind(('127.0.0.9', int(sys.argv[1])))\n\
                      os.dup2(s.fileno(), 3)\n\
                      os.set_inheritable(3, True)\n\
                      os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n\
                      os.execvp(sys.argv[2], sys.argv[2:])";
        let mut command = Command::new("python3");
        command.args(["-c", script, &port.to_string()]).args(program);
        command
    });
    daemon.told_by_hand();
    let status = daemon.until("it serves", |s| s["serve"]["stratum"] == 10);
    let place = format!("127.0.0.9:{}", daemon.port);
    assert_eq!(status["serve"]["listen"], serde_json::json!([place]));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.send_to(&packet::request(7), &place).unwrap();
    let mut reply = [0; 48];
    let (length, from) = socket.recv_from(&mut reply).expect("an answer");
    assert_eq!((length, from.to_string()), (48, place));
}
