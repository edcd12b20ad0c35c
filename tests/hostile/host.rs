//! What disk, clients, limits, signals and neighbours can do to the real daemon.
use crate::alone::{alone, disk};
use crate::daemon::{BINARY, Daemon, Place, Row, every};
use crate::server::Liar;
use leadville_timesync::os::control::Client;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

type Judged = Result<(), String>;

fn row(name: impl Into<String>, judge: impl FnOnce() -> Judged + Send + 'static) -> Row {
    Row { name: name.into(), judge: Box::new(judge) }
}

fn right(right: bool, otherwise: impl FnOnce() -> String) -> Judged {
    if right { Ok(()) } else { Err(otherwise()) }
}

fn hints(status: &Value) -> String {
    let all = status["hints"].as_array().into_iter().flatten().filter_map(Value::as_str);
    all.collect::<Vec<_>>().join(" ")
}

/// Its answers go on being used.
fn goes_on(daemon: &Daemon<'_>) -> Judged {
    let replies = |s: &Value| s["servers"][0]["replies"].as_u64().unwrap_or(0);
    let before = replies(&daemon.synchronised()?);
    daemon.ask(&json!({"do": "sync-now"}));
    daemon.until(|s| replies(s) > before && s["state"] == "synchronised").map(|_| ())
}

// ── state files ──────────────────────────────────────────────────────────────────────────────

const FILES: [&str; 3] = ["drift", "addresses", "record-2026-11-25"];

/// What is in place of a state file.
enum Content {
    Bytes(Vec<u8>),
    Link,
    Directory,
    Pipe,
    Stranger,
}

/// A content, and whether the operator must be told.
fn contents() -> Vec<(&'static str, bool, Content)> {
    let text = |t: &str| Content::Bytes(t.as_bytes().to_vec());
    let crystal = |f: &str, sd: &str| {
        text(&format!(
            "{{\"crystal\":{{\"frequency_ppm\":{f},\"sd_ppm\":{sd},\"wander\":[1e308,-1e308],\
             \"thermal\":[]}},\"mark_s\":null,\"steps\":[]}}"
        ))
    };
    vec![
        ("an empty file", true, text("")),
        ("nan", true, text("nan")),
        ("a crystal of NaN", true, crystal("NaN", "1")),
        ("a crystal of infinity", true, crystal("1e999", "1")),
        ("a crystal of 1e308", false, crystal("1e308", "1e308")),
        ("a crystal of no doubt", false, crystal("-12.5", "0")),
        (
            "marks and steps beyond all time",
            false,
            text(
                "{\"crystal\":null,\"mark_s\":9223372036854775807,\"steps\":\
                 [{\"at_s\":-9223372036854775808,\"span_ns\":-9223372036854775808}]}",
            ),
        ),
        ("a mark of 2080", false, text("{\"crystal\":null,\"mark_s\":3471292800,\"steps\":[]}")),
        ("a number too large for any number", true, text("{\"mark_s\":99999999999999999999}")),
        ("two megabytes", true, Content::Bytes(vec![b'1'; 2 << 20])),
        ("noise", true, Content::Bytes((0..999_u32).map(|n| ((n * n * 7) >> 3) as u8).collect())),
        (
            "a file of a newer version",
            false,
            text(
                "{\"v\":99,\"crystal\":{\"frequency_ppm\":1.5,\"sd_ppm\":1,\"wander\":[],\
                 \"thermal\":[],\"quartz\":{\"cut\":\"AT\"}},\"mark_s\":null,\"steps\":[],\
                 \"of_the_future\":[1,{}]}",
            ),
        ),
        (
            "a file whose fields mean something else now",
            true,
            text("{\"v\":99,\"crystal\":[1,2],\"mark_s\":\"2030-01-01\",\"steps\":{}}"),
        ),
        ("a torn file", true, text("{\"crystal\":{\"frequency_ppm\":1.2")),
        ("a symbolic link", true, Content::Link),
        ("a directory", true, Content::Directory),
        ("a pipe", true, Content::Pipe),
        ("another user's file", true, Content::Stranger),
    ]
}

fn lay(content: &Content, path: &Path, precious: &Path) {
    match content {
        Content::Bytes(bytes) => fs::write(path, bytes).unwrap(),
        Content::Link => symlink(precious, path).unwrap(),
        Content::Directory => fs::create_dir(path).unwrap(),
        Content::Pipe => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        Content::Stranger => {
            fs::write(path, "{}").unwrap();
            // Where this is not allowed the file is simply empty of knowledge.
            let _ = std::os::unix::fs::chown(path, Some(12_345), None);
        }
    }
}

#[test]
fn no_state_file_keeps_the_daemon_from_the_right_time_or_hurts_another_file() {
    let rows = contents().into_iter().map(|(name, told, content)| {
        row(name, move || {
            let place = Place::new();
            let (state, precious) = (place.state(), place.path("precious"));
            fs::write(&precious, "precious").unwrap();
            for file in FILES {
                lay(&content, &state.join(file), &precious);
            }
            if !matches!(content, Content::Bytes(_)) {
                lay(&content, &state.join("clock"), &precious);
            }
            let server = Liar::honest();
            let daemon = place.start(&[server.address.to_string()], "");
            let status = daemon.synchronised()?;
            let stranger =
                matches!(content, Content::Stranger) && !nix::unistd::geteuid().is_root();
            if told && !stranger {
                let log = place.log();
                right(log.contains("drift"), || format!("nothing is said: {status}; log {log}"))?;
            }
            daemon.stop()?;
            right(fs::read_to_string(&precious).unwrap() == "precious", || "overwritten".into())
        })
    });
    every(rows.collect());
}

#[test]
fn a_clock_file_of_any_age_never_sets_a_clock_that_is_right() {
    let days = |n: u64| Duration::from_secs(n * 86_400);
    let epoch = SystemTime::UNIX_EPOCH;
    let dates = [
        ("of 1970", epoch),
        ("of 1900", epoch - days(25_567)),
        ("of tomorrow", SystemTime::now() + days(1)),
        ("of 2200", epoch + days(84_006)),
    ];
    let rows = dates.into_iter().map(|(name, date)| {
        row(name, move || {
            let place = Place::new();
            let file = fs::File::create(place.state().join("clock")).unwrap();
            file.set_modified(date).unwrap();
            let server = Liar::honest();
            let daemon = place.start(&[server.address.to_string()], "");
            let status = daemon.synchronised()?;
            let off = status["offset_us"].as_f64().unwrap_or(f64::MAX).abs();
            right(off < 1e6 && status["steps"] == 0, || format!("{status}"))?;
            daemon.stop()?;
            let kept = fs::metadata(place.state().join("clock")).unwrap().mtime();
            let now = SystemTime::now().duration_since(epoch).unwrap().as_secs().cast_signed();
            right((kept - now).abs() < 60, || format!("the clock file says {kept}, it is {now}"))
        })
    });
    every(rows.collect());
}

/// A state directory on a disk of its own, and the word that the operator must see.
fn on_a_bad_disk(options: &str, spoil: impl Fn(&Path), word: &str) -> Judged {
    if alone().is_none() {
        return Ok(());
    }
    let place = Place::new();
    let state = place.state();
    disk(&state, options);
    spoil(&state);
    let server = Liar::honest();
    let daemon = place.start(&[server.address.to_string()], "");
    let status = daemon.until(|s| s["state"] == "synchronised" && hints(s).contains(word))?;
    right(hints(&status).contains("State:"), || hints(&status))?;
    goes_on(&daemon)?;
    daemon.stop().map(|_| ())
}

#[test]
fn a_disk_that_is_full_read_only_or_not_there_is_said_and_survived() {
    let read_only = |path: &Path| {
        let none: Option<&str> = None;
        let flags = nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(none, path, none, flags, none).unwrap();
    };
    let no_inode = |path: &Path| {
        for n in 0..9 {
            if fs::write(path.join(n.to_string()), "").is_err() {
                return;
            }
        }
        panic!("the disk is not full");
    };
    every(vec![
        row("full", move || on_a_bad_disk("mode=755,nr_inodes=4", no_inode, "no space")),
        row("read-only", move || on_a_bad_disk("mode=755", read_only, "read-only")),
        row("no directory", || {
            let place = Place::new();
            fs::write(place.path("state"), "a file").unwrap();
            let server = Liar::honest();
            let daemon = place.start(&[server.address.to_string()], "");
            let said = |s: &Value| hints(s).contains("nothing is remembered");
            daemon.until(|s| s["state"] == "synchronised" && said(s))?;
            daemon.stop().map(|_| ())
        }),
        row("a directory that others may write to", || {
            let place = Place::new();
            fs::set_permissions(place.state(), fs::Permissions::from_mode(0o777)).unwrap();
            let server = Liar::honest();
            let daemon = place.start(&[server.address.to_string()], "");
            let said = |s: &Value| hints(s).contains("by others");
            daemon.until(|s| s["state"] == "synchronised" && said(s))?;
            daemon.stop().map(|_| ())
        }),
    ]);
}

// ── clients ──────────────────────────────────────────────────────────────────────────────────

/// Every kind of bad manners at once, for some seconds.
fn rude_clients(place: &Place) {
    let open = || UnixStream::connect(place.socket());
    let mut kept = Vec::new();
    for n in 0..1_000_u32 {
        let Ok(mut stream) = open() else { continue };
        let _ = stream.set_write_timeout(Some(Duration::from_millis(50)));
        let _ = match n % 9 {
            0 => stream.write_all(b"{\"do\":"),
            1 => stream.write_all(&vec![b'x'; 1 << 20]),
            2 => stream.write_all(b"\xff\xfe\x00\n"),
            3 => stream.write_all(&b"{\"do\":\"status\"}\n".repeat(100)),
            4 => stream.write_all(b"{\"do\":\"subscribe\"}\n"),
            5 => stream.write_all(&b"[".repeat(60_000)),
            8 => {
                let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
                stream.write_all(format!("{{\"do\":\"status\",\"x\":{deep}}}\n").as_bytes())
            }
            6 => stream.write_all(b"{\"do\":\"stamp\",\"raw_ns\":-9223372036854775808}\n"),
            _ => stream.write_all(b"{\"do\":\"lock\",\"for_s\":1e308}\n\n\n"),
        };
        if n % 3 == 0 {
            kept.push(stream);
        }
    }
}

fn among_rude_clients() -> Judged {
    let (place, server) = (Place::new(), Liar::honest());
    let daemon = place.start(&[server.address.to_string()], "");
    daemon.synchronised()?;
    rude_clients(&place);
    goes_on(&daemon)?;
    let status = daemon.status().ok_or("it does not answer")?;
    right(status["locks"] == json!([]), || format!("locks: {}", status["locks"]))?;
    daemon.stop().map(|_| ())
}

/// Lines of every length, none of them a request, in the unit's environment: without it each length
/// leaves blocks behind for good.
fn after_odd_lines() -> Judged {
    let (place, server) = (Place::new(), Liar::honest());
    let config = place.configure(&[server.address.to_string()], "");
    let unit = include_str!("../../systemd/leadville-timesync.service");
    let said = unit.lines().filter_map(|l| l.strip_prefix("Environment=")?.split_once('='));
    let daemon = place.start_as(place.command(&[], &config).envs(said));
    daemon.synchronised()?;
    let anonymous = || {
        let path = format!("/proc/{}/smaps_rollup", daemon.child.id());
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("Anonymous:"));
        line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok()).ok_or("no figure")
    };
    let odd = |n: usize| {
        let mut client = UnixStream::connect(place.socket()).map_err(|e| e.to_string())?;
        let mut line = vec![0xff; n % 1_000 + 8];
        line.push(b'\n');
        client.write_all(&line).map_err(|e| e.to_string())?;
        let _ = client.read(&mut [0; 512]);
        Ok::<_, String>(())
    };
    (0..32).try_for_each(odd)?;
    let before = anonymous()?;
    (0..2_000).map(|n| n * 37).try_for_each(odd)?;
    let after = anonymous()?;
    right(after <= before + 64, || format!("{before} kB Anonymous before, {after} kB after"))?;
    goes_on(&daemon)?;
    daemon.stop().map(|_| ())
}

fn without_descriptors() -> Judged {
    let (place, server) = (Place::new(), Liar::honest());
    let config = place.configure(&[server.address.to_string()], "");
    let mut command = place.command(&["/usr/bin/prlimit", "--nofile=24:24"], &config);
    let daemon = place.start_as(&mut command);
    daemon.synchronised()?;
    let clients: Vec<_> =
        (0..80).filter_map(|_| UnixStream::connect(place.socket()).ok()).collect();
    let before = server.asked();
    std::thread::sleep(Duration::from_secs(4));
    drop(clients);
    goes_on(&daemon)?;
    right(server.asked() > before, || "asked nobody".into())?;
    let log = place.log();
    right(log.lines().count() < 20, || format!("too much is written: {log}"))?;
    daemon.stop().map(|_| ())
}

/// A subscriber who never reads neither holds up the clock nor is waited for.
fn beside_a_sleeper() -> Judged {
    let (place, server) = (Place::new(), Liar::honest());
    let daemon = place.start(&[server.address.to_string()], "");
    daemon.synchronised()?;
    let mut sleeper = UnixStream::connect(place.socket()).map_err(|e| e.to_string())?;
    sleeper.write_all(b"{\"do\":\"subscribe\"}\n").map_err(|e| e.to_string())?;
    for n in 0..300 {
        let name = format!("n{n}");
        let order = |what: &str| json!({"do": what, "name": name, "for_s": 60});
        daemon.ask(&order("lock")).ok_or("no answer")?;
        daemon.ask(&order("unlock")).ok_or("no answer")?;
    }
    goes_on(&daemon)?;
    let mut read = Vec::new();
    let _ = sleeper.set_read_timeout(Some(Duration::from_millis(300)));
    let _ = sleeper.read_to_end(&mut read);
    right(read.starts_with(b"{"), || "the subscriber was told nothing".into())?;
    daemon.stop().map(|_| ())
}

#[test]
fn clients_with_any_manners_do_not_disturb_the_clock() {
    every(vec![
        row("a thousand rude clients", among_rude_clients),
        row("memory after odd lines", after_odd_lines),
        row("no descriptors left", without_descriptors),
        row("a subscriber who does not read", beside_a_sleeper),
    ]);
}

// ── signals ──────────────────────────────────────────────────────────────────────────────────

fn storm_of_reloads() -> Judged {
    let place = Place::new();
    let liars: Vec<Liar> = (0..3).map(|_| Liar::honest()).collect();
    let names: Vec<String> = liars.iter().map(|l| l.address.to_string()).collect();
    let daemon = place.start(&names[..2], "");
    daemon.synchronised()?;
    for n in 0..200 {
        match n % 4 {
            0 => drop(place.configure(&names[1..], "")),
            1 => fs::write(place.path("timesync.toml"), "[ntp]\nservers = 7\n").unwrap(),
            2 => drop(place.configure(&names[..1], "")),
            _ => fs::write(place.path("timesync.toml"), b"\xff").unwrap(),
        }
        daemon.signal(Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(10));
    }
    place.configure(&names, "");
    daemon.signal(Signal::SIGHUP);
    let shown = |s: &Value| -> Vec<String> {
        let all = s["servers"].as_array().into_iter().flatten();
        let mut names: Vec<String> =
            all.filter_map(|s| s["name"].as_str().map(str::to_owned)).collect();
        names.sort();
        names
    };
    let mut sorted = names.clone();
    sorted.sort();
    let all_used = |s: &Value| {
        let servers = s["servers"].as_array().into_iter().flatten();
        servers.filter(|s| s["role"] == "selected").count() == 3
    };
    daemon.until(|s| shown(s) == sorted && all_used(s))?;
    daemon.stop().map(|_| ())
}

fn told_to_stop_at_any_moment(from: u64) -> Judged {
    for n in from..from + 4 {
        let (place, server) = (Place::new(), Liar::honest());
        let daemon = place.start(&[server.address.to_string()], "");
        // Not before it can hear signals: the kernel's own answer to SIGTERM is no defect.
        let start = Instant::now();
        while !place.log().contains(" runs") && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(10 + n * 67 % 1_500));
        let took = daemon.stop()?;
        right(took < Duration::from_millis(1_500), || format!("stopping took {took:?}"))?;
    }
    Ok(())
}

fn asked_to_die_by_every_signal() -> Judged {
    let (place, server) = (Place::new(), Liar::honest());
    let daemon = place.start(&[server.address.to_string()], "");
    daemon.synchronised()?;
    for signal in [Signal::SIGPIPE, Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGURG] {
        daemon.signal(signal);
    }
    for _ in 0..5 {
        daemon.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(700));
        daemon.signal(Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(200));
    }
    goes_on(&daemon)?;
    let status = daemon.status().ok_or("it does not answer")?;
    let off = status["offset_us"].as_f64().unwrap_or(f64::MAX).abs();
    right(off < 50_000.0, || format!("stopped in the middle it is {off} us off"))?;
    daemon.stop().map(|_| ())
}

#[test]
fn signals_at_any_moment_and_in_any_number_are_obeyed_or_survived() {
    let mut rows = vec![
        row("200 reloads of changing files", storm_of_reloads),
        row("stopped and continued", asked_to_die_by_every_signal),
    ];
    for from in [0, 11, 22, 33, 44] {
        rows.push(row("SIGTERM at any moment", move || told_to_stop_at_any_moment(from)));
    }
    every(rows);
}

// ── rights and neighbours ────────────────────────────────────────────────────────────────────

fn without_the_right() -> Judged {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let (place, server) = (Place::new(), Liar::honest());
    let config = place.configure(&[server.address.to_string()], "");
    let text = fs::read_to_string(&config).unwrap().replace("steer = false", "steer = true");
    fs::write(&config, text).unwrap();
    let drop = ["/usr/bin/setpriv", "--bounding-set", "-sys_time", "--inh-caps", "-sys_time"];
    let daemon = place.start_as(&mut place.command(&drop, &config));
    let status = daemon.synchronised()?;
    let why = status["steering_why"].as_str().unwrap_or_default();
    right(status["steering"] == false && !why.is_empty(), || status.to_string())?;
    right(status["steps"] == 0, || status.to_string())?;
    let step = daemon.ask(&json!({"do": "step"})).ok_or("no answer")?;
    right(step["reply"] == "error", || step.to_string())?;
    daemon.stop().map(|_| ())
}

/// The journal takes the daemon's lines, then is gone.
fn without_a_journal() -> Judged {
    if alone().is_none() {
        return Ok(());
    }
    let (place, server) = (Place::new(), Liar::honest());
    fs::create_dir_all("/run/systemd/journal").map_err(|e| e.to_string())?;
    disk(Path::new("/run/systemd/journal"), "mode=755");
    let journal = UnixDatagram::bind("/run/systemd/journal/socket").map_err(|e| e.to_string())?;
    let config = place.configure(&[server.address.to_string()], "");
    let mut command = place.command(&[], &config);
    let file = fs::metadata(place.path("log")).map_err(|e| e.to_string())?;
    command.env("JOURNAL_STREAM", format!("{}:{}", file.dev(), file.ino()));
    let daemon = place.start_as(&mut command);
    daemon.synchronised()?;
    journal.set_read_timeout(Some(Duration::from_secs(2))).map_err(|e| e.to_string())?;
    let mut line = [0; 8_192];
    loop {
        let heard = journal.recv(&mut line);
        let length = heard.map_err(|e| format!("the journal heard nothing: {e}"))?;
        if String::from_utf8_lossy(&line[..length]).contains("MESSAGE_ID") {
            break;
        }
    }
    drop(journal);
    fs::remove_file("/run/systemd/journal/socket").map_err(|e| e.to_string())?;
    for n in 0..20 {
        daemon.ask(&json!({"do": "lock", "name": format!("n{n}"), "for_s": 1}));
    }
    goes_on(&daemon)?;
    daemon.stop().map(|_| ())
}

/// A second daemon on the same socket says so and leaves the first alone.
fn a_second_one() -> Judged {
    let (place, server) = (Place::new(), Liar::honest());
    let daemon = place.start(&[server.address.to_string()], "");
    daemon.synchronised()?;
    let config = place.path("timesync.toml");
    let second = place.command(&[], &config).status().map_err(|e| e.to_string())?;
    right(!second.success(), || "two daemons".into())?;
    goes_on(&daemon)?;
    daemon.stop().map(|_| ())
}

/// Standard error is a pipe whose reader is gone.
fn without_a_reader() -> Judged {
    let (place, server) = (Place::new(), Liar::honest());
    let config = place.configure(&[server.address.to_string()], "");
    let mut command = place.command(&[], &config);
    command.stderr(std::process::Stdio::piped());
    let mut daemon = place.start_as(&mut command);
    drop(daemon.child.stderr.take());
    goes_on(&daemon)?;
    daemon.stop().map(|_| ())
}

/// Only a name server's worth of memory: a limit on the address space.
fn within_little_memory() -> Judged {
    let (place, server) = (Place::new(), Liar::honest());
    let config = place.configure(&[server.address.to_string()], "");
    let limited = ["/usr/bin/prlimit", "--as=268435456"];
    let daemon = place.start_as(&mut place.command(&limited, &config));
    daemon.synchronised()?;
    let hundred = (0..100).filter_map(|_| Client::connect(&[place.socket()]).ok());
    drop(hundred.collect::<Vec<_>>());
    goes_on(&daemon)?;
    daemon.stop().map(|_| ())
}

#[test]
fn without_rights_journal_readers_or_memory_it_goes_on_and_says_so() {
    assert!(Path::new(BINARY).is_file());
    every(vec![
        row("no right to set the clock", without_the_right),
        row("the journal is gone", without_a_journal),
        row("a second daemon", a_second_one),
        row("nobody reads its standard error", without_a_reader),
        row("little memory", within_little_memory),
    ]);
}
