//! The configuration file, right and wrong in every way somebody will write it.
use leadville_timesync::config::{
    Config, DEFAULT_TEXT, Network, ServerEntry, Timer, nearby, parse_span,
};
use leadville_timesync::units::{Nanos, Ppm};

fn refused(text: &str) -> String {
    match Config::parse(text, "t.toml") {
        Ok(_) => panic!("accepted, but should not be:\n{text}"),
        Err(error) => error.to_string(),
    }
}

fn accepted(text: &str) -> Config {
    Config::parse(text, "t.toml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn the_documented_file_is_the_default() {
    assert_eq!(accepted(DEFAULT_TEXT), Config::default());
    assert_eq!(accepted(""), Config::default());
}

/// Paths of all keys that stand in a TOML text.
fn keys(text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().expect("valid TOML");
    let mut keys = Vec::new();
    for (section, value) in &table {
        match value {
            toml::Value::Table(inner) => {
                keys.extend(inner.keys().map(|key| format!("{section}.{key}")));
            }
            _ => keys.push(section.clone()),
        }
    }
    keys
}

#[test]
fn the_documented_file_names_every_key() {
    let documented = keys(DEFAULT_TEXT);
    let error = refused("zzzzzzzzzzzz = 1\n");
    let (_, tables) = error.split_once("possible here: ").expect("the tables are listed");
    let tables: Vec<&str> = tables.split(", ").filter(|t| !["led", "timer"].contains(t)).collect();
    assert!(tables.contains(&"ntp") && tables.contains(&"gps"), "{tables:?}");
    for section in tables {
        // serde's own list of what may stand in the table
        let error = refused(&format!("[{section}]\nzzzzzzzzzzzz = 1\n"));
        let (_, possible) = error.split_once("possible here: ").expect("the keys are listed");
        for key in possible.split(", ") {
            let path = format!("{section}.{key}");
            assert!(documented.contains(&path), "{path} is missing in config/timesync.toml");
        }
    }
}

#[test]
fn the_documented_timer_is_the_default_timer() {
    let example: Vec<&str> = DEFAULT_TEXT
        .lines()
        .skip_while(|line| *line != "#[[timer]]")
        .map_while(|line| line.strip_prefix('#'))
        .collect();
    let example = example.join("\n");
    assert_eq!(accepted(&example).timer, [Timer::default()]);
    let error = refused("[[timer]]\nzzzzzzzzzzzz = 1\n");
    let (_, possible) = error.split_once("possible here: ").expect("the keys are listed");
    for key in possible.split(", ") {
        assert!(example.contains(&format!("\n{key} = ")), "{key} of [[timer]] is not documented");
    }
}

#[test]
fn the_defaults_are_the_originals() {
    let config = Config::default();
    let names: Vec<&str> = config.ntp.servers.iter().map(ServerEntry::text).collect();
    assert_eq!(names, ["pool.ntp.org", "time.nist.gov", "time.google.com", "time.cloudflare.com"]);
    assert!(config.ntp.servers[0].is_pool() && config.ntp.servers[2].smeared());
    assert_eq!(config.ntp.timeout, Nanos::from_secs(10));
    assert_eq!(config.ntp.sync_interval, Nanos::from_secs(300));
    assert_eq!(config.ntp.max_retries, 3);
    assert_eq!(config.alert.drift_threshold, Nanos::from_millis(20));
    assert_eq!(config.simulation.num_shots, 5);
}

#[test]
fn a_misspelt_key_is_named_with_its_place_and_what_was_meant() {
    assert_eq!(
        refused("[ntp]\nenabled = true\nsync_intervall = \"5min\"\n"),
        "t.toml:3:1: unknown key sync_intervall in [ntp]; did you mean sync_interval?"
    );
    assert_eq!(refused("[ntpp]\n"), "t.toml:1:2: unknown key ntpp; did you mean ntp?");
    assert_eq!(
        refused("[alert]\n  drift_threshold_ms = 20\n"),
        "t.toml:2:3: unknown key drift_threshold_ms in [alert]; \
         it is now drift_threshold = \"20ms\" in [alert]"
    );
    assert_eq!(
        refused("steer = false\n"),
        "t.toml:1:1: unknown key steer; it belongs under [clock]"
    );
    assert_eq!(
        refused("[ntp]\nservers = [{ address = \"a.example\", trusted = true }]\n"),
        "t.toml:2:37: unknown key trusted in [ntp.servers.1]; did you mean trust?"
    );
}

#[test]
fn a_wrong_type_is_named_with_what_is_wanted() {
    for (text, error) in [
        (
            "[ntp]\nsync_interval = 5\n",
            "t.toml:2:17: ntp.sync_interval: this must be a span of time with its unit in quotes, \
             such as \"5min\" or \"20ms\", not integer 5",
        ),
        (
            "[clock]\nsteer = \"yes\"\n",
            "t.toml:2:9: clock.steer: this must be true or false, not the text \"yes\"",
        ),
        (
            "[ntp]\nmax_retries = 1.5\n",
            "t.toml:2:15: ntp.max_retries: this must be a whole number, not floating point 1.5",
        ),
        (
            "[ntp]\nservers = \"a.example\"\n",
            "t.toml:2:11: ntp.servers: this must be a list in [ ], not the text \"a.example\"",
        ),
        ("ntp = 3\n", "t.toml:1:7: ntp: this must be a table, not integer 3"),
        (
            "[log]\nlevel = \"inof\"\n",
            "t.toml:2:9: log.level: \"inof\" is none of \"error\", \"warn\", \"info\", \"debug\", \"trace\"; did you mean \"info\"?",
        ),
        (
            "[ntp]\nservers = [7]\n",
            "t.toml:2:12: ntp.servers.1: this must be a server's name or address in quotes, or { address = \"…\", … }, not integer 7",
        ),
        (
            "[ntp]\nservers = [{ trust = true }]\n",
            "t.toml:2:12: ntp.servers.1: the key address is missing",
        ),
    ] {
        assert_eq!(refused(text), error);
    }
}

/// Every key of the documented file once with a value of a wrong type, and of an absurd size.
#[test]
fn every_key_refuses_what_it_cannot_be() {
    let table: toml::Table = DEFAULT_TEXT.parse().expect("valid TOML");
    for (section, value) in &table {
        let toml::Value::Table(inner) = value else { continue };
        for (key, default) in inner {
            let mut wrong = vec!["{ odd = 1 }", "1979-05-27", "[[1]]", "nan", "-7", "99999999999"];
            match default {
                toml::Value::String(_) => wrong.push("true"),
                toml::Value::Boolean(_) => wrong.extend(["\"true\"", "1"]),
                toml::Value::Integer(_) => wrong.extend(["\"5\"", "true", "-1"]),
                _ => {}
            }
            for wrong in wrong {
                let error = refused(&format!("[{section}]\n{key} = {wrong}\n"));
                assert!(error.starts_with("t.toml:2:"), "{section}.{key} = {wrong}: {error}");
                assert!(error.contains(key.as_str()) || wrong.contains("odd"), "{error}");
            }
        }
    }
}

#[test]
fn every_span_has_bounds() {
    for key in [
        "ntp.sync_interval",
        "ntp.timeout",
        "clock.step_above",
        "clock.late_step_above",
        "clock.late_step_insist",
        "clock.step_budget",
        "alert.drift_threshold",
        "alert.clear_below",
        "alert.severe",
        "lock.default_length",
        "lock.string_after_stop",
        "lock.string_longest",
        "lock.string_link_lost",
        "state.clock_file_interval",
        "state.drift_file_interval",
        "state.history",
        "bluetooth.health_report_interval",
        "bluetooth.rssi_check_interval",
        "bluetooth.reconnect_at_most",
        "bluetooth.silence",
        "simulation.shot_interval",
        "simulation.start_delay",
        "simulation.timing_variance",
        "simulation.string_interval",
    ] {
        let (section, key) = key.split_once('.').expect("a dot");
        for (value, wrong) in [("-1s", "too short"), ("4000d", "too long")] {
            let error = refused(&format!("[{section}]\n{key} = \"{value}\"\n"));
            assert!(error.contains(wrong) && error.contains("it must be from"), "{error}");
        }
    }
    assert_eq!(
        refused("[ntp]\nsync_interval = \"5s\"\n"),
        "t.toml:2:17: ntp.sync_interval: \"5s\" is too short: it must be from \"16s\" to \"24h\""
    );
    assert_eq!(
        refused("[clock]\nmax_slew_ppm = 600\n"),
        "t.toml:2:16: clock.max_slew_ppm: 600 is out of bounds: it must be from 10 to 500"
    );
}

#[test]
fn a_key_or_table_that_stands_twice_is_refused() {
    assert_eq!(
        refused("[ntp]\ntimeout = \"1s\"\ntimeout = \"2s\"\n"),
        "t.toml:3:1: timeout stands here a second time"
    );
    let error = refused("[ntp]\n[clock]\n[ntp]\n");
    assert!(error.starts_with("t.toml:3:2: ntp stands here a second time"), "{error}");
    let error = refused("[ntp]\nservers = [\"a.example\", \"b.example\", \"A.example:123\"]\n");
    assert_eq!(error, "t.toml:2:38: ntp.servers.3: A.example:123 is named twice");
}

#[test]
fn no_server_one_server_and_two_hundred() {
    assert_eq!(
        refused("[ntp]\nservers = []\n"),
        "t.toml:2:11: ntp.servers: no server is named; name 1 to 16, or say enabled = false"
    );
    assert!(accepted("[ntp]\nenabled = false\nservers = []\n").ntp.servers.is_empty());
    assert_eq!(accepted("[ntp]\nservers = [\"10.0.2.2:1123\"]\n").ntp.servers.len(), 1);
    let list = |n: usize| (0..n).map(|i| format!("\"s{i}.example\"")).collect::<Vec<_>>().join(",");
    assert_eq!(accepted(&format!("[ntp]\nservers = [{}]\n", list(16))).ntp.servers.len(), 16);
    for n in [17, 200] {
        let error = refused(&format!("[ntp]\nservers = [{}]\n", list(n)));
        assert!(error.ends_with("servers are named, but at most 16 are possible"), "{error}");
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_fine() {
    let windows = format!("\u{feff}{}", DEFAULT_TEXT.replace('\n', "\r\n"));
    assert_eq!(accepted(&windows), Config::default());
    let error = refused("\u{feff}[ntp]\r\ntimeoout = \"1s\"\r\n");
    assert_eq!(error, "t.toml:2:1: unknown key timeoout in [ntp]; did you mean timeout?");
}

#[test]
fn a_broken_line_is_named() {
    for text in
        ["[ntp\n", "[ntp]\ntimeout = \n", "[ntp]\ntimeout = 10s\n", "\u{0}", "][", "ä = 1\n"]
    {
        let error = refused(text);
        assert!(error.starts_with("t.toml:"), "{error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("none.toml");
    let error = Config::load(&path).expect_err("missing").to_string();
    assert_eq!(error, format!("{}: there is no such file", path.display()));
    let error = Config::load(folder.path()).expect_err("a directory").to_string();
    assert!(error.ends_with("this is a directory, not a file"), "{error}");
    std::fs::write(&path, b"[ntp]\nenabled = \xff\n").expect("written");
    let error = Config::load(&path).expect_err("not text").to_string();
    assert_eq!(error, format!("{}:2:11: this is not UTF-8 text", path.display()));
    std::fs::write(&path, DEFAULT_TEXT).expect("written");
    assert_eq!(Config::load(&path).expect("fine"), Config::default());
}

#[test]
fn values_that_contradict_one_another_are_refused_where_they_stand() {
    for (text, error) in [
        (
            "[alert]\nclear_below = \"20ms\"\n",
            "t.toml:2:15: alert.clear_below: it must be less than drift_threshold (20ms)",
        ),
        (
            "[alert]\nsevere = \"10ms\"\n",
            "t.toml:2:10: alert.severe: it must be more than drift_threshold (20ms)",
        ),
        (
            "[ntp]\nsync_interval = \"16s\"\ntimeout = \"20s\"\n",
            "t.toml:3:11: ntp.timeout: it is longer than sync_interval (16s)",
        ),
        (
            "[ntp]\nservers = [\"a.example\"]\nmin_agreeing = 3\n",
            "t.toml:3:16: ntp.min_agreeing: 3 can never agree: only 2 are asked",
        ),
        (
            "[[timer]]\nname = \"Bay 1\"\nd0_min = \"70ms\"\n",
            "t.toml:3:10: timer.1.d0_min: it is more than d0_max (60ms)",
        ),
        (
            "[[timer]]\nname = \"A\"\n[[timer]]\nname = \"A\"\n",
            "t.toml:4:8: timer.2.name: two timers are named A",
        ),
        (
            "[[timer]]\nd0 = \"70ms\"\n",
            "t.toml:2:6: timer.1.d0: it is not between d0_min (0s) and d0_max (60ms)",
        ),
        (
            "[simulation]\nmode = \"custom_sequence\"\n",
            "t.toml:1:1: simulation.custom_sequence: mode custom_sequence needs at least one time",
        ),
    ] {
        assert_eq!(refused(text), error);
    }
}

#[test]
fn spans_are_read_exactly() {
    for (text, ns) in [
        ("5min", 300_000_000_000),
        ("20ms", 20_000_000),
        ("3m", 180_000_000_000),
        ("4h", 14_400_000_000_000),
        ("10s", 10_000_000_000),
        ("500us", 500_000),
        ("500µs", 500_000),
        ("1.5s", 1_500_000_000),
        ("0.000000001s", 1),
        ("1h30min", 5_400_000_000_000),
        ("1 min 5 s", 65_000_000_000),
        ("-3ms", -3_000_000),
        (" 2 h ", 7_200_000_000_000),
        ("0s", 0),
    ] {
        assert_eq!(parse_span(text), Ok(Nanos::new(ns)), "{text}");
    }
    for text in [
        "",
        " ",
        "5",
        "min",
        "5 minuten",
        "1e3s",
        "0.5ns",
        "300000d",
        "5min5",
        ".5s",
        "5.s",
        "--5s",
        "١s",
        "1..5s",
    ] {
        let error = parse_span(text).expect_err(text);
        assert!(error.contains(text.trim()), "{error}");
    }
}

#[test]
fn servers_are_names_or_addresses_with_or_without_a_port() {
    for (text, host, port) in [
        ("time.nist.gov", "time.nist.gov", 123),
        ("pi-2.local:1123", "pi-2.local", 1123),
        ("localhost", "localhost", 123),
        ("192.0.2.1", "192.0.2.1", 123),
        ("192.0.2.1:11123", "192.0.2.1", 11123),
        ("::1", "::1", 123),
        ("[::1]", "::1", 123),
        ("[2001:db8::7]:123", "2001:db8::7", 123),
        ("[fe80::1%wlan0]:123", "fe80::1%wlan0", 123),
    ] {
        let server = ServerEntry::named(text).expect(text);
        assert_eq!((server.host(), server.port()), (host, port), "{text}");
    }
    for text in [
        "",
        "ntp://a.example",
        "a b",
        "a..b",
        "-a.example",
        "a.example:0",
        "a.example:65536",
        "a.example:+1",
        "[::1",
        "[::1]x",
        "[a.example]:123",
        "::1:x:",
        "1.2.3",
        "256.1.1.1",
        "0.0.0.0",
        "224.0.1.1",
        "255.255.255.255",
        "[::]",
        "ff02::101",
        "zeit.köln",
        "a.example:",
        "a_b!c",
        "\u{0}",
        &"a".repeat(64),
        &"a.".repeat(200),
    ] {
        let error = ServerEntry::named(text).expect_err(text);
        assert!(error.len() > 20, "a sentence: {error}");
    }
    assert!(ServerEntry::named("10.0.2.2:11123").expect("fine").literal_address().is_some());
    assert!(ServerEntry::named("time.nist.gov").expect("fine").literal_address().is_none());
}

#[test]
fn the_operator_is_the_registrable_domain_unless_it_is_said() {
    let operator = |text: &str| ServerEntry::named(text).expect(text).operator();
    assert_eq!(operator("time1.google.com"), "google.com");
    assert_eq!(operator("time-a-g.nist.gov"), "nist.gov");
    assert_eq!(operator("ntp0.example.co.uk."), "example.co.uk");
    assert_eq!(operator("ptbtime1.ptb.de"), "ptb.de");
    assert_eq!(operator("192.0.2.1:1123"), "192.0.2.1");
    assert_eq!(operator("localhost"), "localhost");
    let config = accepted(
        "[ntp]\nservers = [{ address = \"10.0.2.2:1\", operator = \"us\", trust = true }]\n",
    );
    assert_eq!(config.ntp.servers[0].operator(), "us");
    assert!(config.ntp.servers[0].trust());
    let pool = ServerEntry::named("2.debian.pool.ntp.org").expect("fine");
    let address = "192.0.2.9".parse().expect("an address");
    assert_eq!(pool.operator_at(address), "192.0.2.9");
}

#[test]
fn advice_is_given_about_servers_that_are_few_alike_or_smeared() {
    let notes = |servers: &str| accepted(&format!("[ntp]\nservers = [{servers}]\n")).notes();
    assert!(notes("\"a.example\"")[0].starts_with("Only one server is named"));
    assert!(notes("\"a.example\", \"b.test\"")[0].starts_with("Only two servers are named"));
    let one_operator = notes("\"a.ptb.de\", \"b.ptb.de\", \"c.ptb.de\"");
    assert_eq!(one_operator.len(), 1);
    assert!(one_operator[0].starts_with("All servers are ptb.de's"), "{one_operator:?}");
    let defaults = Config::default().notes();
    assert_eq!(defaults.len(), 1, "{defaults:?}");
    assert!(defaults[0].starts_with("time.google.com smears leap seconds"), "{defaults:?}");
    assert!(notes("\"a.example\", \"b.test\", \"c.invalid\"").is_empty());
    assert!(notes("\"pool.ntp.org\"").is_empty());
}

#[test]
fn nearby_is_this_machine_and_its_own_networks_however_they_are_written() {
    for ip in
        ["127.0.0.1", "10.1.2.3", "169.254.1.1", "::1", "fd00::1", "fe80::1", "::ffff:192.168.4.1"]
    {
        assert!(nearby(ip.parse().expect("an address")), "{ip}");
    }
    for ip in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
        assert!(!nearby(ip.parse().expect("an address")), "{ip}");
    }
}

#[test]
fn a_network_holds_its_addresses_only() {
    let network: Network = "192.168.4.0/24".parse().expect("a network");
    assert!(network.contains("192.168.4.77".parse().expect("v4")));
    assert!(network.contains("::ffff:192.168.4.77".parse().expect("mapped")));
    assert!(!network.contains("192.168.5.1".parse().expect("v4")));
    assert!(!network.contains("fe80::1".parse().expect("v6")));
    let all: Network = "0.0.0.0/0".parse().expect("a network");
    assert!(
        all.contains("8.8.8.8".parse().expect("v4")) && !all.contains("::1".parse().expect("v6"))
    );
    for wrong in ["192.168.4.0/33", "192.168.4/24", "a/8", "", "::/129", "1.2.3.4/"] {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
}

#[test]
fn rates_keep_their_unit() {
    let slow = accepted("[clock]\nmax_slew_ppm = 83.5\n");
    assert_eq!(slow.clock.max_slew_ppm, Ppm::new(83.5));
    let said = |config: &Config, key: &str| config.notes().iter().any(|n| n.contains(key));
    assert!(said(&slow, "max_slew_ppm changes nothing"), "{:?}", slow.notes());
    assert!(!said(&Config::default(), "changes nothing"));
    let patient = accepted("[ntp]\nmax_retries = 9\n");
    assert!(said(&patient, "max_retries changes nothing"), "{:?}", patient.notes());
    assert!(refused("[clock]\nmax_slew_ppm = inf\n").contains("out of bounds"));
}

mod whatever_is_written {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

        /// Cuts, doubles and replaces at random places: never a panic, and every refusal is one
        /// line that names the file.
        #[test]
        fn it_is_taken_or_refused_in_one_line(
            at in 0..DEFAULT_TEXT.len(), length in 0_usize..40, put in ".{0,12}"
        ) {
            let floor = |i: usize| (0..=i.min(DEFAULT_TEXT.len())).rev()
                .find(|&i| DEFAULT_TEXT.is_char_boundary(i)).unwrap_or(0);
            let mut text = DEFAULT_TEXT.to_owned();
            text.replace_range(floor(at)..floor(at + length), &put);
            if let Err(error) = Config::parse(&text, "t.toml") {
                let line = error.to_string();
                prop_assert!(line.starts_with("t.toml:") && !line.contains('\n'), "{}", line);
            }
        }

        #[test]
        fn a_span_is_read_as_it_was_written(ns in any::<i64>()) {
            let span = Nanos::new(ns);
            let written = leadville_timesync::config::write_span(span);
            if ns != i64::MIN {
                prop_assert_eq!(parse_span(&written), Ok(span));
            }
        }

        #[test]
        fn any_text_is_a_server_or_a_sentence(text in ".{0,60}") {
            if let Err(sentence) = ServerEntry::named(&text) {
                prop_assert!(!sentence.is_empty());
            }
        }
    }
}
