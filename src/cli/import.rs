//! Moving over from the former system: its `dev_config.json`, of either layout, becomes a commented
//! timesync.toml; every key that is left is named, with the reason.
use super::say::{Done, Failure, say};
use crate::config::{Config, DEFAULT_TEXT, ServerEntry, write_span};
use crate::units::Nanos;
use clap::Args;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// `import-config`
#[derive(Args, Debug)]
pub struct Import {
    /// The former system's JSON; - reads from standard input
    file: PathBuf,
    /// Write here instead of to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write even if there is a file already
    #[arg(long, requires = "output")]
    force: bool,
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The new configuration, with comments.
    pub toml: String,
    /// `key → key = value` for what was taken.
    pub taken: Vec<String>,
    /// `key: reason` for what was left.
    pub left: Vec<String>,
}

pub fn import(args: &Import) -> Done {
    let name = args.file.display().to_string();
    let bytes = if args.file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(&args.file)
    }
    .map_err(|error| Failure::new(format!("{name} cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.split(|&b| b == b'\n').count();
        let last = good.rsplit(|&b| b == b'\n').next().unwrap_or_default();
        let column = String::from_utf8_lossy(last).chars().count() + 1;
        Failure::new(format!("{name}:{line}:{column}: this is not text (UTF-8)"))
    })?;
    let imported = convert(&text, &name).map_err(Failure::new)?;
    match &args.output {
        None => say(&imported.toml)?,
        Some(path) => {
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create_new(!args.force).create(args.force).truncate(args.force);
            options
                .open(path)
                .and_then(|mut file| file.write_all(imported.toml.as_bytes()))
                .map_err(|error| match error.kind() {
                    std::io::ErrorKind::AlreadyExists => {
                        Failure::new(format!("{} is there already", path.display()))
                            .hint("say --force to write over it")
                    }
                    _ => Failure::new(format!("{} cannot be written: {error}", path.display())),
                })?;
        }
    }
    for taken in &imported.taken {
        eprintln!("taken: {taken}");
    }
    for left in &imported.left {
        eprintln!("left:  {left}");
    }
    Ok(0)
}

/// Makes a configuration from the text of a `dev_config.json`; `name` is what errors call it.
///
/// # Errors
/// `file:line:column: sentence`, for what is no JSON, of a wrong type or out of bounds.
pub fn convert(text: &str, name: &str) -> Result<Imported, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let json: Value = serde_json::from_str(text).map_err(|error| {
        let sentence = error.to_string();
        let sentence = sentence.split(" at line ").next().unwrap_or_default();
        format!("{name}:{}:{}: this is not JSON: {sentence}", error.line(), error.column().max(1))
    })?;
    let Value::Object(top) = &json else {
        return Err(format!("{name}:1:1: this must be an object {{ … }}"));
    };
    let mut making = Making {
        name,
        source: text,
        toml: DEFAULT_TEXT.to_owned(),
        taken: Vec::new(),
        left: Vec::new(),
    };
    for (key, value) in top {
        match key.as_str() {
            "amg_timer" | "timer" => making.timer(key, value)?,
            "simulation" => making.table(key, value, Making::simulation)?,
            "mqtt" | "websocket" | "database" | "timing" | "ble" | "networking" => {
                making.left(key, "it belongs to another program");
            }
            _ => making.left(key, "nothing here corresponds to it"),
        }
    }
    if making.taken.is_empty() && !top.keys().any(|k| k == "amg_timer" || k == "timer") {
        return Err(format!("{name}:1:1: neither amg_timer nor timer is in it: nothing to import"));
    }
    making.finish()
}

/// A configuration in the making.
struct Making<'t> {
    name: &'t str,
    source: &'t str,
    toml: String,
    taken: Vec<String>,
    left: Vec<String>,
}

type Step = Result<(), String>;

impl Making<'_> {
    /// `amg_timer`, `timer`, and the tables within.
    fn timer(&mut self, path: &str, value: &Value) -> Step {
        let other = value.get("vendor").and_then(Value::as_str).filter(|v| *v != "amg_labs");
        self.table(path, value, |making, path, key, value| match key {
            "amg_labs" if other.is_some() => {
                let why = format!("the vendor in use is {}", other.unwrap_or_default());
                making.left(path, &why);
                Ok(())
            }
            "device_id" => making.address(path, value),
            "uuid" => {
                making.left(path, "the timer's service is known");
                Ok(())
            }
            "frame_validation" => {
                making.left(path, "every frame is checked, always");
                Ok(())
            }
            "simulation_mode" => {
                let simulated = making.boolean(path, value)?;
                let why = if simulated {
                    "to simulate, start `leadville-timesync run --simulate`"
                } else {
                    "only `run --simulate` simulates"
                };
                making.left(path, why);
                Ok(())
            }
            "vendor" => match making.text(path, value)? {
                "amg_labs" => {
                    making.taken.push(format!("{path} (the only vendor so far)"));
                    Ok(())
                }
                other => {
                    let why = format!("timers of {other} are not understood yet");
                    making.left(path, &why);
                    Ok(())
                }
            },
            "amg_labs" => making.timer(path, value),
            "specialpie" => {
                making.left(path, "timers of specialpie are not understood yet");
                Ok(())
            }
            "health_monitoring" => making.table(path, value, Making::health),
            "time_synchronization" => making.table(path, value, Making::synchronisation),
            _ => {
                making.left(path, "nothing here corresponds to it");
                Ok(())
            }
        })
    }

    fn address(&mut self, path: &str, value: &Value) -> Step {
        let address = self.text(path, value)?.trim();
        if address.is_empty() {
            return Ok(());
        }
        if address.starts_with("SIM") {
            self.left(path, "it is a simulated timer's");
            return Ok(());
        }
        self.uncomment_timer();
        self.set(path, "timer", "name", "\"Bay 1\"");
        self.set(path, "timer", "address", &quoted(address));
        self.set(path, "bluetooth", "enabled", "true");
        self.verify(path)
    }

    fn health(&mut self, path: &str, key: &str, value: &Value) -> Step {
        match key {
            "enabled" => {
                if self.boolean(path, value)? {
                    self.taken.push(format!("{path} (as by default)"));
                } else {
                    self.set(path, "bluetooth", "health_report_interval", "\"0s\"");
                }
                Ok(())
            }
            "rssi_check_interval_sec" => {
                self.span(path, value, 1e9, ("bluetooth", "rssi_check_interval"))
            }
            "health_report_interval_sec" => {
                self.span(path, value, 1e9, ("bluetooth", "health_report_interval"))
            }
            _ => {
                self.left(path, "nothing here corresponds to it");
                Ok(())
            }
        }
    }

    fn synchronisation(&mut self, path: &str, key: &str, value: &Value) -> Step {
        match key {
            "enabled" => {
                if self.boolean(path, value)? {
                    self.taken.push(format!("{path} (as by default)"));
                } else {
                    self.set(path, "ntp", "enabled", "false");
                    self.set(path, "clock", "steer", "false");
                }
                Ok(())
            }
            "sync_interval_minutes" => self.span(path, value, 60e9, ("ntp", "sync_interval")),
            "drift_threshold_ms" => {
                let threshold = self.number(path, value)?;
                if (threshold - 20.0).abs() > 1e-9 {
                    // In the proportions of the defaults: 15 and 50 ms at 20.
                    for (key, part) in [("clear_below", 0.75), ("severe", 2.5)] {
                        let span = Nanos::new((threshold * part * 1e6).round() as i64);
                        self.set(path, "alert", key, &quoted(&write_span(span)));
                    }
                }
                self.span(path, value, 1e6, ("alert", "drift_threshold"))
            }
            "enable_correction" => {
                let steer = self.boolean(path, value)?.to_string();
                self.set(path, "clock", "steer", &steer);
                Ok(())
            }
            "ntp" => self.table(path, value, Making::ntp),
            _ => {
                self.left(path, "nothing here corresponds to it");
                Ok(())
            }
        }
    }

    fn ntp(&mut self, path: &str, key: &str, value: &Value) -> Step {
        match key {
            "enabled" => {
                let enabled = self.boolean(path, value)?.to_string();
                self.set(path, "ntp", "enabled", &enabled);
                Ok(())
            }
            "servers" => {
                let Value::Array(list) = value else {
                    return Err(self.wrong(path, "it must be a list of names"));
                };
                let mut servers = String::from("[\n");
                for (index, server) in list.iter().enumerate() {
                    let item = format!("{path}.{index}");
                    let server = self.text(&item, server)?;
                    ServerEntry::named(server).map_err(|why| self.wrong(&item, &why))?;
                    let _ = writeln!(servers, "    {},", quoted(server));
                }
                servers.push(']');
                self.set(path, "ntp", "servers", &servers);
                self.verify(path)
            }
            "timeout_seconds" => self.span(path, value, 1e9, ("ntp", "timeout")),
            "max_retries" => self.whole(path, value, ("ntp", "max_retries")),
            _ => {
                self.left(path, "nothing here corresponds to it");
                Ok(())
            }
        }
    }

    fn simulation(&mut self, path: &str, key: &str, value: &Value) -> Step {
        let here = "simulation";
        match key {
            "mode" => {
                let mode = quoted(self.text(path, value)?);
                self.set(path, here, "mode", &mode);
                Ok(())
            }
            "num_shots" => self.whole(path, value, (here, "num_shots")),
            "shot_interval_sec" => self.span(path, value, 1e9, (here, "shot_interval")),
            "start_delay_sec" => self.span(path, value, 1e9, (here, "start_delay")),
            "timing_variance_sec" => self.span(path, value, 1e9, (here, "timing_variance")),
            "random_timing" => {
                let random = self.boolean(path, value)?.to_string();
                self.set(path, here, "random_timing", &random);
                Ok(())
            }
            "custom_sequence" => {
                let Value::Array(list) = value else {
                    if value.is_null() {
                        return Ok(());
                    }
                    return Err(self.wrong(path, "it must be a list of seconds"));
                };
                let mut times = Vec::new();
                for (index, time) in list.iter().enumerate() {
                    let seconds = self.number(&format!("{path}.{index}"), time)?;
                    times.push(quoted(&write_span(Nanos::new((seconds * 1e9).round() as i64))));
                }
                self.set(path, here, "custom_sequence", &format!("[{}]", times.join(", ")));
                self.verify(path)
            }
            _ => {
                self.left(path, "nothing here corresponds to it");
                Ok(())
            }
        }
    }

    fn table(
        &mut self,
        path: &str,
        value: &Value,
        each: impl Fn(&mut Self, &str, &str, &Value) -> Step,
    ) -> Step {
        let Value::Object(table) = value else {
            return Err(self.wrong(path, "it must be an object { … }"));
        };
        table.iter().try_for_each(|(key, value)| each(self, &format!("{path}.{key}"), key, value))
    }

    fn left(&mut self, path: &str, why: &str) {
        self.left.push(format!("{path}: {why}"));
    }

    fn boolean(&self, path: &str, value: &Value) -> Result<bool, String> {
        value.as_bool().ok_or_else(|| self.wrong(path, "it must be true or false"))
    }

    fn number(&self, path: &str, value: &Value) -> Result<f64, String> {
        let number = value.as_f64().filter(|n| n.abs() < 1e9);
        number.ok_or_else(|| self.wrong(path, "it must be a number of a sensible size"))
    }

    fn text<'v>(&self, path: &str, value: &'v Value) -> Result<&'v str, String> {
        value.as_str().ok_or_else(|| self.wrong(path, "it must be a text in quotes"))
    }

    fn whole(&mut self, path: &str, value: &Value, to: (&str, &str)) -> Step {
        let n = value.as_i64().ok_or_else(|| self.wrong(path, "it must be a whole number"))?;
        self.set(path, to.0, to.1, &n.to_string());
        self.verify(path)
    }

    /// A number of units of `scale` ns.
    fn span(&mut self, path: &str, value: &Value, scale: f64, to: (&str, &str)) -> Step {
        let ns = (self.number(path, value)? * scale).round();
        self.set(path, to.0, to.1, &quoted(&write_span(Nanos::new(ns as i64))));
        self.verify(path)
    }

    /// The configuration as it is so far must be one; else the key at `path` is at fault.
    fn verify(&self, path: &str) -> Step {
        match Config::parse(&self.toml, "new") {
            Ok(_) => Ok(()),
            Err(error) => Err(self.wrong(path, error.sentence())),
        }
    }

    fn wrong(&self, path: &str, sentence: &str) -> String {
        let at = locate(self.source, path).unwrap_or(0);
        let before = &self.source[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}: {path}: {sentence}", self.name)
    }

    /// Puts a value in the place of the default's.
    fn set(&mut self, from: &str, section: &str, key: &str, value: &str) {
        let header = if section == "timer" { "[[timer]]\n" } else { &format!("[{section}]\n") };
        let place = self.toml.find(&format!("\n{header}")).and_then(|section| {
            let start = section + self.toml[section..].find(&format!("\n{key} = "))? + 1;
            let line_end = start + self.toml[start..].find('\n')?;
            let opens = self.toml[start..line_end].ends_with('[');
            let end = if opens { start + self.toml[start..].find("\n]")? + 2 } else { line_end };
            Some(start..end)
        });
        // Every key stands in the default text: a test holds it so.
        if let Some(place) = place {
            self.toml.replace_range(place, &format!("{key} = {value}"));
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            self.taken.push(format!("{from} → {section}.{key} = {value}"));
        }
    }

    /// Brings the example of a timer to life.
    fn uncomment_timer(&mut self) {
        let mut within = false;
        let lines = self.toml.lines().map(|line| {
            within = line == "#[[timer]]" || (within && line.starts_with('#'));
            if within { line.strip_prefix('#').unwrap_or(line) } else { line }
        });
        self.toml = lines.collect::<Vec<_>>().join("\n") + "\n";
    }

    fn finish(self) -> Result<Imported, String> {
        Config::parse(&self.toml, "new").map_err(|error| {
            format!("{}: together the values are wrong: {}", self.name, error.sentence())
        })?;
        let mut toml = format!("# Made from {} by leadville-timesync import-config.\n", self.name);
        if !self.left.is_empty() {
            toml.push_str("# Left out there:\n");
            for left in &self.left {
                let _ = writeln!(toml, "#   {}", left.replace(char::is_control, " "));
            }
        }
        toml.push_str("#\n");
        toml.push_str(&self.toml);
        Ok(Imported { toml, taken: self.taken, left: self.left })
    }
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Where the value at a dotted path stands in a JSON text that is known to be valid.
fn locate(text: &str, path: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = blank(bytes, 0);
    for part in path.split('.') {
        let object = *bytes.get(at)? == b'{';
        let mut index = 0;
        at = blank(bytes, at + 1);
        loop {
            let key_start = at;
            if object {
                let key_end = skip(bytes, at);
                at = blank(bytes, blank(bytes, key_end) + 1);
                let key: String = serde_json::from_str(text.get(key_start..key_end)?).ok()?;
                if key == part {
                    break;
                }
            } else if part == index.to_string() {
                break;
            }
            index += 1;
            at = blank(bytes, skip(bytes, at));
            if *bytes.get(at)? != b',' {
                return None;
            }
            at = blank(bytes, at + 1);
        }
    }
    Some(at)
}

fn blank(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|b| b.is_ascii_whitespace()).count()
}

/// The end of the value that starts at `from`.
fn skip(bytes: &[u8], from: usize) -> usize {
    let (mut at, mut depth, mut quoted) = (from, 0_usize, false);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' | b':' if depth == 0 => return at,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 && !quoted && matches!(byte, b'"' | b'}' | b']') {
            return at;
        }
    }
    at
}
