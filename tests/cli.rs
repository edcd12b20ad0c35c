//! What people read and scripts rely on: words, exit codes, JSON.
use leadville_timesync::cli::paint::Paint;
use leadville_timesync::cli::{status, watch, words};
use leadville_timesync::os::control::Client;
use leadville_timesync::state::{
    AlertStatus, HoldoverStatus, LockStatus, Measurement, Moment, Quality, Role, ServerStatus,
    Status, SyncPhase,
};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// 22 November 2026, 11:58:00 UTC.
const NOON: i64 = 1_795_348_680_000_000_000;

fn server(name: &str, role: Role, why: Option<&str>) -> ServerStatus {
    let heard = role != Role::Unreachable && role != Role::Waiting;
    ServerStatus {
        name: name.into(),
        address: Some("192.0.2.1:123".into()),
        role,
        why: why.map(Into::into),
        offset_us: heard.then_some(310.0),
        delay_us: heard.then_some(28_140.0),
        max_error_us: heard.then_some(18_400.0),
        stratum: heard.then_some(1),
        reference_id: heard.then(|| "NIST".into()),
        reach: if heard { 255 } else { 0 },
        requests: 12,
        replies: if heard { 12 } else { 0 },
        last_reply_s: heard.then_some(12.0),
        ..ServerStatus::default()
    }
}

fn four_servers() -> Vec<ServerStatus> {
    vec![
        server("pool.ntp.org", Role::Selected, None),
        server("time.nist.gov", Role::Selected, None),
        server("time.google.com", Role::Falseticker, Some("300 ms away from the majority")),
        server("time.cloudflare.com", Role::Selected, None),
    ]
}

fn in_sync() -> Status {
    Status {
        v: 1,
        version: "1.0.0".into(),
        state: SyncPhase::Synchronised,
        verified: true,
        settled: true,
        quality: Quality::Excellent,
        steering: true,
        utc_ns: NOON,
        offset_us: Some(120.0),
        error_bound_us: Some(1_450.0),
        max_error_us: Some(18_400.0),
        frequency_ppm: Some(-12.0312),
        frequency_bound_ppm: Some(0.052),
        temperature_c: Some(48.23),
        last_sync_time: Some("2026-11-22T11:56:10.123Z".into()),
        ntp_enabled: true,
        drift_threshold_ms: 20.0,
        sync_interval_s: 300.0,
        steps: 1,
        servers: four_servers(),
        ..Status::default()
    }
}

fn blind() -> Status {
    let mut status = in_sync();
    status.state = SyncPhase::Holdover;
    status.quality = Quality::Good;
    status.error_bound_us = Some(8_300.0);
    for server in &mut status.servers {
        server.role = Role::Unreachable;
        server.why = Some("no way there: network is unreachable".into());
    }
    status.holdover = Some(HoldoverStatus {
        since: "2026-11-22T09:40:12Z".into(),
        age_s: 8_268.0,
        within_threshold_for_s: Some(4_320.0),
    });
    status
}

// ── the verdict ──────────────────────────────────────────────────────────────────────────

#[test]
fn in_sync_says_within_what_and_who_agrees() {
    let mut status = in_sync();
    assert_eq!(words::verdict(&status), "In sync: within 2 ms of UTC, 3 of 4 servers agree");
    status.timers = vec![json!({
        "name": "Bay 2", "connected": true, "bound_ms": 6.2, "calibrated": false
    })];
    assert_eq!(
        words::verdict(&status),
        "In sync: within 2 ms of UTC, 3 of 4 servers agree, timer Bay 2 within 7 ms (uncalibrated)"
    );
}

#[test]
fn without_network_it_says_since_when_within_what_and_until_when() {
    let mut status = blind();
    assert_eq!(
        words::verdict(&status),
        "No network since 09:40 UTC; within 9 ms now, within 20 ms until about 13:10 UTC"
    );
    status.holdover.as_mut().expect("blind").within_threshold_for_s = None;
    status.error_bound_us = Some(31_000.0);
    assert_eq!(
        words::verdict(&status),
        "No network since 09:40 UTC; within 32 ms now, no longer within 20 ms"
    );
    status.servers[0].role = Role::Rejected;
    assert!(words::verdict(&status).starts_with("No usable server since 09:40 UTC"));
}

#[test]
fn one_server_alone_is_no_second_opinion() {
    let mut status = in_sync();
    status.servers.truncate(1);
    status.verified = false;
    assert_eq!(
        words::verdict(&status),
        "In sync: within 2 ms of UTC, by its only server (no second opinion)"
    );
}

#[test]
fn far_off_says_which_way_and_what_is_done_about_it() {
    let mut status = in_sync();
    status.offset_us = Some(80_000.0);
    assert_eq!(
        words::verdict(&status),
        "Off by 82 ms: the clock is 80.0 ms behind, being corrected; 3 of 4 servers agree"
    );
    status.offset_us = Some(-80_000.0);
    status.locks = vec![LockStatus { name: "match".into(), ends_in_s: 60.0 }];
    assert_eq!(
        words::verdict(&status),
        "Off by 82 ms: the clock is 80.0 ms ahead, corrected after match; 3 of 4 servers agree"
    );
    status.steering = false;
    assert!(words::verdict(&status).contains("ahead, not corrected; "));
    status.offset_us = Some(1_000.0);
    status.error_bound_us = Some(40_000.0);
    assert!(words::verdict(&status).starts_with("Not sure: somewhere within 41 ms of UTC"));
}

#[test]
fn before_the_first_answer_nothing_is_invented() {
    let mut status = Status { ntp_enabled: true, servers: four_servers(), ..Status::default() };
    for server in &mut status.servers {
        *server = self::server(&server.name, Role::Waiting, None);
    }
    assert_eq!(words::verdict(&status), "Starting: none of 4 servers has answered yet");
    status.state = SyncPhase::Restored;
    assert_eq!(
        words::verdict(&status),
        "Time taken from the last run, behind by however long the power was off; \
         none of 4 servers has answered yet"
    );
    status.state = SyncPhase::Unsynchronised;
    status.servers[1].replies = 1;
    assert_eq!(
        words::verdict(&status),
        "Not in sync: 1 of 4 servers have answered, but none is believed yet"
    );
    let text = status::text(&status, Paint::PLAIN);
    assert!(text.contains("how far off is unknown"), "{text}");
    assert!(!text.contains(" 0 µs") && !text.contains("NaN"), "{text}");
}

#[test]
fn frozen_names_the_reason_and_goes_before_quality() {
    let mut status = in_sync();
    status.state = SyncPhase::Frozen;
    status.frozen = Some("the clock was set by others 3 times in an hour".into());
    assert_eq!(
        words::verdict(&status),
        "Frozen, nothing is corrected: the clock was set by others 3 times in an hour"
    );
    assert_eq!(words::exit_code(&status), 7);
    assert!(status::check_line(&status).starts_with("FROZEN - Frozen, nothing is corrected"));
}

#[test]
fn every_quality_has_its_exit_code() {
    let code = |quality| words::exit_code(&Status { quality, ..in_sync() });
    assert_eq!(
        [
            Quality::Excellent,
            Quality::Good,
            Quality::Fair,
            Quality::Poor,
            Quality::Critical,
            Quality::Unknown,
        ]
        .map(code),
        [0, 0, 3, 4, 5, 6]
    );
}

// ── figures ──────────────────────────────────────────────────────────────────────────────

#[test]
fn within_is_rounded_up_never_down() {
    for (us, text) in [
        (0.0, "10 µs"),
        (37.0, "40 µs"),
        (100.0, "0.1 ms"),
        (310.0, "0.4 ms"),
        (1_000.0, "1 ms"),
        (1_000.1, "2 ms"),
        (5_000.000_000_1, "5 ms"),
        (19_999.0, "20 ms"),
        (1_000_000.0, "1000 ms"),
        (1_210_000.0, "1.3 s"),
        (7_200e6, "2 h"),
    ] {
        assert_eq!(words::at_most(us), text, "{us}");
    }
}

#[test]
fn offsets_have_a_side_and_no_bare_sign() {
    assert_eq!(words::sided(420.0), "420 µs behind");
    assert_eq!(words::sided(-1_234.0), "1.23 ms ahead");
    assert_eq!(words::sided(0.0), "0 µs off");
    assert_eq!(words::sided(86_400e6), "24 h behind");
    assert_eq!(words::amount(f64::NAN), "unknown");
}

#[test]
fn spans_are_written_in_two_units() {
    for (s, text) in [
        (0.4, "0 s"),
        (119.0, "119 s"),
        (125.0, "2 min 5 s"),
        (3_540.0, "59 min"),
        (11_520.0, "3 h 12 min"),
        (200_000.0, "2 days 7 h"),
        (1.6e9, "50.7 years"),
    ] {
        assert_eq!(words::span(s), text, "{s}");
    }
}

// ── the whole text ───────────────────────────────────────────────────────────────────────

#[test]
fn the_status_in_sync_reads_so() {
    let mut status = in_sync();
    status.timers = vec![json!({
        "name": "Bay 2", "connected": false, "bound_ms": null, "calibrated": false,
        "last_heard": "2026-11-22T11:03:10Z", "message": "press a key"
    })];
    status.locks = vec![LockStatus { name: "match".into(), ends_in_s: 11_520.0 }];
    assert_eq!(
        status::text(&status, Paint::PLAIN),
        "\
In sync: within 2 ms of UTC, 3 of 4 servers agree, timer Bay 2 not connected

Clock    in sync, verified; quality excellent, within 2 ms
         120 µs behind, give or take 1.45 ms (95 %); guaranteed 19 ms
         rate corrected by -12.031 ppm, give or take 0.052; processor at 48.2 °C
         being kept right, 1 step; last measured 11:56 UTC
Servers  asked every 5 min
         + pool.ntp.org         in use (310 µs behind, round trip 28.1 ms, stratum 1, heard 12 s ago)
         + time.nist.gov        in use (310 µs behind, round trip 28.1 ms, stratum 1, heard 12 s ago)
         x time.google.com      outvoted: 300 ms away from the majority (310 µs behind, round trip 28.1 ms, stratum 1, heard 12 s ago)
         + time.cloudflare.com  in use (310 µs behind, round trip 28.1 ms, stratum 1, heard 12 s ago)
Timers   Bay 2: not connected, last heard 11:03 UTC, press a key
Alerts   none
Locks    match holds the clock still, 3 h 12 min left
Next     nothing to do
"
    );
}

#[test]
fn the_status_without_network_reads_so() {
    let mut status = blind();
    status.alert = Some(AlertStatus {
        level: "drift".into(),
        since: "2026-11-22T11:50:00Z".into(),
        worst_us: 21_400.0,
        message: "the clock may be 21 ms wrong; the limit is 20 ms".into(),
    });
    status.hints = vec!["Plug in a network, or set the time by hand.".into()];
    let text = status::text(&status, Paint::PLAIN);
    for line in [
        "No network since 09:40 UTC; within 9 ms now, within 20 ms until about 13:10 UTC",
        "Clock    carried by its learned rate; quality good, within 9 ms",
        "         holding over since 09:40 UTC, within ±20 ms for another 72 min",
        "         ? time.nist.gov        silent: no way there: network is unreachable",
        "Timers   none",
        "Alerts   drift since 11:50 UTC, at worst 21.4 ms: the clock may be 21 ms wrong; the limit is 20 ms",
        "Next     Plug in a network, or set the time by hand.",
    ] {
        assert!(text.lines().any(|l| l.starts_with(line)), "missing: {line}\n{text}");
    }
}

#[test]
fn watching_only_says_why() {
    let mut status = in_sync();
    status.steering = false;
    status.steering_why = Some("this process may not set the clock (CAP_SYS_TIME)".into());
    let text = status::text(&status, Paint::PLAIN);
    assert!(text.contains("only watched: this process may not set the clock (CAP_SYS_TIME)"));
}

#[test]
fn colour_is_only_paint() {
    let bright = status::text(&in_sync(), Paint::BRIGHT);
    assert!(bright.starts_with("\x1b[32mIn sync"), "{bright}");
    let mut plain = String::new();
    let mut rest = bright.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').expect("a colour ends").1;
    }
    plain.push_str(rest);
    assert_eq!(plain, status::text(&in_sync(), Paint::PLAIN));
}

#[test]
fn the_live_view_has_small_graphs() {
    assert_eq!(watch::sparks(&[0.0, 1.0, 2.0, 7.0]), "▁▂▃█");
    assert_eq!(watch::sparks(&[5.0, 5.0]), "▄▄");
    assert_eq!(watch::sparks(&[1.0, f64::NAN, 2.0]), "▁ █");
    let history: Vec<Measurement> = (0..100)
        .map(|i| Measurement {
            time: Moment::try_from(format!("2026-11-22T11:{:02}:00Z", i % 60)).unwrap(),
            offset_us: f64::from(i) * 10.0 - 500.0,
            error_bound_us: 900.0,
            frequency_ppm: -12.0,
            ..Measurement::default()
        })
        .collect();
    let view = watch::view(&in_sync(), &history, Paint::PLAIN);
    assert!(view.contains("100 µs ahead to 490 µs behind"), "{view}");
    assert!(view.contains("the last 60 measurements, since 11:40 UTC"), "{view}");
    assert_eq!(watch::view(&in_sync(), &[], Paint::PLAIN), status::text(&in_sync(), Paint::PLAIN));
    let mut screen = watch::Screen::default();
    assert!(screen.draw("a\nb\n", None).starts_with("\x1b[2J\x1b[Ha\x1b[K\r\n"));
    assert!(screen.draw("a\n", None).starts_with("\x1b[Ha"));
    let small = screen.draw("\x1b[31mabcdef\x1b[0m\nb\nc\nd\n", Some((4, 5)));
    assert_eq!(
        small, "\x1b[H\x1b[31mabcde\x1b[0m\x1b[K\r\nb\x1b[K\r\n… 2 m\x1b[K\r\n\x1b[J",
        "cut to four rows of five"
    );
}

// ── the program itself ───────────────────────────────────────────────────────────────────

fn program(socket: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_leadville-timesync"))
        .args(args)
        .env("LEADVILLE_SOCKET", socket)
        .env_remove("XDG_RUNTIME_DIR")
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// A daemon that answers each request by `answer`, and sends `events` to a subscriber.
fn daemon(
    answer: fn(&Value) -> Value,
    events: &'static [&'static str],
) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("timesync.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let mut lines = BufReader::new(stream.try_clone().expect("a copy")).lines();
            std::thread::spawn(move || {
                while let Some(Ok(line)) = lines.next() {
                    let request: Value = serde_json::from_str(&line).expect("a request is JSON");
                    writeln!(stream, "{}", answer(&request)).expect("answered");
                    if request["do"] == "subscribe" {
                        for event in events {
                            writeln!(stream, "{event}").expect("told");
                        }
                    }
                }
            });
        }
    });
    (folder, path)
}

fn plain_answers(request: &Value) -> Value {
    match request["do"].as_str().expect("a verb") {
        "status" => {
            let mut status = serde_json::to_value(in_sync()).expect("JSON");
            status["reply"] = "status".into();
            status
        }
        "sources" => json!({"v": 1, "reply": "sources", "servers": four_servers()}),
        "history" => json!({"v": 1, "reply": "history", "history": [
            {"time": "2026-11-20T11:00:00Z", "raw_ns": 1, "offset_us": 1.5, "error_bound_us": 2.5,
             "frequency_ppm": -12.0, "quality": "good", "temperature_c": null},
            {"time": "2026-11-22T11:00:00Z", "raw_ns": 2, "offset_us": -3.5, "error_bound_us": 4.5,
             "frequency_ppm": -12.1, "quality": "fair", "temperature_c": 48.5}]}),
        "stamp" => json!({"v": 1, "reply": "stamp", "utc": "2026-11-22T11:58:00.000000000Z",
            "utc_ns": NOON, "bound_us": 1450.0}),
        "subscribe" => json!({"v": 1, "reply": "subscribed"}),
        "step" => json!({"v": 1, "reply": "error",
            "error": "the clock is held still by match", "hint": "unlock it first"}),
        other => json!({"v": 1, "reply": "ok", "message": format!("{other} {request}")}),
    }
}

#[test]
fn without_a_daemon_it_says_where_it_looked_and_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("none.sock");
    for command in ["status", "sources", "history", "stamp", "lock", "step", "events", "watch"] {
        let output = program(&socket, &[command]);
        assert_eq!(code(&output), 1, "{command}");
        let error = stderr(&output);
        assert!(error.contains("no daemon is running"), "{command}: {error}");
        assert!(error.contains(&socket.display().to_string()), "{command}: {error}");
        assert!(error.contains("run --simulate"), "{command}: {error}");
        assert_eq!(stdout(&output), "", "{command}");
    }
}

#[test]
fn status_answers_in_words_in_json_and_by_its_exit_code() {
    let (_folder, socket) = daemon(plain_answers, &[]);
    let output = program(&socket, &["status"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).starts_with("In sync: within 2 ms of UTC, 3 of 4 servers agree\n\n"));
    assert!(!stdout(&output).contains('\x1b'), "no colour into a pipe");
    let json: Value =
        serde_json::from_str(&stdout(&program(&socket, &["status", "--json"]))).expect("JSON");
    assert_eq!(json["offset_us"], 120.0);
    assert_eq!(json["sync_quality"], "unknown");
    assert_eq!(json["temperature_c"], 48.23);
    let output = program(&socket, &["status", "--check"]);
    assert_eq!(stdout(&output).lines().count(), 1);
    assert!(stdout(&output).starts_with("EXCELLENT - In sync"));
    assert_eq!(code(&output), 0);
    let (_folder, socket) = daemon(
        |_| serde_json::to_value(Status { quality: Quality::Poor, ..in_sync() }).expect("JSON"),
        &[],
    );
    assert_eq!(code(&program(&socket, &["status", "--check"])), 4);
    assert_eq!(code(&program(&socket, &["status"])), 0);
}

#[test]
fn an_order_is_answered_by_a_sentence_and_a_refusal_by_its_reason() {
    let (_folder, socket) = daemon(plain_answers, &[]);
    let output = program(&socket, &["lock", "--name", "final", "--for", "90min"]);
    assert_eq!(code(&output), 0);
    let said = stdout(&output);
    assert!(said.contains("\"for_s\":5400.0") && said.contains("\"name\":\"final\""), "{said}");
    let output = program(&socket, &["step"]);
    assert_eq!(code(&output), 1);
    assert_eq!(
        stderr(&output),
        "leadville-timesync: the clock is held still by match\n  unlock it first\n"
    );
    let output = program(&socket, &["set-time", "2026-11-22T09:00:05Z", "--uncertainty", "3s"]);
    assert!(stdout(&output).contains("\"uncertainty_s\":3.0"), "{}", stdout(&output));
    for wrong in [
        &["set-time", "yesterday"][..],
        &["lock", "--for", "5"],
        &["lock", "--for", "-5min"],
        &["lock", "--name", ""],
        &["wait", "--max-error", "0ms"],
        &["query"],
        &["query", "ntp://a.example"],
        &["query", "127.0.0.1", "--count", "0"],
        &["status", "--jsn"],
        &["nonsense"],
        &[],
    ] {
        assert_eq!(code(&program(&socket, wrong)), 2, "{wrong:?}");
    }
}

#[test]
fn history_is_told_in_words_json_or_csv_and_since_when_one_likes() {
    let (_folder, socket) = daemon(plain_answers, &[]);
    let csv = stdout(&program(&socket, &["history", "--csv"]));
    assert_eq!(
        csv,
        "time,raw_ns,offset_us,error_bound_us,frequency_ppm,quality,temperature_c\n\
         2026-11-20T11:00:00.000000Z,1,1.5,2.5,-12,good,\n\
         2026-11-22T11:00:00.000000Z,2,-3.5,4.5,-12.1,fair,48.5\n"
    );
    let text = stdout(&program(&socket, &["history", "--since", "24h"]));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("4 µs ahead"), "{text}");
    let json: Value =
        serde_json::from_str(&stdout(&program(&socket, &["history", "--json"]))).expect("JSON");
    assert_eq!(json["history"].as_array().expect("a list").len(), 2);
    assert_eq!(json["history"][0]["temperature_c"], Value::Null);
}

/// Answers of a daemon that keeps a record of the day before.
fn recorded_answers(request: &Value) -> Value {
    match (request["do"].as_str(), request["day"].as_str()) {
        (Some("record"), None) => {
            json!({"v": 1, "reply": "record", "days": ["2026-11-20", "2026-11-22"]})
        }
        (Some("record"), Some("2026-11-22")) => json!({"v": 1, "reply": "record", "damaged": 0,
            "marks": [{"time": "2026-11-22T10:30:00Z", "kind": "string", "text": "Bay 2, 6 shots"}],
            "points": [{"time": "2026-11-22T10:00:00Z", "offset_us": 7000.0, "error_bound_us": 900.0,
                "low_us": 1.0, "high_us": 2.0, "frequency_ppm": -12.5, "temperature_c": 51.0,
                "state": "synchronised", "measurements": 4}]}),
        (Some("record"), Some(other)) => panic!("{other} was not asked for"),
        _ => plain_answers(request),
    }
}

#[test]
fn history_reaches_back_into_the_record_and_is_drawn() {
    let (folder, socket) = daemon(recorded_answers, &[]);
    let csv = stdout(&program(&socket, &["history", "--since", "24h", "--csv"]));
    let lines: Vec<&str> = csv.lines().skip(1).collect();
    assert_eq!(lines[0], "2026-11-22T10:00:00Z,,7000,900,-12.5,good,51");
    assert!(
        lines.len() == 2 && lines[1].starts_with("2026-11-22T11:00:00.000000Z,2,-3.5"),
        "{csv}"
    );
    let text = stdout(&program(&socket, &["history", "--since", "24h"]));
    assert!(text.lines().count() == 2 && text.contains("7.00 ms behind"), "{text}");
    let json: Value =
        serde_json::from_str(&stdout(&program(&socket, &["history", "--since", "24h", "--json"])))
            .expect("JSON");
    assert_eq!(json["marks"][0]["text"], "Bay 2, 6 shots");
    assert_eq!(json["points"].as_array().expect("a list").len(), 2);

    let file = folder.path().join("chart.svg");
    let said = stdout(&program(&socket, &["history", "--svg", file.to_str().expect("UTF-8")]));
    assert!(said.starts_with("2 points drawn"), "{said}");
    let chart = std::fs::read_to_string(&file).expect("drawn");
    assert!(chart.starts_with("<svg") && chart.contains("Offset from UTC"), "{chart}");
    assert!(chart.contains("Bay 2, 6 shots"), "what happened is in it");
    assert_eq!(stdout(&program(&socket, &["history", "--svg", "-"])).trim(), chart.trim());
}

#[test]
fn a_stamp_and_the_sources_are_told_with_their_bounds() {
    let (_folder, socket) = daemon(plain_answers, &[]);
    let said = stdout(&program(&socket, &["stamp"]));
    assert_eq!(said, "2026-11-22T11:58:00.000000000Z, within 2 ms\n");
    let said = stdout(&program(&socket, &["sources"]));
    assert!(said.contains("outvoted: 300 ms away from the majority"), "{said}");
    assert!(said.contains("192.0.2.1:123; 12 requests, 12 usable replies; guaranteed 19 ms"));
}

#[test]
fn past_events_end_and_are_told_in_words() {
    let (_folder, socket) = daemon(
        plain_answers,
        &[
            r#"{"v":1,"event":"alert","utc":"2026-11-22T11:50:00Z","message":"the clock may be 21 ms wrong"}"#,
            r#"{"v":1,"event":"step","utc":"2026-11-22T11:51:00Z","raw_ns":5,"offset_us":-80000.0,"why":"first fix"}"#,
        ],
    );
    let said = stdout(&program(&socket, &["events", "--since", "1h"]));
    assert_eq!(
        said,
        "2026-11-22T11:50:00Z  alert: the clock may be 21 ms wrong\n\
         2026-11-22T11:51:00Z  step, offset -80.0 ms, why first fix\n"
    );
    let said = stdout(&program(&socket, &["events", "--json"]));
    assert_eq!(said.lines().count(), 2);
    assert!(said.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn wait_ends_when_the_time_is_right_and_gives_up_with_a_reason() {
    let (_folder, socket) = daemon(plain_answers, &[]);
    let output = program(&socket, &["wait", "--max-error", "2ms", "--timeout", "5s"]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).starts_with("In sync"));
    let output = program(&socket, &["wait", "--max-error", "1ms", "--timeout", "200ms"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("not within 1ms after 0 s: In sync: within 2 ms"));
    let nobody = socket.with_file_name("nobody.sock");
    let output = program(&nobody, &["wait", "--timeout", "100ms"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("no daemon is running"), "{}", stderr(&output));
}

#[test]
fn a_daemon_that_talks_nonsense_is_an_error_in_words() {
    for answer in [
        (|_| json!([1, 2])) as fn(&Value) -> Value,
        |_| json!({"v": 9, "reply": "status", "offset_us": "much"}),
        |_| Value::Null,
    ] {
        let (_folder, socket) = daemon(answer, &[]);
        let output = program(&socket, &["status"]);
        assert_eq!(code(&output), 1);
        assert!(stderr(&output).contains("not understood"), "{}", stderr(&output));
    }
}

/// A configuration with a misspelt key at line 2, column 3.
fn misspelt(folder: &tempfile::TempDir) -> PathBuf {
    let file = folder.path().join("timesync.toml");
    std::fs::write(&file, "[ntp]\n  timeoot = \"1s\"\n").expect("written");
    file
}

#[test]
fn the_configuration_is_checked_with_the_line_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = misspelt(&folder);
    let path = file.to_str().expect("UTF-8");
    let output = program(&file, &["check-config", path]);
    assert_eq!(code(&output), 1);
    assert_eq!(
        stderr(&output),
        format!(
            "leadville-timesync: {path}:2:3: unknown key timeoot in [ntp]; did you mean timeout?\n\
             \x20   timeoot = \"1s\"\n    ^\n"
        )
    );
    std::fs::write(&file, "[ntp]\nservers = [\"a.example\"]\n").expect("written");
    let output = program(&file, &["check-config", path]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("right (1 server)\nNote: Only one server"));
    let output = program(&file, &["run", "--config", "/nowhere/x.toml"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("/nowhere/x.toml: there is no such file"));
}

#[test]
fn the_service_manager_is_told_where_the_mistake_in_the_configuration_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = misspelt(&folder);
    let place = folder.path().join("notify");
    let manager = UnixDatagram::bind(&place).expect("bound");
    manager.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("set");
    let output = Command::new(env!("CARGO_BIN_EXE_leadville-timesync"))
        .args(["run", "--config", file.to_str().expect("UTF-8")])
        .env("NOTIFY_SOCKET", &place)
        .output()
        .expect("it runs");
    assert_eq!(code(&output), 1);
    let mut told = [0; 4096];
    let n = manager.recv(&mut told).expect("something is told");
    let told = String::from_utf8_lossy(&told[..n]);
    let sentence = stderr(&output).lines().next().unwrap_or_default().to_owned();
    assert!(sentence.contains("timesync.toml:2:3: unknown key timeoot"), "{sentence}");
    assert_eq!(told.trim_end(), sentence.replacen("leadville-timesync: ", "STATUS=", 1));
}

/// The daemon of `run --simulate`; ended when this goes.
struct Simulated(std::process::Child);

impl Drop for Simulated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_simulated_daemon_answers_a_second_terminal_and_ends_within_a_second() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("timesync.sock");
    let child = Command::new(env!("CARGO_BIN_EXE_leadville-timesync"))
        .args(["run", "--simulate", "--plain"])
        .env("LEADVILLE_SOCKET", &socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the daemon starts");
    let mut daemon = Simulated(child);
    let output = program(&socket, &["wait", "--timeout", "60s"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).starts_with("In sync: within"), "{}", stdout(&output));
    let json: Value =
        serde_json::from_str(&stdout(&program(&socket, &["status", "--json"]))).expect("JSON");
    assert_eq!(json["v"], 1);
    assert_eq!(json["state"], "synchronised");
    assert!(json["error_bound_us"].as_f64().expect("a bound") > 0.0);
    assert_eq!(code(&program(&socket, &["lock", "--name", "final", "--for", "1min"])), 0);
    let said = stdout(&program(&socket, &["status"]));
    assert!(said.contains("final holds the clock still"), "{said}");
    assert_eq!(code(&program(&socket, &["step"])), 1, "not under a lock");
    assert_eq!(code(&program(&socket, &["unlock", "--name", "final"])), 0);
    assert!(stdout(&program(&socket, &["stamp"])).contains(", within "));
    let pid = nix::unistd::Pid::from_raw(daemon.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("told to stop");
    let mut tries = 0;
    let status = loop {
        match daemon.0.try_wait().expect("a child") {
            Some(status) => break status,
            None if tries < 40 => std::thread::sleep(std::time::Duration::from_millis(50)),
            None => panic!("it does not end"),
        }
        tries += 1;
    };
    assert!(status.success());
    assert!(!socket.exists(), "the socket is gone");
    assert_eq!(code(&program(&socket, &["status"])), 1);
}

fn until(socket: &Path, sentence: &str, condition: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..200 {
        let output = program(socket, &["status", "--json"]);
        if let Ok(status) = serde_json::from_str::<Value>(&stdout(&output))
            && condition(&status)
        {
            return status;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("never: {sentence}");
}

#[test]
fn on_a_range_without_internet_people_set_the_time_and_it_is_dated_by_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("timesync.sock");
    let config = folder.path().join("timesync.toml");
    std::fs::write(&config, "[ntp]\nenabled = false\n").expect("written");
    let child = Command::new(env!("CARGO_BIN_EXE_leadville-timesync"))
        .args(["run", "--simulate", "--plain", "--config"])
        .arg(&config)
        .env("LEADVILLE_SOCKET", &socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the daemon starts");
    let _daemon = Simulated(child);
    until(&socket, "it starts", |s| s["v"] == 1);
    assert_eq!(code(&program(&socket, &["stamp"])), 1, "nothing is known yet");
    let output = program(&socket, &["set-time", "2019-11-22T09:00:05Z"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("that cannot be"), "{}", stderr(&output));
    let only_try =
        json!({"do": "set-time", "utc": "2027-05-01T09:00:00Z", "how": "phone", "try": true});
    let weighed =
        Client::connect(std::slice::from_ref(&socket)).unwrap().request(&only_try).unwrap();
    assert_eq!((&weighed["reply"], &weighed["moves"]), (&json!("weighed"), &json!(true)));
    let words = weighed["message"].as_str().unwrap();
    assert!(words.starts_with("The clock would be set forward by "), "{words}");
    assert!(words.ends_with("and be right within 2.0 s, until a server says better."), "{words}");
    let status = until(&socket, "nothing was done", |s| s["takes_word"] == true);
    assert!(status["by_hand"].is_null() && status["steps"] == 0, "{status}");
    let output = program(&socket, &["set-time", "2027-05-01T09:00:00Z", "--uncertainty", "2s"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "the time is set by hand, within 2.0 s, until a server says better\n"
    );
    let status = until(&socket, "the word is in force", |s| s["by_hand"].is_object());
    assert_eq!(status["by_hand"]["how"], "set-time");
    assert_eq!(status["state"], "holdover");
    assert_eq!((&status["settled"], &status["verified"]), (&json!(false), &json!(false)));
    assert!(status["error_bound_us"].as_f64().expect("a bound") >= 2e6);
    let said = stdout(&program(&socket, &["status"]));
    assert!(said.starts_with("Time set by hand at 09:00 UTC; within 2.1 s now"), "{said}");
    let stamped = stdout(&program(&socket, &["stamp"]));
    assert!(stamped.starts_with("2027-05-01T09:00:"), "{stamped}");
}

#[test]
fn servers_that_were_heard_are_not_overruled_by_a_word() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("timesync.sock");
    let child = Command::new(env!("CARGO_BIN_EXE_leadville-timesync"))
        .args(["run", "--simulate", "--plain"])
        .env("LEADVILLE_SOCKET", &socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the daemon starts");
    let _daemon = Simulated(child);
    let status = until(&socket, "it synchronises", |s| s["state"] == "synchronised");
    assert!(status["by_hand"].is_null() && status["takes_word"] == false);
    let output = program(&socket, &["set-time", "2027-05-01T09:00:00Z"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("gives way to them"), "{}", stderr(&output));
}

#[test]
fn a_scenario_that_is_not_there_is_a_matter_of_usage() {
    let output = program(Path::new("/none"), &["simulate", "S77"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("there is no scenario \"S77\"; there are S1, S2"));
}

// ── query ────────────────────────────────────────────────────────────────────────────────

/// A server on loopback; `answer` changes the reply before it is sent.
fn ntp_server(answer: fn(&mut [u8; 48])) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        let mut request = [0; 512];
        while let Ok((_, peer)) = socket.recv_from(&mut request) {
            let mut reply = [0_u8; 48];
            reply[0] = 0b00_100_100;
            reply[1] = 1;
            reply[3] = 0xec;
            reply[12..16].copy_from_slice(b"TEST");
            reply[24..32].copy_from_slice(&request[40..48]);
            let now = leadville_timesync::os::clock::read().utc;
            let ntp = leadville_timesync::engine::packet::ntp(now).to_be_bytes();
            reply[32..40].copy_from_slice(&ntp);
            reply[40..48].copy_from_slice(&ntp);
            answer(&mut reply);
            let _ = socket.send_to(&reply, peer);
        }
    });
    port
}

#[test]
fn query_tells_the_offset_of_each_server() {
    let right = ntp_server(|_| {});
    // One hour ahead: 3600 s in the upper half of both times.
    let ahead = ntp_server(|reply| {
        for at in [32, 40] {
            let s = u32::from_be_bytes(reply[at..at + 4].try_into().expect("four bytes"));
            reply[at..at + 4].copy_from_slice(&(s + 3600).to_be_bytes());
        }
    });
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().expect("bound").port();
    let [right, ahead, silent] = [right, ahead, silent].map(|port| format!("127.0.0.1:{port}"));
    let args = ["query", &right, &ahead, &silent, "--timeout", "1s", "--json"];
    let output = program(Path::new("/none"), &args);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let json: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let offset = |index: usize| json["servers"][index]["offset_us"].as_f64();
    assert!(offset(0).expect("an offset").abs() < 50_000.0, "{json}");
    assert!((offset(1).expect("an offset") - 3_600e6).abs() < 50_000.0, "positive: behind {json}");
    assert_eq!(json["servers"][2]["offset_us"], Value::Null);
    assert!(json["servers"][2]["error"].is_string());
    assert_eq!(json["servers"][0]["reference_id"], "TEST");
    let said = stdout(&program(Path::new("/none"), &["query", &ahead, "--count", "3"]));
    assert!(said.contains("we are 60 min behind; round trip"), "{said}");
    assert!(said.contains("quickest of 3 answers to 3 requests"), "{said}");
}

#[test]
fn query_fails_when_nobody_gave_an_offset_and_says_why() {
    let unsynchronised = ntp_server(|reply| reply[0] |= 0b11_000_000);
    let kiss = ntp_server(|reply| {
        reply[1] = 0;
        reply[12..16].copy_from_slice(b"RATE");
    });
    let [unsynchronised, kiss] = [unsynchronised, kiss].map(|port| format!("127.0.0.1:{port}"));
    let output = program(Path::new("/none"), &["query", &unsynchronised, &kiss]);
    assert_eq!(code(&output), 1);
    let said = stdout(&output);
    assert!(said.contains("server is not synchronised"), "{said}");
    assert!(said.contains("asked us to ask less often"), "{said}");
}

// ── moving over ──────────────────────────────────────────────────────────────────────────

const FIRST_LAYOUT: &str = r#"{"amg_timer": {"device_id": "60:09:c3:00:00:01",
 "uuid": "6e400003-b5a3-f393-e0a9-e50e24dcca9e", "frame_validation": true,
 "simulation_mode": false, "health_monitoring": {"enabled": true, "rssi_check_interval_sec": 30.0},
 "time_synchronization": {"enabled": true, "sync_interval_minutes": 2.5, "drift_threshold_ms": 10,
  "enable_correction": false,
  "ntp": {"enabled": true, "servers": ["pool.ntp.org", "time.nist.gov"],
          "timeout_seconds": 8, "max_retries": 5}}},
 "mqtt": {"host": "x"}, "odd": 1,
 "simulation": {"mode": "rapid_fire", "num_shots": 6, "custom_sequence": [1.2, 1.5]}}"#;

fn imported(json: &str) -> (Output, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dev_config.json");
    std::fs::write(&file, json).expect("written");
    let path = file.to_str().expect("UTF-8").to_owned();
    (program(&file, &["import-config", &path]), path)
}

#[test]
fn the_first_layout_is_taken_over_and_what_is_left_is_named() {
    use leadville_timesync::config::{Config, Mode};
    use leadville_timesync::units::Nanos;
    let (output, _) = imported(FIRST_LAYOUT);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let config = Config::parse(&stdout(&output), "made").expect("a right configuration");
    assert_eq!(config.ntp.sync_interval, Nanos::from_secs(150));
    assert_eq!(config.ntp.timeout, Nanos::from_secs(8));
    assert_eq!(config.ntp.max_retries, 5);
    assert_eq!(config.ntp.servers.len(), 2);
    assert_eq!(config.alert.drift_threshold, Nanos::from_millis(10));
    assert!(!config.clock.steer);
    assert!(config.bluetooth.enabled);
    assert_eq!(config.timer[0].address, "60:09:C3:00:00:01");
    assert_eq!(config.simulation.mode, Mode::RapidFire);
    assert_eq!(config.simulation.num_shots, 6);
    assert_eq!(config.simulation.custom_sequence.len(), 2);
    let told = stderr(&output);
    for left in [
        "left:  mqtt: it belongs to another program",
        "left:  odd: nothing here corresponds to it",
        "left:  amg_timer.uuid: the timer's service is known",
        "left:  amg_timer.frame_validation: every frame is checked, always",
        "taken: amg_timer.time_synchronization.sync_interval_minutes → ntp.sync_interval = \"150s\"",
    ] {
        assert!(told.lines().any(|line| line == left), "missing: {left}\n{told}");
    }
    assert!(stdout(&output).contains("#   mqtt: it belongs to another program\n"));
    assert!(stdout(&output).contains("# Longest wait for a reply."), "comments are kept");
}

#[test]
fn the_later_layout_is_taken_over_too() {
    use leadville_timesync::config::Config;
    use leadville_timesync::units::Nanos;
    let (output, _) = imported(
        r#"{"timer": {"vendor": "amg_labs", "amg_labs": {"device_id": "60:09:C3:00:00:02"},
            "specialpie": {"device_id": "x"},
            "time_synchronization": {"enabled": false, "drift_threshold_ms": 100}}}"#,
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let config = Config::parse(&stdout(&output), "made").expect("a right configuration");
    assert_eq!(config.timer[0].address, "60:09:C3:00:00:02");
    assert!(!config.ntp.enabled && !config.clock.steer);
    assert_eq!(config.alert.drift_threshold, Nanos::from_millis(100));
    assert!(stderr(&output).contains("left:  timer.specialpie: timers of specialpie are not"));
}

#[test]
fn nonsense_is_refused_with_line_and_column() {
    for (json, place, sentence) in [
        ("{\"amg_timer\": {\n  \"device_id\": }}", "2:16", "this is not JSON"),
        ("", "1:1", "this is not JSON"),
        ("[]", "1:1", "this must be an object"),
        ("{\"mqtt\": {}}", "1:1", "nothing to import"),
        ("{\"amg_timer\": 7}", "1:15", "amg_timer: it must be an object"),
        (
            "{\"timer\": {\"time_synchronization\":\n {\"ntp\": {\"timeout_seconds\": \"ten\"}}}}",
            "2:30",
            "timer.time_synchronization.ntp.timeout_seconds: it must be a number",
        ),
        (
            "{\"amg_timer\": {\"time_synchronization\": {\"sync_interval_minutes\": 0.1}}}",
            "1:66",
            "\"6s\" is too short: it must be from \"16s\" to \"24h\"",
        ),
        ("{\"amg_timer\": {\"device_id\": \"twelve\"}}", "1:29", "is not a Bluetooth address"),
        (
            "{\"amg_timer\": {\"time_synchronization\": {\"ntp\": {\"servers\": [\"a\", \"b c\"]}}}}",
            "1:66",
            "cannot stand in a name",
        ),
        (
            "{\"amg_timer\": {\"time_synchronization\": {\"drift_threshold_ms\": 1e300}}}",
            "1:63",
            "sensible",
        ),
    ] {
        let (output, path) = imported(json);
        assert_eq!(code(&output), 1, "{json}");
        let error = stderr(&output);
        assert!(error.contains(&format!("{path}:{place}: ")), "{place}: {error}");
        assert!(error.contains(sentence), "{sentence}: {error}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn what_is_no_text_is_refused_with_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dev_config.json");
    std::fs::write(&file, b"{\n  \"\xc3\xa9\xff\": 1}").unwrap();
    let output = program(Path::new("/none"), &["import-config", file.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("dev_config.json:2:5: this is not text"), "{output:?}");
}

#[test]
fn a_timer_of_another_vendor_is_not_taken_from_the_section_that_was_off() {
    let (output, _) = imported(
        r#"{"timer": {"vendor": "specialpie", "amg_labs": {"device_id": "60:09:C3:00:00:02"}}}"#,
    );
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(stderr(&output).contains("left:  timer.amg_labs: the vendor in use is specialpie"));
    let config =
        leadville_timesync::config::Config::parse(&stdout(&output), "made").expect("right");
    assert!(config.timer.is_empty() && !config.bluetooth.enabled);
}

#[test]
fn a_file_that_is_there_is_not_written_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let (from, to) = (folder.path().join("dev_config.json"), folder.path().join("timesync.toml"));
    std::fs::write(&from, FIRST_LAYOUT).expect("written");
    std::fs::write(&to, "mine").expect("written");
    let (from, to) = (from.to_str().expect("UTF-8"), to.to_str().expect("UTF-8"));
    let output = program(Path::new("/none"), &["import-config", from, "-o", to]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("is there already"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(to).expect("read"), "mine");
    let output = program(Path::new("/none"), &["import-config", from, "-o", to, "--force"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(std::fs::read_to_string(to).expect("read").starts_with("# Made from "));
}
