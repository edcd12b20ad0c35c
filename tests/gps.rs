//! A receiver beside us: the socket of chrony's SOCK protocol, fed as gpsd feeds it. The clock of
//! this machine is not touched: the daemon only watches.
#![allow(clippy::disallowed_methods, reason = "a test's patience is measured in real time")]
use serde_json::Value;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
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

#[test]
fn seconds_of_gpsd_are_a_source_with_the_bound_such_a_receiver_deserves() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, sock) = (folder.path().join("timesync.sock"), folder.path().join("gps.sock"));
    let config = folder.path().join("timesync.toml");
    let text = format!(
        "[ntp]\nenabled = false\n[clock]\nsteer = false\n[state]\ndirectory = \"{}\"\n[control]\n\
         socket = \"{}\"\ngroup = \"\"\n[gps]\nsock = \"{}\"\nuncertainty = \"5ms\"\n",
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
    let _daemon = Running(child);
    let began = Instant::now();
    let gpsd = UnixDatagram::unbound().unwrap();
    while gpsd.connect(&sock).is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "there is no socket");
        thread::sleep(Duration::from_millis(50));
    }
    // Nonsense does no harm.
    for bytes in [&[][..], &[0; 39], &[0xff; 40], &[0; 64], &[0; 9_000]] {
        let _ = gpsd.send(bytes);
    }
    let mut n = 0;
    let known = loop {
        // One in ten is wild, as when the machine was busy.
        let wild = if n % 10 == 7 { 0.3 } else { 0.0 };
        gpsd.send(&second(0.250 + wild, 0)).unwrap();
        n += 1;
        thread::sleep(Duration::from_millis(100));
        let heard = status(&socket).filter(|s| s["state"] == "synchronised");
        if let Some(status) = heard.filter(|s| s["sync_count"].as_u64() >= Some(3)) {
            break status;
        }
        let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        assert!(began.elapsed() < Duration::from_secs(40), "{:#?}\n{}", status(&socket), log());
    };
    let offset = known["offset_us"].as_f64().unwrap();
    assert!((offset - 250_000.0).abs() < 1_000.0, "{offset} µs");
    let bound = known["error_bound_us"].as_f64().unwrap();
    assert!((5_000.0..20_000.0).contains(&bound), "{bound} µs: what the receiver is worth");
    let source = &known["servers"][0];
    assert_eq!((&source["name"], &source["role"]), (&"GPS".into(), &"selected".into()));
    assert_eq!(source["reference_id"].as_str().map(|id| id.starts_with("71.80")), Some(true));
    assert_eq!(known["verified"], false, "one receiver is no second opinion");
    assert!(known["packets"].as_u64() < Some(20), "seconds are gathered: {known:#}");
}

#[test]
fn without_a_receiver_there_is_no_socket() {
    let defaults = leadville_timesync::config::Config::default();
    assert!(defaults.gps.sock.as_os_str().is_empty() && !defaults.serve.enabled);
}
