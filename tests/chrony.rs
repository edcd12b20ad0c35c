//! Against real servers: chronyd from Debian's package, on loopback, never touching this
//! machine's clock (`-x`). `make test` fetches it; `tests/chronyd.sh` says where it is.
#![allow(clippy::disallowed_methods, reason = "a test's patience is measured in real time")]
use serde_json::Value;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{fs, thread};

const PROGRAM: &str = env!("CARGO_BIN_EXE_leadville-timesync");

fn chronyd() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chronyd.sh");
        let out = Command::new(script).output().expect("tests/chronyd.sh runs");
        assert!(
            out.status.success(),
            "these tests need Debian's chronyd, which is missing: `make test` fetches it ({})",
            String::from_utf8_lossy(&out.stderr).trim()
        );
        PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
    })
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Ends what it started.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A chronyd and where it answers.
struct Server {
    _process: Running,
    port: u16,
}

impl Server {
    fn start(folder: &Path, source: &str) -> Self {
        let port = free_port();
        let (conf, log) = (folder.join(format!("{port}.conf")), folder.join(format!("{port}.log")));
        let pid = folder.join(format!("{port}.pid"));
        let text = format!(
            "port {port}\nbindaddress 127.0.0.1\nallow 127.0.0.0/8\ncmdport 0\nbindcmdaddress /\npidfile {}\n{source}\n",
            pid.display()
        );
        fs::write(&conf, text).unwrap();
        let mut command = Command::new(chronyd());
        command.args(["-x", "-d"]);
        if nix::unistd::getuid().is_root() {
            command.args(["-u", "root"]); // Debian's own user is not there when it is not installed
        } else {
            command.arg("-U");
        }
        let out = fs::File::create(&log).unwrap();
        let process = command
            .arg("-f")
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("chronyd starts");
        let server = Self { _process: Running(process), port };
        let began = Instant::now();
        while !server.serves() {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "chronyd does not serve: {}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Serves this machine's own time, as stratum 1.
    fn honest(folder: &Path) -> Self {
        Self::start(folder, "local stratum 1")
    }

    /// Follows another one, and is wrong by so much.
    fn liar(folder: &Path, of: &Self, seconds: f64) -> Self {
        let source = format!(
            "server 127.0.0.1 port {} offset {seconds} iburst minpoll 0 maxpoll 2",
            of.port
        );
        Self::start(folder, &source)
    }

    /// It answers, and says that it is synchronised.
    fn serves(&self) -> bool {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut packet = [0; 48];
        packet[0] = 0x23;
        packet[47] = 1;
        socket.connect(("127.0.0.1", self.port)).unwrap();
        socket.send(&packet).is_ok()
            && matches!(socket.recv(&mut packet), Ok(48))
            && packet[0] >> 6 != 3
            && (1..16).contains(&packet[1])
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn query(servers: &[&Server]) -> (Output, Value) {
    let out = Command::new(PROGRAM)
        .args(["query", "--json", "--count", "4", "--timeout", "2s"])
        .args(servers.iter().map(|s| s.address()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text} {}", String::from_utf8_lossy(&out.stderr)));
    (out, value)
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} is no number in {value:#}"))
}

/// The daemon, watching only.
struct Monitor {
    _process: Running,
    socket: PathBuf,
    log: PathBuf,
}

impl Monitor {
    fn start(folder: &Path, servers: &[&Server]) -> Self {
        let (socket, log) = (folder.join("timesync.sock"), folder.join("daemon.log"));
        let config = folder.join("timesync.toml");
        let list: Vec<_> = servers
            .iter()
            .enumerate()
            .map(|(i, s)| {
                format!("{{ address = \"{}\", operator = \"operator {i}\" }}", s.address())
            })
            .collect();
        let text = format!(
            "[ntp]\nservers = [{}]\nsync_interval = \"16s\"\ntimeout = \"2s\"\n[clock]\nsteer = false\n\
             [state]\ndirectory = \"{}\"\n[control]\nsocket = \"{}\"\ngroup = \"\"\n",
            list.join(", "),
            folder.display(),
            socket.display()
        );
        fs::write(&config, text).unwrap();
        let out = fs::File::create(&log).unwrap();
        let process = without_the_right_to_set_the_clock()
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("the daemon starts");
        Self { _process: Running(process), socket, log }
    }

    fn status(&self) -> Option<Value> {
        let out = Command::new(PROGRAM)
            .args(["status", "--json", "--socket"])
            .arg(&self.socket)
            .output()
            .unwrap();
        serde_json::from_slice(&out.stdout).ok()
    }

    fn until(&self, sentence: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let status = self.status();
            if let Some(status) = status.as_ref().filter(|s| condition(s)) {
                return status.clone();
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "not within a minute: {sentence}\n{status:#?}\n{}",
                fs::read_to_string(&self.log).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The configuration says `steer = false`; root also gives the right away, so that not even a
/// defect reaches the clock of the machine that runs the tests.
fn without_the_right_to_set_the_clock() -> Command {
    if !nix::unistd::getuid().is_root() {
        return Command::new(PROGRAM);
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_time", "--inh-caps", "-sys_time", PROGRAM]);
    command
}

fn of<'a>(status: &'a Value, server: &Server) -> &'a Value {
    let servers = status["servers"].as_array().expect("servers is a list");
    let address = Value::from(server.address());
    servers
        .iter()
        .find(|s| s["address"] == address || s["name"] == address)
        .unwrap_or_else(|| panic!("{} is not in {status:#}", server.address()))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn query_agrees_with_chronyd_within_1_ms() {
    let dir = folder();
    let server = Server::honest(dir.path());
    let (out, answer) = query(&[&server]);
    assert!(out.status.success(), "{answer:#}");
    let offset = number(&answer, "offset_us");
    assert!(offset.abs() < 1_000.0, "{offset} µs from a server that serves this very clock");
}

#[test]
fn query_sees_the_300_ms_of_a_server_that_is_so_far_ahead() {
    let dir = folder();
    let honest = Server::honest(dir.path());
    let (out, answer) = query(&[&Server::liar(dir.path(), &honest, 0.3)]);
    assert!(out.status.success(), "{answer:#}");
    let offset = number(&answer, "offset_us");
    // Positive: true − ours, we are behind it.
    assert!((offset - 300_000.0).abs() < 1_000.0, "{offset} µs");
}

#[test]
fn query_of_four_tells_what_each_one_says() {
    let dir = folder();
    let honest: Vec<_> = (0..3).map(|_| Server::honest(dir.path())).collect();
    let liar = Server::liar(dir.path(), &honest[0], 0.3);
    let (out, answer) = query(&[&honest[0], &liar, &honest[1], &honest[2]]);
    assert!(out.status.success(), "{answer:#}");
    for server in &honest {
        assert!(number(of(&answer, server), "offset_us").abs() < 1_000.0, "{answer:#}");
    }
    assert!((number(of(&answer, &liar), "offset_us") - 300_000.0).abs() < 1_000.0, "{answer:#}");
}

#[test]
fn the_monitoring_daemon_agrees_with_chronyd_within_1_ms() {
    let dir = folder();
    let servers: Vec<_> = (0..4).map(|_| Server::honest(dir.path())).collect();
    let daemon = Monitor::start(dir.path(), &servers.iter().collect::<Vec<_>>());
    let status = daemon.until("four servers in use", |s| {
        s["state"] == "synchronised"
            && s["servers"].as_array().is_some_and(|all| {
                all.len() == 4 && all.iter().all(|server| server["role"] == "selected")
            })
    });
    let offset = number(&status, "offset_us");
    assert!(offset.abs() < 1_000.0, "{offset} µs from servers that serve this very clock");
    assert_eq!(status["steering"], false, "it must only watch");
    assert_eq!(status["verified"], true, "four operators agree: {status:#}");
    assert!(status["steps"] == 0 && status["steering_why"].is_string(), "{status:#}");
}

#[test]
fn one_of_four_made_300_ms_wrong_is_left_out_for_that_reason_and_named() {
    let dir = folder();
    let honest: Vec<_> = (0..3).map(|_| Server::honest(dir.path())).collect();
    let liar = Server::liar(dir.path(), &honest[0], 0.3);
    let daemon = Monitor::start(dir.path(), &[&honest[0], &honest[1], &liar, &honest[2]]);
    let status = daemon.until("the liar is outvoted", |s| {
        s["state"] == "synchronised" && of(s, &liar)["role"] == "falseticker"
    });
    let offset = number(&status, "offset_us");
    assert!(offset.abs() < 1_000.0, "{offset} µs: the liar has a part in it");
    let why = of(&status, &liar)["why"].as_str().unwrap_or_default();
    let by = why.strip_suffix(" ms away from the majority").and_then(|ms| ms.parse().ok());
    let said = by.is_some_and(|ms: f64| (ms - 300.0).abs() < 1.0);
    assert!(said, "the reason says by how much: {why:?}");
    let seen = number(of(&status, &liar), "offset_us");
    assert!((seen - 300_000.0).abs() < 1_000.0, "{seen} µs");
    // A person reads the name and the reason.
    let out =
        Command::new(PROGRAM).args(["sources", "--socket"]).arg(&daemon.socket).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(&liar.address()));
    assert!(line.is_some(), "sources does not name {}:\n{text}", liar.address());
    assert!(text.contains(why), "sources does not say why:\n{text}");
}
