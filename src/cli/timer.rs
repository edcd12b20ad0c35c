//! `timer`: what the shot timers tell, and what may be told to them.
use super::ask::{connect, request, status_of};
use super::positive_span;
use super::say::{Done, Failure, say, say_line};
use super::status::timer_line;
use crate::config::parse_span;
use crate::timer::bay::DatedShot;
use crate::timer::command;
use crate::timer::epoch::{Delay, Estimate};
use crate::timer::frame::{Centis, decode, hex};
use crate::timer::recording::{self, Recording, Replayed, Told};
use crate::units::{Nanos, UtcTime};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The largest recording read, bytes.
const LARGEST: u64 = 64 << 20;

/// `timer`
#[derive(Args, Debug)]
pub struct TimerArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Look for timers nearby
    Scan(Scan),
    /// Say what is known of each timer
    Status(Status),
    /// Show strings and shots, each in UTC with its bound
    Events(Events),
    /// Write a command to a timer, such as 'SET SENSITIVITY 05'
    Send(Send),
    /// Teach a timer's fixed delay, from shots whose true time is known
    Calibrate(Calibrate),
    /// Date the strings of a recording, without the daemon
    Replay(Replay),
}

#[derive(Args, Debug)]
struct Scan {
    /// Look for so long
    #[arg(long = "for", value_name = "SPAN", value_parser = positive_span, default_value = "8s")]
    span: Nanos,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct Events {
    /// Go on as things happen
    #[arg(long, short)]
    follow: bool,
    /// Begin there: a time (ISO 8601, UTC) or so long ago ("2h")
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct Send {
    /// The command
    #[arg(required = true, num_args = 1..)]
    command: Vec<String>,
    /// Name or address of the timer, where there are several
    #[arg(long, value_name = "NAME")]
    timer: Option<String>,
}

#[derive(Args, Debug)]
struct Calibrate {
    /// Name or address of the timer, where there are several
    #[arg(long, value_name = "NAME")]
    timer: Option<String>,
    /// File of lines `string,shot,utc`: shots whose true time (ISO 8601) another device knows
    #[arg(long, value_name = "FILE", conflicts_with_all = ["d0", "forget"])]
    pairs: Option<PathBuf>,
    /// The delay, if it is known otherwise
    #[arg(long, value_name = "SPAN", value_parser = parse_span, conflicts_with = "forget", allow_hyphen_values = true)]
    d0: Option<Nanos>,
    /// 95 % bound of that delay
    #[arg(long, value_name = "SPAN", value_parser = positive_span, requires = "d0", default_value = "5ms")]
    bound: Nanos,
    /// Forget what was taught
    #[arg(long)]
    forget: bool,
}

#[derive(Args, Debug)]
struct Replay {
    /// Lines `host_time,hex`; a header may name the columns in any order
    file: PathBuf,
    /// The fixed delay of SHOT frames, if it is known; else 0 to 60 ms are possible
    #[arg(long, value_name = "SPAN", value_parser = parse_span, allow_hyphen_values = true)]
    d0: Option<Nanos>,
    /// 95 % bound of that delay
    #[arg(long, value_name = "SPAN", value_parser = parse_span, requires = "d0", default_value = "0s")]
    d0_bound: Nanos,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Does what `timer …` says.
#[must_use]
pub fn run(args: TimerArgs, socket: Option<PathBuf>) -> ExitCode {
    match timer(socket.as_deref(), args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.exit(),
    }
}

fn timer(socket: Option<&Path>, args: TimerArgs) -> Done {
    match args.what {
        What::Scan(args) => scan(socket, &args),
        What::Status(args) => status(socket, &args),
        What::Events(args) => events(socket, &args),
        What::Send(args) => send(socket, &args),
        What::Calibrate(args) => calibrate(socket, &args),
        What::Replay(args) => replay(&args),
    }
}

fn scan(socket: Option<&Path>, args: &Scan) -> Done {
    let mut client = connect(socket)?;
    let mut reply = request(&mut client, &json!({"do": "timer-scan"}))?;
    let mut seen = BTreeMap::new();
    let mut left = args.span;
    while left > Nanos::ZERO {
        let pause = left.min(Nanos::from_secs(1));
        std::thread::sleep(Duration::from_nanos(pause.get() as u64));
        left = left - pause;
        reply = request(&mut client, &json!({"do": "timer-scan"}))?;
        // A scan pauses now and then, and forgets who it saw.
        for device in reply["devices"].as_array().into_iter().flatten() {
            seen.insert(device["address"].as_str().map(str::to_owned), device.clone());
        }
    }
    let devices: Vec<Value> = seen.into_values().collect();
    if args.json {
        reply["devices"] = devices.into();
        say_line(&reply.to_string())?;
        return Ok(0);
    }
    if devices.is_empty() {
        return Err(Failure::new("no timer was seen").hint(
            "switch it on (it switches itself off after 15 minutes) and see that no phone holds it",
        ));
    }
    for device in &devices {
        let text = |key: &str| device[key].as_str().unwrap_or("");
        let strength = device["rssi_dbm"].as_i64().map(|n| format!(", {n} dBm"));
        let link = if device["connected"].as_bool() == Some(true) { ", connected" } else { "" };
        let strength = strength.unwrap_or_default();
        say_line(&format!("{}  {}{strength}{link}", text("address"), text("name")))?;
    }
    Ok(0)
}

fn status(socket: Option<&Path>, args: &Status) -> Done {
    let mut client = connect(socket)?;
    let (status, _) = status_of(&mut client)?;
    if args.json {
        say_line(&json!({"v": status.v, "timers": status.timers}).to_string())?;
    } else if status.timers.is_empty() {
        say_line("no timer is listened to: set enabled = true under [bluetooth]")?;
    } else {
        for timer in &status.timers {
            say_line(&timer_line(timer))?;
        }
    }
    Ok(0)
}

/// A time, or a span before `now`.
fn since(text: &str, now: UtcTime) -> Result<UtcTime, Failure> {
    if let Some(at) = UtcTime::from_iso(text) {
        return Ok(at);
    }
    match parse_span(text) {
        Ok(span) => Ok(now - span.abs()),
        Err(_) => Err(Failure::new(format!("--since {text}: neither a time nor a span"))
            .hint("write 2026-11-22T09:00:00Z, or 2h")
            .usage()),
    }
}

fn events(socket: Option<&Path>, args: &Events) -> Done {
    let mut client = connect(socket)?;
    let now = UtcTime::from_nanos(status_of(&mut client)?.0.utc_ns);
    // Subscribed first: nothing falls between the past and what follows.
    let follower = if args.follow {
        let mut second = connect(socket)?;
        request(&mut second, &json!({"do": "subscribe"}))?;
        Some(second)
    } else {
        None
    };
    let from = match (&args.since, args.follow) {
        (Some(text), _) => Some(since(text, now)?),
        (None, false) => Some(now - Nanos::from_secs(86_400)),
        (None, true) => None,
    };
    // Strings told as past; one that still runs is not among them, though a later one may be.
    let mut told = BTreeSet::new();
    if let Some(from) = from {
        let mut next = json!(0);
        loop {
            let question = json!({"do": "timer-events", "since": from.iso(9), "next": next});
            let reply = request(&mut client, &question)?;
            for event in reply["events"].as_array().unwrap_or(&Vec::new()) {
                told.extend(event["seq"].as_i64());
                say_event(event, args.json)?;
            }
            if reply["next"].is_null() {
                break;
            }
            next = reply["next"].clone();
        }
    }
    let Some(follower) = follower else { return Ok(0) };
    for line in follower.lines()? {
        let event = line?;
        let again = event["seq"].as_i64().is_some_and(|seq| told.contains(&seq))
            && !event["type"].as_str().is_some_and(|kind| kind.ends_with("revised"));
        if event["event"] == "timer" && !again {
            say_event(&event, args.json)?;
        }
    }
    Err(Failure::new("the daemon has ended"))
}

fn say_event(event: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json { say_line(&event.to_string()) } else { say_line(&event_words(event)) }
}

/// A timer's event in words.
fn event_words(event: &Value) -> String {
    let text = |key: &str| event[key].as_str();
    let mut line = text("utc").unwrap_or("(undated)").to_owned();
    let name = text("name").or(text("timer_id")).unwrap_or("timer");
    let kind = text("type").unwrap_or("event");
    let _ = write!(line, "  {name}  {kind}");
    if let Some(message) = text("message") {
        let _ = write!(line, ": {message}");
        return line;
    }
    if let Some(string) = event["string_number"].as_u64() {
        let _ = write!(line, "  string {string}");
    }
    if let Some(shot) = event["shot_number"].as_u64() {
        let _ = write!(line, " shot {shot}");
    }
    if let Some(time) = event["time_s"].as_f64() {
        let _ = write!(line, "  {time:.2} s");
    }
    if let Some(bound) = event["bound_us"].as_f64() {
        let doubt = if event["calibrated"] == true { "" } else { ", not calibrated" };
        let _ = write!(line, "  ±{:.0} ms{doubt}", (bound / 1000.0).ceil());
    }
    line
}

fn send(socket: Option<&Path>, args: &Send) -> Done {
    let text =
        command::checked(&args.command.join(" ")).map_err(|why| Failure::new(why).usage())?;
    let mut client = connect(socket)?;
    let reply =
        request(&mut client, &json!({"do": "timer-send", "command": text, "timer": args.timer}))?;
    say_line(reply["message"].as_str().unwrap_or("sent"))?;
    Ok(0)
}

fn calibrate(socket: Option<&Path>, args: &Calibrate) -> Done {
    let mut question = json!({"do": "timer-calibrate", "timer": args.timer});
    if let Some(file) = &args.pairs {
        let mut pairs = Vec::new();
        for (line, text) in (1..).zip(read_file(file)?.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') || text.starts_with("string") {
                continue;
            }
            let fields: Vec<&str> = text.split(',').map(str::trim).collect();
            let pair = match fields[..] {
                [string, shot, utc, ..] => string
                    .parse::<u16>()
                    .ok()
                    .zip(shot.parse::<u8>().ok())
                    .zip(UtcTime::from_iso(utc)),
                _ => None,
            };
            let Some(((string, shot), utc)) = pair else {
                let sentence = format!("{}:{line}: not `string,shot,utc`", file.display());
                return Err(Failure::new(sentence).hint("such as 4,1,2026-11-22T09:00:05.123Z"));
            };
            pairs.push(json!({"string": string, "shot": shot, "utc_ns": utc.as_nanos()}));
        }
        question["pairs"] = pairs.into();
    } else if let Some(d0) = args.d0 {
        question["d0_ms"] = d0.as_millis_f64().into();
        question["bound_ms"] = args.bound.as_millis_f64().into();
    } else if args.forget {
        question["forget"] = true.into();
    } else {
        return Err(Failure::new("calibrate wants --pairs FILE, --d0 SPAN or --forget").usage());
    }
    let reply = request(&mut connect(socket)?, &question)?;
    say_line(reply["message"].as_str().unwrap_or("calibrated"))?;
    Ok(0)
}

fn read_file(path: &Path) -> Result<String, Failure> {
    let name = path.display();
    let wrong = |e: std::io::Error| Failure::new(format!("{name} cannot be read: {e}"));
    let mut bytes = Vec::new();
    let file: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(wrong)?)
    };
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::new(format!("{name} is longer than {} MB", LARGEST >> 20)));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn replay(args: &Replay) -> Done {
    let delay = args.d0.map_or_else(Delay::default, |d0| Delay::calibrated(d0, args.d0_bound));
    let recording = recording::read(&read_file(&args.file)?);
    let told = recording.told(delay);
    if args.json {
        say_line(&as_json(&recording, &told, delay).to_string())?;
    } else {
        say(&as_text(&recording, &told, delay))?;
    }
    if recording.entries.is_empty() {
        let first = recording.bad.first().map(|(line, why)| format!(" (line {line}: {why})"));
        let sentence = format!("no notification in {}", args.file.display());
        return Err(Failure::new(sentence + &first.unwrap_or_default()).hint(
            "wanted: lines `host_time,hex`, such as 21:51:58.873,0103010100e500e500e500e50001",
        ));
    }
    Ok(0)
}

/// Milliseconds with three decimals.
fn ms(span: Nanos) -> f64 {
    (span.as_millis_f64() * 1e3).round() / 1e3
}

fn as_json(recording: &Recording, told: &Told, delay: Delay) -> Value {
    let lined = |list: &[(usize, String)], key: &str| -> Vec<Value> {
        list.iter().map(|(line, text)| json!({"line": line, key: text})).collect()
    };
    let mut unknown = 0;
    let events: Vec<Value> = recording
        .entries
        .iter()
        .map(|e| {
            let read = decode(&e.bytes);
            unknown += usize::from(recording::kind(&read) == "UNKNOWN");
            let mut event = json!({"line": e.line, "host_time": recording.write(e.at),
                "kind": recording::kind(&read), "hex": hex(&e.bytes)});
            if let Some(more) = event.as_object_mut() {
                more.extend(values(&read.frame));
                if !read.doubts.is_empty() {
                    let doubts: Vec<String> = read.doubts.iter().map(ToString::to_string).collect();
                    more.insert("doubts".into(), doubts.into());
                }
            }
            event
        })
        .collect();
    let strings: Vec<Value> = told.strings.iter().map(|s| string_json(recording, s)).collect();
    json!({"v": crate::state::PROTOCOL, "frames": recording.entries.len(), "unknown": unknown,
        "calibrated": delay.calibrated, "events": events, "strings": strings,
        "remarks": lined(&told.remarks, "remark"), "errors": lined(&recording.bad, "reason")})
}

/// What a frame says, under the names that recordings use.
fn values(frame: &crate::timer::frame::Frame) -> serde_json::Map<String, Value> {
    use crate::timer::frame::Frame;
    let mut map = serde_json::Map::new();
    let mut put = |key: &str, value: Value| {
        map.insert(key.into(), value);
    };
    let (string, body) = match frame {
        Frame::Start { string, stale } => (*string, stale),
        Frame::Shot { string, body } => (Some(*string), body),
        Frame::Stop { string, body } => (*string, body),
        Frame::Screen(body) => (None, body),
        Frame::List { index, times } => {
            put("packet", (*index).into());
            put("times_s", times.iter().map(|t| t.seconds()).collect::<Vec<_>>().into());
            return map;
        }
        Frame::Text(text) => {
            put("text", text.as_str().into());
            return map;
        }
        Frame::Unknown => return map,
    };
    put("string_number", string.into());
    put("shot_number", body.shot.into());
    put("total", body.total.into());
    put("time_s", body.time.seconds().into());
    put("split_s", body.split.seconds().into());
    put("first_s", body.first.seconds().into());
    put("last_s", body.last.seconds().into());
    map
}

fn string_json(recording: &Recording, replayed: &Replayed) -> Value {
    let string = &replayed.string;
    let e = &string.estimate;
    let shots: Vec<Value> = string
        .shots
        .iter()
        .map(|s| {
            json!({"shot_number": s.number, "time_s": s.time.seconds(),
                "split_s": s.split.map(Centis::seconds),
                "utc": recording.write(s.at), "bound_ms": ms(s.bound),
                "bound_inside_ms": ms(Estimate::within(s.time)),
                "latency_ms": s.arrival.map(|at| ms(at - s.at)),
                "suspect": s.suspect, "calibrated": e.calibrated})
        })
        .collect();
    json!({"string_number": string.number, "line": replayed.line,
        "epoch_utc": recording.write(e.epoch), "bound_ms": ms(e.bound),
        "bound_d0_known_ms": ms(e.inside), "calibrated": e.calibrated,
        "interval_ms": e.interval_ms, "shots_used": e.shots, "start_used": e.start,
        "start_heard": replayed.start_heard, "end": end_word(string.end), "shots": shots})
}

fn end_word(end: crate::timer::record::End) -> &'static str {
    use crate::timer::record::End;
    match end {
        End::Open => "open",
        End::Stopped => "stopped",
        End::LostStop => "lost_stop",
        End::TimedOut => "timed_out",
        End::PowerCycle => "power_cycle",
    }
}

fn as_text(recording: &Recording, told: &Told, delay: Delay) -> String {
    let mut out = String::new();
    for e in &recording.entries {
        let read = decode(&e.bytes);
        let mut line = format!("{}  {:<7}", recording.write(e.at), recording::kind(&read));
        let values = values(&read.frame);
        let number = |key: &str| values.get(key).and_then(Value::as_u64);
        if let Some(string) = number("string_number") {
            let _ = write!(line, " string {string}");
        }
        match recording::kind(&read) {
            "SHOT" | "STOP" | "SCREEN" => {
                let seconds = |key: &str| values.get(key).and_then(Value::as_f64).unwrap_or(0.0);
                let _ = write!(
                    line,
                    "  shot {} of {}  {:.2} s, split {:.2} s",
                    number("shot_number").unwrap_or(0),
                    number("total").unwrap_or(0),
                    seconds("time_s"),
                    seconds("split_s"),
                );
            }
            "LIST" | "TEXT" => {
                for value in values.values() {
                    let _ = write!(line, " {value}");
                }
            }
            "UNKNOWN" => {
                let _ = write!(line, " {}", hex(&e.bytes));
            }
            _ => {}
        }
        for doubt in &read.doubts {
            let _ = write!(line, "  ! {doubt}");
        }
        let _ = writeln!(out, "{line}");
    }
    for replayed in &told.strings {
        string_text(&mut out, recording, replayed);
    }
    if !told.strings.is_empty() && !delay.calibrated {
        let _ = writeln!(
            out,
            "\nThe bounds of beeps and shots include a fixed delay of 0 to 60 ms that nobody has\n\
             measured on this timer; splits do not depend on it. If it is known: --d0 40ms"
        );
    }
    if !told.remarks.is_empty() || !recording.bad.is_empty() {
        out.push('\n');
    }
    for (line, text) in &told.remarks {
        let _ = writeln!(out, "line {line}: {text}");
    }
    for (line, why) in &recording.bad {
        let _ = writeln!(out, "line {line} was left out: {why}");
    }
    out
}

fn string_text(out: &mut String, recording: &Recording, replayed: &Replayed) {
    let string = &replayed.string;
    let e = &string.estimate;
    let interval =
        e.interval_ms.map_or_else(|| "not known yet".to_owned(), |ms| format!("{ms} ms"));
    let _ = writeln!(
        out,
        "\nString {}: beep at {} ±{:.1} ms (±{:.1} ms if the fixed delay is known), \
         {} shots used, connection interval {interval}",
        string.number,
        recording.write(e.epoch),
        ms(e.bound),
        ms(e.inside),
        e.shots,
    );
    for s in &string.shots {
        let DatedShot { number, time, at, bound, arrival, .. } = *s;
        let late = arrival.map_or_else(
            || "its push was not heard".to_owned(),
            |arrival| format!("heard {:.0} ms later", ms(arrival - at)),
        );
        let doubt = if s.suspect { "  doubtful" } else { "" };
        let at = recording.write(at);
        let _ = writeln!(
            out,
            "  shot {number:<3} {time:>7} s  {at} ±{:.1} ms  {late}{doubt}",
            ms(bound)
        );
    }
}
