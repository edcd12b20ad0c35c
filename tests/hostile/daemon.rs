//! The real daemon, only watching: its clock is never steered, its socket and state are its own.
use leadville_timesync::os::control::Client;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_leadville-timesync");
/// Patience on a machine that has other things to do.
pub const LONG: Duration = Duration::from_secs(40);

/// A place for a daemon: configuration, state, socket and log.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// An empty place.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    pub fn state(&self) -> PathBuf {
        let path = self.path("state");
        std::fs::create_dir_all(&path).expect("a state directory");
        path
    }
    pub fn socket(&self) -> PathBuf {
        self.path("run/timesync.sock")
    }
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path("log")).unwrap_or_default()).into_owned()
    }
    /// Writes a configuration that asks these servers.
    pub fn configure(&self, servers: &[String], more: &str) -> PathBuf {
        let servers: Vec<String> = servers.iter().map(|s| format!("\"{s}\"")).collect();
        self.configure_toml(&servers.join(", "), more)
    }
    /// The same with the servers as TOML.
    pub fn configure_toml(&self, servers: &str, more: &str) -> PathBuf {
        let mut text = format!(
            "[ntp]\nservers = [{servers}]\nsync_interval = \"16s\"\ntimeout = \"1s\"\n\
             [clock]\nsteer = false\n[control]\ngroup = \"\"\n\
             [state]\ndirectory = \"{}\"\n",
            self.path("state").display()
        );
        let _ = writeln!(text, "{more}");
        let path = self.path("timesync.toml");
        std::fs::write(&path, text).expect("a configuration");
        path
    }
    /// The daemon's command line, started by `before` (a program and its arguments) if there is one.
    pub fn command(&self, before: &[&str], config: &Path) -> Command {
        let mut line: Vec<&OsStr> = before.iter().map(OsStr::new).collect();
        let socket = self.socket();
        line.extend([OsStr::new(BINARY), OsStr::new("--socket"), socket.as_os_str()]);
        line.extend([OsStr::new("run"), OsStr::new("--config"), config.as_os_str()]);
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::options().create(true).append(true).open(self.path("log")).unwrap());
        command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
        command.env_remove("WATCHDOG_USEC").process_group(0);
        command
    }
    /// Starts the daemon.
    pub fn start(&self, servers: &[String], more: &str) -> Daemon<'_> {
        let config = self.configure(servers, more);
        self.start_as(&mut self.command(&[], &config))
    }
    pub fn start_as(&self, command: &mut Command) -> Daemon<'_> {
        Daemon { place: self, child: command.spawn().expect("the daemon starts") }
    }
}

/// A running daemon; killed when dropped, judged when stopped.
pub struct Daemon<'a> {
    pub place: &'a Place,
    pub child: Child,
}

impl Daemon<'_> {
    /// Asks the daemon one thing.
    pub fn ask(&self, request: &Value) -> Option<Value> {
        Client::connect(&[self.place.socket()]).ok()?.request(request).ok()
    }
    pub fn status(&self) -> Option<Value> {
        self.ask(&json!({"do": "status"}))
    }
    /// Waits until its status is as wanted; the last status if it never was.
    pub fn until(&self, mut wanted: impl FnMut(&Value) -> bool) -> Result<Value, String> {
        let start = Instant::now();
        let mut last = None;
        while start.elapsed() < LONG {
            if let Some(status) = self.status() {
                if wanted(&status) {
                    return Ok(status);
                }
                last = Some(status);
            }
            std::thread::sleep(Duration::from_millis(150));
        }
        let last = last.map_or_else(String::new, |l| l.to_string());
        Err(format!("not within {LONG:?}; last {last}; log {}", self.place.log()))
    }
    /// Waits until it is in time with its servers.
    pub fn synchronised(&self) -> Result<Value, String> {
        self.until(|s| s["state"] == "synchronised")
    }
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, signal);
    }
    /// Ends it as systemd does, and demands that it ends well.
    pub fn stop(mut self) -> Result<Duration, String> {
        let start = Instant::now();
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let status = self.wait()?;
        let log = self.place.log();
        if !status.success() || log.contains("a defect of this program") {
            return Err(format!("{status}, signal {:?}; log: {log}", status.signal()));
        }
        Ok(start.elapsed())
    }
    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus, String> {
        let start = Instant::now();
        while start.elapsed() < LONG {
            if let Some(status) = self.child.try_wait().map_err(|e| e.to_string())? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("it does not end".into())
    }
    /// Processor time it has had, s.
    pub fn processor_time(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let text = text.unwrap_or_default();
        let after = text.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One row of a table, judged at the same time as the others.
pub struct Row {
    pub name: String,
    pub judge: Box<dyn FnOnce() -> Result<(), String> + Send>,
}

/// Judges all rows at once and names each that fails.
pub fn every(rows: Vec<Row>) {
    let names: Vec<String> = rows.iter().map(|r| r.name.clone()).collect();
    let running: Vec<_> = rows.into_iter().map(|r| std::thread::spawn(r.judge)).collect();
    let mut failed = String::new();
    for (name, thread) in names.iter().zip(running) {
        let result = thread.join().unwrap_or_else(|_| Err("panicked".into()));
        if let Err(why) = result {
            let _ = writeln!(failed, "\n  {name}: {why}");
        }
    }
    assert!(failed.is_empty(), "of {} rows these failed:{failed}", names.len());
}
