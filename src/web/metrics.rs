//! `OpenMetrics` text, with base units and the conventional endings. Pure.
use serde_json::Value;
use std::fmt::Write as _;

/// What the text says it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const STATES: [&str; 6] =
    ["starting", "restored", "unsynchronised", "synchronised", "holdover", "frozen"];
const GRADES: [&str; 6] = ["excellent", "good", "fair", "poor", "critical", "unknown"];

/// Name after the prefix, type, unit, key of the status, factor, help.
type Plain = (&'static str, &'static str, &'static str, &'static str, f64, &'static str);

const PLAIN: [Plain; 17] = [
    ("offset_seconds", "gauge", "seconds", "offset_us", 1e-6, "True time minus this clock."),
    (
        "error_bound_seconds",
        "gauge",
        "seconds",
        "error_bound_us",
        1e-6,
        "95 % bound of the offset.",
    ),
    (
        "max_error_seconds",
        "gauge",
        "seconds",
        "max_error_us",
        1e-6,
        "Guaranteed bound: delay, root distance and drift.",
    ),
    (
        "frequency_correction_ratio",
        "gauge",
        "ratio",
        "frequency_ppm",
        1e-6,
        "What the kernel is told; minus the error of the crystal.",
    ),
    (
        "frequency_bound_ratio",
        "gauge",
        "ratio",
        "frequency_bound_ppm",
        1e-6,
        "95 % bound of the frequency.",
    ),
    (
        "temperature_celsius",
        "gauge",
        "celsius",
        "temperature_c",
        1.0,
        "Temperature of the processor.",
    ),
    (
        "drift_threshold_seconds",
        "gauge",
        "seconds",
        "drift_threshold_ms",
        1e-3,
        "An alert begins above this.",
    ),
    ("verified", "gauge", "", "verified", 1.0, "Two agreeing operators, or a trusted source."),
    ("settled", "gauge", "", "settled", 1.0, "First synchronisation of this boot is done."),
    ("steering", "gauge", "", "steering", 1.0, "The kernel clock is being corrected."),
    (
        "leap_seconds",
        "gauge",
        "seconds",
        "leap",
        1.0,
        "Leap second announced for the end of today.",
    ),
    ("uptime_seconds", "gauge", "seconds", "uptime_s", 1.0, "Since the daemon started."),
    (
        "holdover_age_seconds",
        "gauge",
        "seconds",
        "holdover.age_s",
        1.0,
        "Since the last usable answer, while in holdover.",
    ),
    ("steps_total", "counter", "", "steps", 1.0, "Steps of the clock."),
    ("measurements_total", "counter", "", "sync_count", 1.0, "Measurements used."),
    ("requests_total", "counter", "", "packets", 1.0, "Requests sent to servers."),
    (
        "correction_applied_seconds",
        "gauge",
        "seconds",
        "correction_applied_ms",
        1e-3,
        "Sum of the corrections.",
    ),
];

const SERVER: [Plain; 7] = [
    (
        "server_offset_seconds",
        "gauge",
        "seconds",
        "offset_us",
        1e-6,
        "Offset by this server alone.",
    ),
    ("server_delay_seconds", "gauge", "seconds", "delay_us", 1e-6, "Round trip to this server."),
    (
        "server_max_error_seconds",
        "gauge",
        "seconds",
        "max_error_us",
        1e-6,
        "Guaranteed bound of this server.",
    ),
    ("server_stratum", "gauge", "", "stratum", 1.0, "Distance from a reference clock."),
    (
        "server_last_reply_age_seconds",
        "gauge",
        "seconds",
        "last_reply_s",
        1.0,
        "Since its last usable reply.",
    ),
    ("server_requests_total", "counter", "", "requests", 1.0, "Requests sent to this server."),
    ("server_replies_total", "counter", "", "replies", 1.0, "Usable replies of this server."),
];

const TIMER: [Plain; 3] = [
    ("timer_connected", "gauge", "", "connected", 1.0, "The link to this timer is up."),
    (
        "timer_bound_seconds",
        "gauge",
        "seconds",
        "bound_ms",
        1e-3,
        "95 % bound of this timer's shots in UTC.",
    ),
    (
        "timer_rssi_decibel_milliwatts",
        "gauge",
        "",
        "rssi_dbm",
        1.0,
        "Signal strength when last heard.",
    ),
];

/// The metrics of a status (JSON); without one, only that the daemon is not there.
#[must_use]
pub fn text(status: Option<&str>) -> String {
    let status = status.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let mut out = String::with_capacity(8 << 10);
    head(&mut out, "up", "gauge", "", "The daemon answers.");
    sample(&mut out, "up", "", u8::from(status.is_some()).into());
    if let Some(status) = &status {
        of_status(&mut out, status);
    }
    out.push_str("# EOF\n");
    out
}

fn of_status(out: &mut String, status: &Value) {
    head(out, "build", "info", "", "Version of the daemon.");
    let version = label("version", status["version"].as_str().unwrap_or_default());
    sample(out, "build_info", &version, 1.0);
    for metric in PLAIN {
        let value = metric.3.split('.').fold(status, |value, key| &value[key]);
        if let Some(value) = number(value) {
            head_of(out, metric);
            sample(out, metric.0, "", value * metric.4);
        }
    }
    head(
        out,
        "last_sync_timestamp_seconds",
        "gauge",
        "seconds",
        "When the last usable answer came.",
    );
    let last = status["last_sync_time"].as_str().and_then(crate::units::UtcTime::from_iso);
    if let Some(last) = last {
        sample(out, "last_sync_timestamp_seconds", "", last.as_nanos() as f64 * 1e-9);
    }
    for (name, all, is, help) in [
        ("state", STATES, &status["state"], "Where the daemon stands with the time."),
        ("quality", GRADES, &status["quality"], "Grade of |offset| plus bound."),
    ] {
        head(out, name, "stateset", "", help);
        for one in all {
            let on = u8::from(is.as_str() == Some(one));
            sample(out, name, &label(&format!("leadville_timesync_{name}"), one), on.into());
        }
    }
    head(out, "alert", "stateset", "", "The drift alert.");
    for level in ["drift", "severe"] {
        let on = u8::from(status["alert"]["level"].as_str() == Some(level));
        sample(out, "alert", &label("leadville_timesync_alert", level), on.into());
    }
    head(out, "locks", "gauge", "", "How many hold the clock still.");
    sample(out, "locks", "", status["locks"].as_array().map_or(0, Vec::len) as f64);
    let servers = named(&status["servers"], "server");
    table(out, &SERVER, &servers);
    head(out, "server_selected", "gauge", "", "The server is in use.");
    for (label, server) in &servers {
        sample(out, "server_selected", label, u8::from(server["role"] == "selected").into());
    }
    head(out, "server_rejected_replies", "counter", "", "Replies not used, by reason.");
    for (server_label, server) in &servers {
        for (reason, count) in server["rejected"].as_object().into_iter().flatten() {
            let both = format!("{server_label},{}", label("reason", reason));
            sample(out, "server_rejected_replies_total", &both, number(count).unwrap_or(0.0));
        }
    }
    table(out, &TIMER, &named(&status["timers"], "timer"));
}

/// Each entry with its label; two of one name (a pool's) are told apart by their address.
fn named<'a>(list: &'a Value, key: &str) -> Vec<(String, &'a Value)> {
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let entries = list.as_array().into_iter().flatten();
    entries
        .map(|entry| {
            let name = match text(entry, "name") {
                name if name.is_empty() => text(entry, "timer_id"),
                name => name,
            };
            let mut labels = label(key, &name);
            if let Some(address) = entry["address"].as_str() {
                let _ = write!(labels, ",{}", label("address", address));
            }
            (labels, entry)
        })
        .collect()
}

fn table(out: &mut String, metrics: &[Plain], entries: &[(String, &Value)]) {
    for metric in metrics {
        if !entries.iter().any(|(_, entry)| number(&entry[metric.3]).is_some()) {
            continue;
        }
        head_of(out, *metric);
        for (labels, entry) in entries {
            if let Some(value) = number(&entry[metric.3]) {
                sample(out, metric.0, labels, value * metric.4);
            }
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_bool().map(|b| u8::from(b).into()))
}

fn head_of(out: &mut String, (name, kind, unit, _, _, help): Plain) {
    // A counter's family is named without its ending.
    head(out, name.strip_suffix("_total").unwrap_or(name), kind, unit, help);
}

fn head(out: &mut String, name: &str, kind: &str, unit: &str, help: &str) {
    let _ = writeln!(out, "# TYPE leadville_timesync_{name} {kind}");
    if !unit.is_empty() {
        let _ = writeln!(out, "# UNIT leadville_timesync_{name} {unit}");
    }
    let _ = writeln!(out, "# HELP leadville_timesync_{name} {help}");
}

fn sample(out: &mut String, name: &str, labels: &str, value: f64) {
    if value.is_finite() {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "leadville_timesync_{name}{labels} {value}");
    }
}

fn label(key: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{key}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn without_a_daemon_only_its_absence_is_told() {
        let text = text(None);
        assert!(text.contains("leadville_timesync_up 0\n") && text.ends_with("# EOF\n"));
        assert!(!text.contains("offset"));
    }

    #[test]
    fn unknown_values_are_left_out_and_strange_names_stay_in_their_quotes() {
        let status = json!({"offset_us": 1500.0, "error_bound_us": null, "state": "holdover",
            "quality": "good", "servers": [{"name": "a\"b\\c\nd", "offset_us": -2.0, "requests": 7,
            "rejected": {"stale": 3}, "role": "selected"}]});
        let text = text(Some(&status.to_string()));
        assert!(text.contains("leadville_timesync_offset_seconds 0.0015\n"), "{text}");
        assert!(!text.contains("_error_bound_seconds"));
        assert!(text.contains("state{leadville_timesync_state=\"holdover\"} 1\n"));
        assert!(text.contains("server_requests_total{server=\"a\\\"b\\\\c\\nd\"} 7\n"));
        assert!(text.contains("reason=\"stale\"} 3\n") && !text.contains("null"));
    }
}
