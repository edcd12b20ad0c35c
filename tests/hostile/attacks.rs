//! Attacks that take several moves, and misfortunes that come together: what no single reply shows.
use crate::alone::{Says, alone, ip, own_names, serve_names};
use crate::bench::{Bench, DAY, HOUR, MS, Plan, S, START};
use crate::daemon::{BINARY, Place, Row, every};
use crate::server::Liar;
use leadville_timesync::config::{Config, ServerEntry};
use leadville_timesync::engine::byhand::{How, Word};
use leadville_timesync::engine::packet::{Bogus, Exchange, LEN, Rejected, Why, ntp};
use leadville_timesync::engine::source::Standing;
use leadville_timesync::engine::{Event, Input, Phase, ServerId};
use leadville_timesync::os::resolve::LastGood;
use leadville_timesync::tasks::servers::Servers;
use leadville_timesync::units::{Nanos, RawTime, UtcTime};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A sound reply of a server that is wrong by so much, as if it had been asked just now.
fn reply(b: &Bench, id: ServerId, by: i64) -> Exchange {
    let mut packet = [0; LEN];
    (packet[0], packet[1], packet[3]) = (0b00_100_100, 2, (-20_i8).cast_unsigned());
    packet[12..16].copy_from_slice(&[192, 0, 2, id as u8 + 1]);
    packet[16..24].copy_from_slice(&(id as u64 + 1).to_be_bytes());
    let at = ntp(UtcTime::from_nanos(b.true_utc() - 10 * MS + by)).to_be_bytes();
    packet[32..40].copy_from_slice(&at);
    packet[40..48].copy_from_slice(&at);
    let sent = RawTime::from_nanos(b.raw - 20 * MS);
    Exchange { packet, sent, received: RawTime::from_nanos(b.raw), bogus: Bogus::default() }
}

// ── votes ────────────────────────────────────────────────────────────────────────────────────

/// A liar asks an honest server itself and shows what it was told: reference, time of update,
/// distance and stratum are the honest one's, the time is not.
#[test]
fn a_liar_that_passes_itself_off_as_an_honest_server_takes_nobodys_vote() {
    for (servers, liars) in [(3, 1), (5, 2)] {
        let mut b = Plan::new(servers).go();
        b.wrong = Box::new(move |id, _| if id < liars { 300 * MS } else { 0 });
        b.spoil = Box::new(move |id, _, r| {
            let shown = if id < liars { id + liars } else { id };
            r[12..16].copy_from_slice(&[192, 0, 2, shown as u8 + 1]);
            r[16..24].copy_from_slice(&(shown as u64 + 1).to_be_bytes());
        });
        b.run(1_800);
        assert_eq!(b.phase(), Phase::Synchronised, "{liars} of {servers}: {:?}", b.view());
        assert!(b.steps.is_empty() && b.error().abs() < 5 * MS, "{} {:?}", b.error(), b.steps);
        for id in 0..liars {
            let named = matches!(b.standing(id), Standing::Falseticker(_));
            assert!(named, "{liars} of {servers}: {:?}", b.standing(id));
        }
    }
}

/// The operator removes a server while its answer is under way.
#[test]
fn the_answer_of_a_server_that_was_removed_meanwhile_has_no_vote() {
    let mut b = Plan::new(2).go();
    b.run(600);
    let late = reply(&b, 1, 300 * MS);
    b.engine.retire(1);
    b.feed(Input::Exchange(1, &late));
    b.run(1_800);
    assert_eq!(b.phase(), Phase::Synchronised, "{:?}", b.view());
    assert!(b.worst < 5 * MS && b.steps.is_empty(), "{} {:?}", b.worst, b.steps);
    assert_ne!(*b.standing(1), Standing::Selected);
}

#[test]
fn all_servers_removed_in_the_middle_of_a_string_leave_the_clock_still_and_come_back() {
    let mut b = Plan::new(3).remembering(12.0).go();
    b.crystal = 12.0;
    b.run(1_200);
    let until = RawTime::from_nanos(b.raw + 600 * S);
    b.happen(Input::Lock("string Bay 1", until));
    for id in 0..3 {
        b.engine.retire(id);
    }
    b.forget();
    b.run(3 * 3_600);
    assert!(b.steps.is_empty() && b.slew == 0 && b.worst < 5 * MS, "{} {:?}", b.worst, b.steps);
    assert_eq!(b.phase(), Phase::Holdover);
    for id in 0..3 {
        b.engine.revive(id, RawTime::from_nanos(b.raw));
    }
    b.run(120);
    assert_eq!(b.phase(), Phase::Synchronised, "{:?}", b.view());
    assert!(b.steps.is_empty() && b.error().abs() < 5 * MS);
}

// ── one machine under many names ─────────────────────────────────────────────────────────────

fn entries(list: &str) -> Vec<ServerEntry> {
    Config::parse(&format!("[ntp]\nservers = [{list}]\n"), "t").expect("servers").ntp.servers
}

/// A hotspot that answered every name with its own address is remembered on the disk.
#[test]
fn an_address_remembered_for_many_names_is_one_server_after_a_restart() {
    let box_of_the_hotel: IpAddr = "192.0.2.1".parse().unwrap();
    let mut good = LastGood::default();
    for name in ["a.test", "b.example", "c.invalid"] {
        good.remember(name, &[box_of_the_hotel]);
    }
    let list = "\"a.test\", \"b.example\", \"c.invalid\"";
    let (servers, specs) = Servers::new(&entries(list), &good, RawTime::from_nanos(0));
    assert_eq!(specs.len(), 3, "each still has its place");
    let all: Vec<SocketAddr> = (0..3).filter_map(|id| servers.address(id)).collect();
    let distinct: HashSet<&SocketAddr> = all.iter().collect();
    assert_eq!(all.len(), distinct.len(), "one machine has {} votes: {all:?}", all.len());
    assert_eq!(all.len(), 1);
}

#[test]
fn an_address_written_out_and_a_name_that_leads_there_are_one_server() {
    let at = RawTime::from_nanos(0);
    let list = entries("\"192.0.2.1\", \"a.test\"");
    let (mut servers, _) = Servers::new(&list, &LastGood::default(), at);
    servers.resolved(1, Ok(vec![SocketAddr::from(([192, 0, 2, 1], 123))]), &[], at);
    assert_eq!(servers.address(1), None, "one machine has two votes");
}

#[test]
fn an_address_written_in_two_ways_is_one_server() {
    let list = entries("\"192.0.2.1\", \"::ffff:192.0.2.1\"");
    let (servers, _) = Servers::new(&list, &LastGood::default(), RawTime::from_nanos(0));
    assert!(servers.address(0).is_some() && servers.address(1).is_none());
    assert!(servers.trouble(1).is_some_and(|why| why.contains("the same server")));
}

#[test]
fn a_server_that_a_reload_writes_otherwise_is_still_asked() {
    let at = RawTime::from_nanos(0);
    let there = SocketAddr::from(([192, 0, 2, 1], 123));
    let (mut servers, _) = Servers::new(&entries("\"192.0.2.1\""), &LastGood::default(), at);
    assert_eq!(servers.retire(0), [0]);
    servers.add(entries("\"a.test\"")[0].clone(), &LastGood::default(), at);
    servers.resolved(1, Ok(vec![there]), &[], at);
    assert_eq!(servers.address(1), Some(there), "the name is never asked");
    assert_eq!(servers.revive(0, at), [0]);
    assert_eq!(servers.address(0), None, "one machine has two votes");
}

#[test]
fn a_pool_that_is_removed_while_its_name_is_looked_up_adds_no_server() {
    let at = RawTime::from_nanos(0);
    let list = entries("{ address = \"pool.test\", pool = true }");
    let (mut servers, _) = Servers::new(&list, &LastGood::default(), at);
    servers.retire(0);
    let found = (1..9).map(|n| SocketAddr::from(([192, 0, 2, n], 123))).collect();
    assert_eq!(servers.resolved(0, Ok(found), &[], at), []);
}

#[test]
fn a_pool_whose_every_address_is_one_machine_is_never_a_second_opinion() {
    let mut plan = Plan::new(4).settled().behind(5 * S);
    let mut all = crate::bench::specs(4);
    all.iter_mut().for_each(|s| s.operator = "pool.test".into());
    plan.specs = Some(all);
    let mut b = plan.go();
    b.run(3_600);
    assert!(b.steps.is_empty() && !b.view().verified, "{:?}", b.steps);
    assert_eq!(b.phase(), Phase::Frozen);
}

// ── dates ────────────────────────────────────────────────────────────────────────────────────

/// A bench whose high-water mark was poisoned: verified time of five years on.
fn poisoned(servers: usize) -> Plan {
    let mut plan = Plan::new(servers);
    plan.settings.mark = Some(UtcTime::from_nanos(START + 5 * 366 * DAY));
    plan
}

/// All of a hotspot's servers once lied alike; one of them is still configured.
#[test]
fn after_a_poisoned_mark_four_honest_servers_are_not_outvoted_by_the_one_who_fits_it() {
    let mut b = poisoned(5).go();
    b.wrong = Box::new(|id, _| if id == 0 { 5 * 366 * DAY + HOUR } else { 0 });
    b.run(300);
    assert!(b.steps.is_empty(), "one liar set the clock against four: {:?}", b.steps);
    assert_ne!(b.phase(), Phase::Synchronised, "{:?}", b.view());
    b.run(3_600);
    assert_eq!(b.phase(), Phase::Synchronised, "{:?}", b.view());
    assert!(b.steps.is_empty() && b.error().abs() < 5 * MS, "{} {:?}", b.error(), b.steps);
    assert!(b.events.contains(&Event::DateOverridden));
}

#[test]
fn a_server_of_1970_does_not_keep_four_from_overriding_a_poisoned_mark() {
    let mut b = poisoned(5).go();
    b.wrong = Box::new(|id, t| if id == 0 { -START - t } else { 0 });
    b.run(3_600);
    assert_eq!(b.phase(), Phase::Synchronised, "{:?}", b.view());
    assert!(b.steps.is_empty() && b.error().abs() < 5 * MS, "{} {:?}", b.error(), b.steps);
}

#[test]
fn servers_removed_from_the_configuration_override_no_date() {
    let mut b = poisoned(3).go();
    b.run(300);
    for id in 0..3 {
        b.engine.retire(id);
    }
    b.engine.revive(0, RawTime::from_nanos(b.raw));
    b.run(3_600);
    assert!(!b.events.contains(&Event::DateOverridden));
    assert_eq!(*b.standing(0), Standing::Rejected(Rejected::BeforeMark));
}

#[test]
fn one_absurd_date_while_the_others_lose_a_packet_does_not_freeze() {
    let mut b = Plan::new(3).go();
    b.wrong = Box::new(|id, t| if id == 0 && t > HOUR { -7_168 * DAY } else { 0 });
    b.run(3_600);
    b.events.clear();
    b.way = Box::new(|_, _, chance| (!chance.chance(0.4)).then_some((10 * MS, 10 * MS)));
    b.run(6 * 3_600);
    let frozen = |e: &&Event| matches!(e, Event::Phase(Phase::Frozen, _));
    assert_eq!(b.events.iter().filter(frozen).count(), 0, "one liar froze the clock");
}

/// All announce a minute of 59 seconds and make one of 61: by their timeline two seconds, by the
/// clock that made neither one.
#[test]
fn a_clock_that_is_less_than_a_second_off_is_slewed_however_far_the_timeline_jumped() {
    let bytes = b"\xfd\x48\xf3\xdd\x3f\xff\xff\x3f\x02\x00\x00\xd2\x00\x00\x00\x40\x00\x00\x00\x00\xff\xff\x3f\
        \x02\x00\x00\xd2\x00\x04\x00\x00\x00\x00\x00\x00\xbf\xff\x04\xff";
    crate::script::play(bytes, 1_200 * S);
}

/// `min_agreeing` is obeyed: so many operators, or none of them moves a clock that was right.
#[test]
fn as_many_operators_as_the_configuration_wants_must_agree_to_move_a_settled_clock() {
    for (wanted, steps) in [(1, 1), (2, 1), (3, 0)] {
        let mut plan = Plan::new(2).settled().behind(5 * S);
        plan.settings.limits.min_agreeing = wanted;
        let mut b = plan.go();
        b.run(3_600);
        assert_eq!(b.steps.len(), steps, "{wanted} wanted, 2 agree: {:?}", b.view());
        assert_eq!(b.view().verified, steps == 1);
    }
}

// ── slowly, twice, late ──────────────────────────────────────────────────────────────────────

#[test]
fn two_of_five_that_steer_ever_so_slowly_are_left_behind() {
    for ppm in [1, 5, 20] {
        let mut b = Plan::new(5).go();
        b.wrong =
            Box::new(move |id, t| if id < 2 { (t - HOUR).max(0) / 1_000_000 * ppm } else { 0 });
        b.run(24 * 3_600);
        assert!(b.steps.is_empty() && b.worst < 8 * MS, "{ppm} ppm: {} {:?}", b.worst, b.steps);
    }
}

#[test]
fn servers_that_collude_as_soon_as_a_lock_ends_still_have_to_insist() {
    let mut b = Plan::new(4).go();
    b.run(3_600);
    let until = RawTime::from_nanos(b.raw + 1_200 * S);
    b.happen(Input::Lock("match", until));
    b.wrong = Box::new(|_, t| if t > HOUR + 600 * S { 20 * S } else { 0 });
    b.run(1_200 + 240);
    assert!(b.steps.is_empty(), "stepped under the lock or at its end: {:?}", b.steps);
    b.wrong = Box::new(|_, _| 0);
    b.run(3_600);
    assert!(b.steps.is_empty() && b.error().abs() < 5 * MS, "{} {:?}", b.error(), b.steps);
    assert_eq!(b.phase(), Phase::Synchronised);
}

/// Each datagram comes twice, and those of an hour ago come again.
#[test]
fn what_comes_twice_or_was_never_asked_for_changes_nothing() {
    let mut b = Plan::new(3).go();
    b.run(600);
    let (old, told, ours) = (reply(&b, 0, 20 * MS), b.told, b.ours);
    let seen = |b: &Bench| b.engine.sources().iter().map(|s| s.replies).sum::<u64>();
    let before = seen(&b);
    for _ in 0..1_000 {
        for id in 0..3 {
            b.feed(Input::Exchange(id, &old));
            let lie = reply(&b, id, 300 * MS);
            b.feed(Input::Exchange(id, &lie));
        }
    }
    assert_eq!((seen(&b), b.told, b.ours, b.slew), (before, told, ours, 0));
    b.feed(Input::Failed(0, Why::Timeout, Bogus::default()));
    b.run(600);
    assert_eq!(b.phase(), Phase::Synchronised);
    assert!(b.worst < 5 * MS && b.steps.is_empty(), "{}", b.worst);
}

#[test]
fn a_round_trip_of_nothing_is_used_and_one_beyond_three_seconds_is_refused() {
    for (way, used) in [(0, true), (1_490 * MS, true), (1_510 * MS, false), (5 * S, false)] {
        let mut b = Plan::new(1).go();
        b.way = Box::new(move |_, _, _| Some((way, way)));
        b.run(600);
        assert_eq!(b.phase() == Phase::Synchronised, used, "{way}: {:?}", b.view());
        let refused = b.engine.sources()[0].rejected[Rejected::LongDelay.index()];
        assert_eq!(refused > 0, !used, "{way}: {refused}");
    }
}

/// Each reply comes when our patience is all but over, each way in turn taking all of it.
#[test]
fn a_server_that_answers_at_the_last_moment_stays_within_its_guarantee() {
    for out in [true, false] {
        let mut b = Plan::new(1).go();
        b.way = Box::new(move |_, t, _| {
            let late = if t > HOUR { 2_900 * MS } else { 10 * MS };
            Some(if out { (late, 10 * MS) } else { (10 * MS, late) })
        });
        b.run(12 * 3_600);
        let view = b.view();
        let most = view.max_error.expect("a guarantee").get();
        assert!(b.error().abs() <= most && b.steps.is_empty(), "{} of {most}", b.error());
        assert!(b.worst < 20 * MS, "{} ms wrong", b.worst / MS);
    }
}

// ── leap seconds ─────────────────────────────────────────────────────────────────────────────

/// All announce a leap second and none makes it: the kernel does.
#[test]
fn a_leap_second_that_all_announce_and_none_makes_is_taken_back() {
    let mut plan = Plan::new(4);
    plan.start = UtcTime::from_iso("2027-12-31T21:00:00Z").unwrap().as_nanos();
    plan.settings.built = UtcTime::from_nanos(plan.start - 30 * DAY);
    let mut b = plan.go();
    b.leaps = true;
    b.world_leaps(false);
    b.spoil = Box::new(|_, t, r| {
        if t < 3 * HOUR {
            r[0] |= 0b01_000_000;
        }
    });
    b.run(2 * 3_600);
    b.forget();
    b.run(3 * 3_600);
    assert!(b.worst < S + 20 * MS, "{}", b.worst);
    assert!(b.error().abs() < 5 * MS, "an hour or two later {} ms wrong", b.error() / MS);
    assert_eq!(b.phase(), Phase::Synchronised, "{:?}", b.view());
}

// ── figures ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_thermometer_that_says_what_no_thermometer_can_spoils_no_figure() {
    let mut b = Plan::new(3).go();
    b.watched();
    for (n, celsius) in [f64::NAN, f64::INFINITY, -f64::INFINITY, 1e308, -1e308, 0.0]
        .iter()
        .cycle()
        .take(60)
        .enumerate()
    {
        b.happen(Input::Temperature(*celsius));
        b.run(60 + n as i64);
    }
    assert_eq!(b.phase(), Phase::Synchronised);
    assert!(b.worst < 5 * MS && b.steps.is_empty(), "{}", b.worst);
}

// ── drift file ───────────────────────────────────────────────────────────────────────────────

#[test]
fn what_was_learned_of_the_crystal_carries_an_outage_over_a_restart_and_is_kept() {
    let mut b = Plan::new(3).remembering(17.0).go();
    b.crystal = 17.0;
    b.way = Box::new(|_, _, _| None);
    b.run(12 * 3_600);
    assert!((b.told - 17.0).abs() < 0.01, "the kernel is told {}", b.told);
    assert!(b.error().abs() < 50 * MS, "{} ms in 12 h", b.error() / MS);
    let kept = b.engine.memory().expect("it is not forgotten");
    assert!((kept.frequency_ppm - 17.0).abs() < 0.01, "{kept:?}");
}

// ── the real daemon ──────────────────────────────────────────────────────────────────────────

/// A server at ::1, written as an address; then, in a network of its own, a name that has only an
/// IPv6 address.
#[test]
fn over_ipv6_alone_the_real_daemon_is_in_time() {
    let by_name = || {
        if alone().is_none() {
            return Ok(());
        }
        let place = Place::new();
        own_names(&place.state(), "timeout:1 attempts:1");
        serve_names(|_, _| Says::Addresses(vec!["2001:db8::5".parse().unwrap()]));
        if !ip("-6 route add local 2001:db8::/64 dev lo") {
            eprintln!("no IPv6 here: not tested");
            return Ok(());
        }
        let _server = Liar::honest_at("[2001:db8::5]:123");
        let daemon = place.start(&["six.test".into()], "");
        let status = daemon.synchronised()?;
        let address = status["servers"][0]["address"].as_str().unwrap_or_default();
        if address != "[2001:db8::5]:123" {
            return Err(format!("asked {address}"));
        }
        daemon.stop().map(|_| ())
    };
    let by_address = || {
        let (place, server) = (Place::new(), Liar::honest_at("[::1]:0"));
        let daemon = place.start(&[server.address.to_string()], "");
        let status = daemon.synchronised()?;
        let off = status["offset_us"].as_f64().unwrap_or(f64::MAX).abs();
        daemon.stop()?;
        if off < 50_000.0 { Ok(()) } else { Err(format!("{off} us off")) }
    };
    every(vec![
        Row { name: "a name of IPv6 alone".into(), judge: Box::new(by_name) },
        Row { name: "an address of IPv6".into(), judge: Box::new(by_address) },
    ]);
}

/// The configuration loses its servers while the clock is held, and gets them back.
#[test]
fn a_reload_under_a_lock_that_takes_every_server_away_is_obeyed_and_undone_by_the_next() {
    let (place, server) = (Place::new(), Liar::honest());
    let servers = [server.address.to_string()];
    let daemon = place.start(&servers, "");
    daemon.synchronised().unwrap();
    daemon.ask(&json!({"do": "lock", "name": "match", "for_s": 60})).expect("an answer");
    let config = place.path("timesync.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[ntp]\n", "[ntp]\nenabled = false\n")).unwrap();
    daemon.signal(Signal::SIGHUP);
    let none = |s: &Value| s["servers"].as_array().is_none_or(Vec::is_empty);
    let status = daemon.until(none).unwrap();
    assert!(
        status["error_bound_us"].as_f64().is_some(),
        "what is known is not forgotten: {status}"
    );
    let asked = server.asked();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(server.asked(), asked, "a server that was taken away is asked");
    std::fs::write(&config, text).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon
        .until(|s| s["state"] == "synchronised" && s["servers"][0]["role"] == "selected")
        .unwrap();
    daemon.stop().unwrap();
}

/// The simulated daemon makes its first step within seconds: told to stop before, in and after it.
#[test]
fn told_to_stop_around_its_first_step_it_ends_well() {
    let rows = (0..8_u64).map(|n| Row {
        name: format!("SIGTERM after {} ms", 100 + 150 * n),
        judge: Box::new(move || {
            let place = Place::new();
            let mut command = Command::new(BINARY);
            command.arg("--socket").arg(place.socket()).args(["run", "--simulate", "--plain"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let daemon = place.start_as(&mut command);
            let start = Instant::now();
            while daemon.status().is_none() && start.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(150 * n));
            let took = daemon.stop()?;
            if took < Duration::from_secs(2) { Ok(()) } else { Err(format!("took {took:?}")) }
        }),
    });
    every(rows.collect());
}

// ── the service ──────────────────────────────────────────────────────────────────────────────

/// With a wrong clock no signature of a name is valid, and without names no clock gets right.
#[test]
fn the_unit_asks_for_names_without_dnssec_and_is_restarted_for_ever() {
    let unit = include_str!("../../systemd/leadville-timesync.service");
    let has = |line: &str| unit.lines().any(|l| l.trim() == line);
    assert!(has("Environment=SYSTEMD_NSS_RESOLVE_VALIDATE=0"));
    assert!(has("Restart=always") && has("StartLimitIntervalSec=0"));
}

// ── little by little, and far from sure ──────────────────────────────────────────────────────

/// Jumps too small to be named, one a minute; the kernel wakes who waits when its clock is set.
#[test]
fn a_stranger_who_moves_the_clock_by_little_each_minute_gains_nothing() {
    for by in [7 * MS, -7 * MS, 4 * MS] {
        let mut b = Plan::new(3).go();
        b.run(1_200);
        b.forget();
        for _ in 0..120 {
            b.jump(by);
            b.happen(Input::Tick);
            b.run(60);
        }
        assert!(b.worst < 20 * MS && b.steps.is_empty(), "{by}: {} {:?}", b.worst, b.steps);
    }
}

/// It admits to more than a second of error, so that it agrees with everybody.
#[test]
fn a_liar_that_admits_to_a_wide_error_moves_nobody_beyond_what_the_other_guarantees() {
    for servers in [2, 4] {
        let mut b = Plan::new(servers).go();
        b.wrong = Box::new(|id, _| if id == 0 { S } else { 0 });
        b.spoil = Box::new(|id, _, r| {
            if id == 0 {
                r[8..12].copy_from_slice(&[0, 1, 0x60, 0]);
            }
        });
        b.run(4 * 3_600);
        assert!(b.worst < 11 * MS && b.steps.is_empty(), "{} {:?}", b.worst, b.steps);
    }
}

/// It says that it kept the request for nearly all of the round trip, and so seems to be next door.
#[test]
fn a_liar_that_pretends_to_be_next_door_is_not_believed_to_the_microsecond() {
    for by in [2 * MS, 4 * MS, 5 * MS, 8 * MS] {
        let mut b = Plan::new(4).go();
        b.spoil = Box::new(move |id, _, r| {
            if id == 0 {
                // T2 = T1 + by, T3 = T4 + by, all but: the way there and back takes 20 ms.
                let t2 = u64::from_be_bytes(r[32..40].try_into().unwrap());
                let ticks = |ns: i64| (i128::from(ns) * (1 << 32) / 1_000_000_000) as u64;
                let t2 = t2.wrapping_add(ticks(by - 10 * MS));
                r[32..40].copy_from_slice(&t2.to_be_bytes());
                r[40..48].copy_from_slice(&t2.wrapping_add(ticks(20 * MS)).to_be_bytes());
            }
        });
        b.run(2 * 3_600);
        let bound = b.view().estimate.expect("it is in time").bound.get();
        let error = b.error().abs();
        assert!(error <= bound, "{} us off: {error} ns wrong, bound {bound} ns", by / 1_000);
    }
}

// ── the first seconds ────────────────────────────────────────────────────────────────────────

/// Two liars are nearer than the honest three, and answer first.
#[test]
fn two_liars_who_answer_first_do_not_set_the_clock_before_the_others_are_heard() {
    let mut b = Plan::new(5).go();
    b.wrong = Box::new(|id, _| if id < 2 { -HOUR } else { 0 });
    b.way = Box::new(|id, _, _| {
        let ms = if id < 2 { MS } else { 400 * MS };
        Some((ms, ms))
    });
    b.run(1_800);
    assert!(b.steps.is_empty(), "{:?}", b.steps);
    assert!(b.error().abs() < 20 * MS, "{}", b.error());
    assert_eq!(b.phase(), Phase::Synchronised, "{:?}", b.view());
}

/// A network that lets only the liar through for a minute, then all.
#[test]
fn a_liar_who_was_alone_for_a_minute_is_outvoted_when_the_others_come() {
    let mut b = Plan::new(4).go();
    b.wrong = Box::new(|id, _| if id == 0 { 30 * S } else { 0 });
    b.way = Box::new(|id, t, _| (id == 0 || t > 60 * S).then_some((10 * MS, 10 * MS)));
    b.run(60);
    assert!(!b.view().verified, "one alone is no second opinion");
    b.run(3_600);
    assert_eq!(b.phase(), Phase::Synchronised, "{:?}", b.view());
    assert!(b.error().abs() < 5 * MS && b.steps.len() <= 2, "{} {:?}", b.error(), b.steps);
}

/// A server is honest but for the hour in which it is the only one that answers.
#[test]
fn a_server_that_lies_only_while_it_is_alone_does_not_step_a_settled_clock() {
    for by in [300 * MS, 5 * S, -DAY] {
        let mut b = Plan::new(4).remembering(12.0).go();
        b.crystal = 12.0;
        let alone = |t: i64| (HOUR..2 * HOUR).contains(&t);
        b.way = Box::new(move |id, t, _| (id == 0 || !alone(t)).then_some((10 * MS, 10 * MS)));
        b.wrong = Box::new(move |id, t| if id == 0 && alone(t) { by } else { 0 });
        b.run(4 * 3_600);
        assert!(b.steps.is_empty(), "{by}: {:?}", b.steps);
        assert!(b.error().abs() < 5 * MS, "{by}: {}", b.error());
    }
}

/// Servers ask for less at every request, in turn, so that no two are ever heard together.
#[test]
fn kisses_that_silence_all_but_one_in_turn_never_move_the_clock() {
    let mut b = Plan::new(3).remembering(12.0).go();
    b.crystal = 12.0;
    b.spoil = Box::new(|id, t, r| {
        if t > HOUR && (t / (600 * S)) as usize % 3 != id {
            r[1] = 0;
            r[12..16].copy_from_slice(b"RATE");
        }
    });
    b.run(8 * 3_600);
    assert!(b.steps.is_empty() && b.worst < 10 * MS, "{} {:?}", b.worst, b.steps);
}

/// Stratum, reference and distance change with every reply.
#[test]
fn a_server_that_is_another_at_every_reply_has_one_vote() {
    let mut b = Plan::new(3).go();
    b.wrong = Box::new(|id, _| if id == 0 { 300 * MS } else { 0 });
    b.spoil = Box::new(|id, t, r| {
        if id == 0 {
            let n = (t / S) as u8;
            (r[1], r[2], r[3]) = (n % 15 + 1, n, (-(i16::from(n) % 30) as i8).cast_unsigned());
            r[12..16].copy_from_slice(&[n, n, n, n]);
            r[16..24].copy_from_slice(&[n; 8]);
        }
    });
    b.run(3_600);
    assert_eq!(b.phase(), Phase::Synchronised);
    assert!(b.error().abs() < 5 * MS && b.steps.is_empty(), "{}", b.error());
}

/// The whole network goes and comes every twenty seconds for an hour.
#[test]
fn a_network_that_flaps_costs_the_servers_no_more_than_their_spacing() {
    let mut b = Plan::new(3).go();
    b.way = Box::new(|_, t, _| (t / (20 * S) % 2 == 0).then_some((10 * MS, 10 * MS)));
    for _ in 0..180 {
        b.happen(Input::NetworkChanged);
        b.run(20);
    }
    assert!(b.asked.len() <= 3 * 3_600 / 4, "{} requests in an hour", b.asked.len());
    assert!(b.steps.is_empty() && b.error().abs() < 5 * MS);
}

/// Each server has answered once when somebody says the time, and with that the servers agree.
#[test]
fn a_word_and_a_first_fix_at_the_same_instant_are_one_step_of_the_right_size() {
    let mut b = Plan::new(2).behind(40 * DAY).go();
    b.run(2);
    assert!(b.steps.is_empty(), "days want a second answer of each");
    for by in [-5 * S, 0] {
        let at = RawTime::from_nanos(b.raw);
        let utc = UtcTime::from_nanos(b.true_utc() + by);
        let uncertainty = Nanos::from_secs(25);
        b.happen(Input::ByHand(&Word { utc, at, uncertainty, how: How::Typed }));
    }
    assert!(b.error().abs() < 5 * MS, "{} ms wrong after {:?}", b.error() / MS, b.steps);
    b.run(600);
    assert!(!b.events.iter().any(|e| matches!(e, Event::ForeignStep(_))), "{:?}", b.steps);
    let bytes = b"\x6f\x00\x2f\x18\x18\x18\x18\x05\x00\x1f\x2e\x10\x9c\x0f\x3e\x30\x00\x00\x05\x00\x0f\x05\x00\x1f\x2e\x00\x00\xdd\xdd\xdd\xdd\x6f\x0f";
    crate::script::play(bytes, 1_200 * S);
}

/// What the servers insist on just fits into the day's budget; what is stepped a moment later does
/// not, by a microsecond.
#[test]
fn a_step_that_grew_beyond_the_budget_while_it_was_insisted_on_is_not_made() {
    crate::script::play(b"\x03\x5d\x8b\x00\xf4\xff\xff\x00\x00\x00\xff\x07\xfd\xfd\x00\x00\xff\xff\xff\xff\xff\x00\x21\x00\xfd\xa0\xff\x01\xac\xff\xb9\xff\xff\xff\xff\xff\x07\xfd\xfd\xfd\xfd\xfd\xfd\x00\xfc\xd7\xf7\x28\x09\x80\x04\x3c", 1_200 * S);
}

#[test]
fn a_word_while_a_clock_set_to_the_past_is_put_right_is_not_stepped_twice() {
    let bytes = b"\x03\x08\x3c\x80\xac\xff\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\x30\
        \x00\xde\xde\xde\xde\xde\xde\x4c\xde\x30\x00\xde\xde\xde\xde\xde\xde\x4c\x4c\x4c\x4c\x4c\x4c\x4c\x04";
    crate::script::play(bytes, 1_200 * S);
}
