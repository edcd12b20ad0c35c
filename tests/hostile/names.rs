//! What a name service can do to the daemon, and what becomes of its answers.
use crate::alone::{Says, alone, elsewhere, ip, own_names, route, serve_names};
use crate::daemon::{Place, Row, every};
use crate::server::Liar;
use leadville_timesync::config::ServerEntry;
use leadville_timesync::os::resolve::{LastGood, ResolveError};
use leadville_timesync::tasks::servers::{Change, Servers};
use leadville_timesync::units::RawTime;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

const NO_SUCH_NAME: u8 = 3;
const SERVER_FAILURE: u8 = 2;

fn addresses(all: &[&str]) -> Says {
    Says::Addresses(all.iter().map(|a| a.parse().expect("an address")).collect())
}

fn answer(name: &str, _: Duration) -> Says {
    match name.split('.').next().unwrap_or_default() {
        "missing" => Says::Error(NO_SUCH_NAME),
        "failing" => Says::Error(SERVER_FAILURE),
        "silent" => Says::Silence,
        "six" => addresses(&["2001:db8::1"]),
        "zero" => addresses(&["0.0.0.0"]),
        "loop" => addresses(&["127.0.0.1"]),
        "own" => addresses(&["198.51.100.7"]),
        "many-cast" => addresses(&["224.0.1.1"]),
        "broad-cast" => addresses(&["255.255.255.255"]),
        "thousands" => {
            let all = (0..4_000_u32).map(|n| IpAddr::from((0xc000_0201 + n).to_be_bytes()));
            Says::Addresses(all.collect())
        }
        "good" => Says::Addresses(vec![elsewhere(1)]),
        _ => Says::Addresses(Vec::new()),
    }
}

/// What is wrong with each name, in words that the operator must see; "" for nothing.
const NAMES: [(&str, &str); 12] = [
    ("missing.test", "cannot be looked up"),
    ("failing.test", "cannot be looked up"),
    ("silent.test", "does not answer"),
    ("six.test", "no route"),
    ("none.test", "cannot be looked up"),
    ("zero.test", "can be a server"),
    ("loop.test", "this machine itself"),
    ("own.test", "this machine itself"),
    ("many-cast.test", "can be a server"),
    ("broad-cast.test", "can be a server"),
    ("thousands.test", ""),
    ("good.test", ""),
];

fn all_names() -> Result<(), String> {
    if alone().is_none() {
        return Ok(());
    }
    let place = Place::new();
    own_names(&place.state(), "timeout:9 attempts:3");
    route();
    assert!(ip("addr add 198.51.100.7/32 dev lo"));
    serve_names(answer);
    // Of an address that two names have, each server takes another.
    let honest = [Liar::honest_at("192.0.2.1:123"), Liar::honest_at("192.0.2.2:123")];
    let servers: Vec<String> = NAMES.iter().map(|n| n.0.to_owned()).collect();
    let daemon = place.start(&servers, "");
    let wrong = |status: &Value| -> Vec<String> {
        let shown = status["servers"].as_array().cloned().unwrap_or_default();
        let of = |name: &str| shown.iter().find(|s| s["name"] == name).cloned();
        let wrong = NAMES.iter().filter_map(|(name, said)| {
            let Some(server) = of(name) else { return Some(format!("{name} is not there")) };
            let why = server["why"].as_str().unwrap_or_default();
            let right = match *said {
                "" => server["replies"].as_u64() > Some(0) || why.contains("the same server"),
                said => why.contains(said),
            };
            (!right).then(|| format!("{name}: {server}"))
        });
        wrong.collect()
    };
    let status = daemon.until(|s| s["state"] == "synchronised" && wrong(s).is_empty());
    if let Err(last) = status {
        let status = daemon.status().unwrap_or_default();
        return Err(format!("{:?}; {last}", wrong(&status)));
    }
    drop(honest);
    let took = daemon.stop()?;
    let quick = took < Duration::from_millis(1_500);
    if quick { Ok(()) } else { Err(format!("stopping took {took:?}")) }
}

/// The name service comes up long after the daemon.
fn late_names() -> Result<(), String> {
    if alone().is_none() {
        return Ok(());
    }
    let place = Place::new();
    own_names(&place.state(), "timeout:1 attempts:1");
    route();
    let honest = Liar::honest_at("192.0.2.1:123");
    let daemon = place.start(&["good.test".into()], "");
    std::thread::sleep(Duration::from_secs(8));
    let status = daemon.status().ok_or("it does not answer")?;
    let why = status["servers"][0]["why"].as_str().unwrap_or_default().to_owned();
    if !why.contains("cannot be looked up") || status["state"] == "synchronised" {
        return Err(format!("without names: {status}"));
    }
    serve_names(answer);
    daemon.synchronised()?;
    drop(honest);
    daemon.stop().map(|_| ())
}

/// A route appears: no back-off keeps the daemon from the first fix.
fn late_network() -> Result<(), String> {
    if alone().is_none() {
        return Ok(());
    }
    let place = Place::new();
    let daemon = place.start(&["192.0.2.1".into()], "");
    std::thread::sleep(Duration::from_secs(9));
    route();
    let honest = Liar::honest_at("192.0.2.1:123");
    // Routes of the table `local` are told to nobody; an address is.
    assert!(ip("addr add 198.51.100.7/32 dev lo"));
    let start = Instant::now();
    daemon.synchronised()?;
    let took = start.elapsed();
    drop(honest);
    daemon.stop()?;
    let quick = took < Duration::from_secs(20);
    if quick { Ok(()) } else { Err(format!("the first fix took {took:?}")) }
}

/// Lookups hang: the watchdog is served, and a stop is quick.
fn wedged_names() -> Result<(), String> {
    if alone().is_none() {
        return Ok(());
    }
    let place = Place::new();
    own_names(&place.state(), "timeout:30 attempts:5");
    serve_names(|_, _| Says::Silence);
    let names: Vec<String> = (0..8).map(|n| format!("n{n}.test")).collect();
    let config = place.configure(&names, "");
    let told = UnixDatagram::bind(place.path("notify")).map_err(|e| e.to_string())?;
    told.set_read_timeout(Some(Duration::from_millis(500))).map_err(|e| e.to_string())?;
    let mut command = place.command(&[], &config);
    command.env("NOTIFY_SOCKET", place.path("notify")).env("WATCHDOG_USEC", "2000000");
    let daemon = place.start_as(&mut command);
    let (start, mut beats) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(8) {
        let mut buffer = [0; 512];
        if let Ok(length) = told.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            beats += text.lines().filter(|l| *l == "WATCHDOG=1").count();
        }
    }
    let took = daemon.stop()?;
    if beats >= 5 && took < Duration::from_millis(1_500) {
        return Ok(());
    }
    Err(format!("{beats} signs of life in 8 s, stopping took {took:?}"))
}

#[test]
fn a_name_service_that_lies_fails_hangs_or_comes_late_is_said_and_survived() {
    let row = |name: &str, judge: fn() -> Result<(), String>| Row {
        name: name.into(),
        judge: Box::new(judge),
    };
    every(vec![
        row("every kind of answer", all_names),
        row("names that work later than the daemon", late_names),
        row("a network that comes later than the daemon", late_network),
        row("lookups that hang", wedged_names),
    ]);
}

// ── what becomes of the answers, as time passes ──────────────────────────────────────────────

fn at(seconds: i64) -> RawTime {
    RawTime::from_nanos(seconds * 1_000_000_000)
}

#[allow(clippy::unnecessary_wraps, reason = "what a lookup gives")]
fn found(all: &[u8]) -> Result<Vec<SocketAddr>, ResolveError> {
    Ok(all.iter().map(|n| (elsewhere(*n), 123).into()).collect())
}

fn entry(text: &str) -> ServerEntry {
    let text = format!("[ntp]\nservers = [{text}]\n");
    let config = leadville_timesync::config::Config::parse(&text, "t").expect("a server");
    config.ntp.servers[0].clone()
}

fn servers(text: &str) -> Servers {
    Servers::new(&[entry(text)], &LastGood::default(), at(0)).0
}

#[test]
fn a_name_that_fails_for_fifteen_minutes_is_asked_again_at_least_every_64_seconds() {
    let mut s = servers("\"late.test\"");
    let (mut now, mut asked, mut last) = (0, 0, 0);
    while now < 900 {
        if s.lookup(0, at(now)).is_some() {
            assert!(now - last <= 65, "{} s without asking", now - last);
            (asked, last) = (asked + 1, now);
            s.resolved(0, Err(ResolveError::Slow), &[], at(now));
        }
        now += 1;
    }
    assert!((15..40).contains(&asked), "{asked} lookups in 15 minutes");
    s.fresh_network(at(901));
    assert!(s.lookup(0, at(901)).is_some(), "a new network is a reason to ask at once");
}

#[test]
fn a_host_that_moved_is_followed_and_a_host_that_did_not_stays() {
    let mut s = servers("\"a.test\"");
    assert!(s.lookup(0, at(0)).is_some() && s.lookup(0, at(0)).is_none());
    assert_eq!(s.resolved(0, found(&[1, 2]), &[], at(0)), [Change::Moved(0)]);
    assert!(s.lookup(0, at(60)).is_none(), "it has an address");
    let later = 7 * 3_600;
    assert!(s.lookup(0, at(later)).is_some());
    assert_eq!(s.resolved(0, found(&[2, 1]), &[], at(later)), []);
    assert_eq!(s.resolved(0, found(&[9]), &[], at(later)), [Change::Moved(0)]);
    assert_eq!(s.address(0), Some((elsewhere(9), 123).into()));
    // A name service that fails takes nothing away.
    s.resolved(0, Err(ResolveError::Slow), &[], at(later));
    assert_eq!(s.address(0), Some((elsewhere(9), 123).into()));
}

#[test]
fn a_pool_uses_four_of_sixteen_and_replaces_the_silent_and_the_lying() {
    let mut s = servers("{ address = \"pool.test\", pool = true }");
    let all: Vec<u8> = (1..=200).collect();
    let changes = s.resolved(0, found(&all), &[], at(0));
    assert_eq!(changes.len(), 4, "{changes:?}");
    assert!(s.good().all(|(_, kept)| kept.len() <= 16));
    let before: Vec<_> = (0..4).map(|id| s.address(id)).collect();
    assert!(!s.replace(1, 3, false, at(10)), "three lost packets are weather");
    assert!(s.replace(1, 8, false, at(10)) && s.replace(2, 0, true, at(10)));
    let after: Vec<_> = (0..4).map(|id| s.address(id)).collect();
    assert_eq!((after[0], after[3]), (before[0], before[3]));
    assert!(!before.contains(&after[1]) && !before.contains(&after[2]), "{after:?}");
    for _ in 0..100 {
        s.replace(0, 8, false, at(20));
    }
    assert!(s.address(0).is_some(), "the last one is kept until there are others");
    assert!(s.lookup(0, at(21)).is_some(), "and others are asked for");
}

#[test]
fn a_name_that_leads_to_ourselves_is_barred_and_asked_again() {
    let own = [elsewhere(7)];
    let mut s = servers("\"a.test\"");
    assert_eq!(s.resolved(0, found(&[7]), &own, at(0)), [Change::Ourselves(0)]);
    assert_eq!(s.address(0), None);
    assert!(s.trouble(0).is_some_and(|t| t.contains("this machine itself")));
    assert!(s.lookup(0, at(61)).is_some());
    assert_eq!(s.resolved(0, found(&[7, 8]), &own, at(61)), [Change::Moved(0)]);
    assert_eq!(s.address(0), Some((elsewhere(8), 123).into()));
}
