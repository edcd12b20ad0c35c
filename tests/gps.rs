//! A receiver beside us: the socket of chrony's SOCK protocol, fed as gpsd feeds it. The clock of
//! this machine is not touched: the daemon only watches.
#![allow(clippy::disallowed_methods, reason = "a test's patience is measured in real time")]
use leadville_timesync::config::Config;
use serde_json::Value;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, thread};

const PROGRAM: &str = env!("CARGO_BIN_EXE_leadville-timesync");

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One second as gpsd sends it: struct timeval, double offset, int pulse, leap, padding, magic.
fn second(offset_s: f64, pulse: i32) -> [u8; 40] {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut bytes = [0; 40];
    bytes[0..8].copy_from_slice(&(now.as_secs() as i64).to_ne_bytes());
    bytes[8..16].copy_from_slice(&i64::from(now.subsec_micros()).to_ne_bytes());
    bytes[16..24].copy_from_slice(&offset_s.to_ne_bytes());
    bytes[24..28].copy_from_slice(&pulse.to_ne_bytes());
    bytes[36..40].copy_from_slice(&0x534f_434b_i32.to_ne_bytes());
    bytes
}

fn status(socket: &Path) -> Option<Value> {
    let out =
        Command::new(PROGRAM).args(["status", "--json", "--socket"]).arg(socket).output().unwrap();
    serde_json::from_slice(&out.stdout).ok()
}

/// A daemon that watches, with nothing but a receiver at `sock`.
struct Beside {
    folder: tempfile::TempDir,
    socket: PathBuf,
    sock: PathBuf,
    _daemon: Running,
}

impl Beside {
    fn new(sock: &str) -> Self {
        Self::within(tempfile::tempdir().unwrap(), sock)
    }

    fn within(folder: tempfile::TempDir, sock: &str) -> Self {
        let (socket, sock) = (folder.path().join("timesync.sock"), folder.path().join(sock));
        let config = folder.path().join("timesync.toml");
        let text = format!(
            "[ntp]\nenabled = false\n[clock]\nsteer = false\n[state]\ndirectory = \"{}\"\n\
             [control]\nsocket = \"{}\"\ngroup = \"\"\n[gps]\nsock = \"{}\"\n\
             uncertainty = \"5ms\"\n",
            folder.path().display(),
            socket.display(),
            sock.display()
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(PROGRAM)
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        Self { folder, socket, sock, _daemon: Running(child) }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// gpsd's end, once our socket is there.
    fn gpsd(&self) -> UnixDatagram {
        let gpsd = UnixDatagram::unbound().unwrap();
        self.until("there is a socket", || gpsd.connect(&self.sock).ok());
        gpsd
    }

    /// The only source, in JSON.
    fn source(&self) -> Option<Value> {
        Some(status(&self.socket)?["servers"][0].clone())
    }

    fn until<T>(&self, what: &str, mut so: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = so() {
                return found;
            }
            let late = began.elapsed() > Duration::from_secs(40);
            assert!(!late, "not so: {what}\n{:#?}\n{}", status(&self.socket), self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn seconds_of_gpsd_are_a_source_with_the_bound_such_a_receiver_deserves() {
    let daemon = Beside::new("gps.sock");
    let gpsd = daemon.gpsd();
    // Nonsense does no harm.
    for bytes in [&[][..], &[0; 39], &[0xff; 40], &[0; 64], &[0; 9_000]] {
        let _ = gpsd.send(bytes);
    }
    let mut n = 0;
    let known = daemon.until("it follows the receiver", || {
        // One in ten is wild, as when the machine was busy.
        let wild = if n % 10 == 7 { 0.3 } else { 0.0 };
        gpsd.send(&second(0.250 + wild, 0)).unwrap();
        n += 1;
        let known = status(&daemon.socket)?;
        (known["state"] == "synchronised" && known["sync_count"].as_u64() >= Some(3))
            .then_some(known)
    });
    let offset = known["offset_us"].as_f64().unwrap();
    println!("{:+.1} µs beside what gpsd said", offset - 250_000.0);
    assert!((offset - 250_000.0).abs() < 100.0, "{offset} µs");
    let bound = known["error_bound_us"].as_f64().unwrap();
    assert!((5_000.0..20_000.0).contains(&bound), "{bound} µs: what the receiver is worth");
    let source = &known["servers"][0];
    assert_eq!((&source["name"], &source["role"]), (&"GPS".into(), &"selected".into()));
    assert_eq!(source["reference_id"], "GPS");
    assert_eq!(known["verified"], false, "one receiver is no second opinion");
    assert!(known["packets"].as_u64() < Some(20), "seconds are gathered: {known:#}");
}

/// The reason that `sources` has for not using the receiver.
fn reason(source: &Value) -> Option<String> {
    source["why"].as_str().map(str::to_owned)
}

#[test]
fn a_socket_that_cannot_be_opened_is_said_in_status_and_journal() {
    let nowhere = Beside::new("no/such/folder/gps.sock");
    let folder = tempfile::tempdir().unwrap();
    let _other = UnixDatagram::bind(folder.path().join("gps.sock")).unwrap();
    let taken = Beside::within(folder, "gps.sock");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("gps.sock"), "somebody's file").unwrap();
    let file = Beside::within(folder, "gps.sock");
    for (daemon, why) in
        [(&nowhere, "No such file"), (&taken, "another program listens there"), (&file, "in use")]
    {
        let said = daemon.until("the source is named", || daemon.source().and_then(|s| reason(&s)));
        assert!(said.contains("gps.sock") && said.contains(why), "{said}");
        assert!(daemon.log().contains("gpsd cannot reach us at"), "{}", daemon.log());
    }
    assert_eq!(fs::read_to_string(&file.sock).unwrap(), "somebody's file");
}

#[test]
fn what_a_daemon_that_is_gone_has_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    drop(UnixDatagram::bind(folder.path().join("gps.sock")).unwrap());
    let daemon = Beside::within(folder, "gps.sock");
    daemon.gpsd();
}

#[test]
fn a_receiver_that_does_not_know_the_time_or_speaks_otherwise_is_named() {
    let daemon = Beside::new("gps.sock");
    let gpsd = daemon.gpsd();
    let mut unsure = second(0.25, 0);
    unsure[28..32].copy_from_slice(&3_i32.to_ne_bytes());
    let rollover = second(-1024.0 * 7.0 * 86_400.0, 0);
    for (datagram, why) in [
        (&unsure[..], "server is not synchronised"),
        (&[0; 32], "wrong length"),
        (&rollover[..], "date outside"),
    ] {
        daemon.until(why, || {
            gpsd.send(datagram).unwrap();
            let said = daemon.source().and_then(|s| reason(&s))?;
            said.contains(why).then_some(())
        });
    }
    let status = status(&daemon.socket).unwrap();
    assert_eq!(status["state"], "unsynchronised", "{status:#}");
    let hint = status["hints"][0].as_str().unwrap();
    assert!(hint.contains("which cannot be"), "{hint}");
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_its_reason() {
    for (text, why) in [
        ("[gps]\nsock = \"/run/leadville/timesync.sock\"", "it is the control socket"),
        ("[gps]\nsock = \"gps.sock\"", "absolute"),
        ("[gps]\nsock = \"/run/leadville/gps.sock\"\nuncertainty = \"2s\"", "1s"),
        ("[gps]\nsocket = \"/run/leadville/gps.sock\"", "sock"),
        ("[serve]\nenabled = true\nallow = []", "nobody is answered"),
        ("[serve]\nlisten = \"123\"", "listen"),
        ("[serve]\nallow = [\"192.168.4.0/33\"]", "33"),
        ("[serve]\nper_minute = 0", "6000"),
    ] {
        let error = Config::parse(text, "timesync.toml").unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn by_default_there_is_no_receiver_and_nobody_is_served() {
    let defaults = Config::default();
    assert!(defaults.gps.sock.as_os_str().is_empty() && !defaults.serve.enabled);
}
