//! What happens, line by line.
use super::ask::{connect, request, status_of};
use super::positive_span;
use super::say::{Done, Failure, say_line};
use super::words::amount;
use crate::units::{Nanos, UtcTime};
use clap::Args;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// `events`
#[derive(Args, Debug)]
pub struct Events {
    /// Go on as things happen
    #[arg(long, short)]
    follow: bool,
    /// Begin so long ago [default: 24h; with --follow: now]
    #[arg(long, value_name = "SPAN", value_parser = positive_span)]
    since: Option<Nanos>,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

pub fn events(socket: Option<&Path>, args: &Events) -> Done {
    let mut client = connect(socket)?;
    let since = args.since.or((!args.follow).then_some(Nanos::from_secs(86_400)));
    let question = match since {
        Some(since) => {
            let now = UtcTime::from_nanos(status_of(&mut client)?.0.utc_ns);
            json!({"do": "subscribe", "since": (now - since).iso(3)})
        }
        None => json!({"do": "subscribe"}),
    };
    request(&mut client, &question)?;
    let lines = client.lines()?;
    let (tell, told) = mpsc::sync_channel(1);
    // Lines are waited for aside, so that the past can end where nothing more comes.
    std::thread::Builder::new().spawn(move || {
        // Whoever listened may have gone.
        let _gone = lines.into_iter().try_for_each(|line| tell.send(line));
    })?;
    let patience = Duration::from_millis(500);
    let mut told_any = false;
    loop {
        let line = if args.follow {
            told.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            told.recv_timeout(patience)
        };
        match line {
            Ok(Ok(event)) => {
                told_any = true;
                say_line(&if args.json { event.to_string() } else { words(&event) })?;
            }
            Ok(Err(error)) => return Err(Failure::new(error.to_string())),
            Err(RecvTimeoutError::Disconnected) if args.follow => {
                return Err(Failure::new("the daemon has ended"));
            }
            Err(_) if told_any || args.json => return Ok(0),
            Err(_) => {
                say_line("Nothing is remembered; events --follow shows what happens from now on.")?;
                return Ok(0);
            }
        }
    }
}

/// An event in words: when, what, and the rest as it is.
#[must_use]
pub fn words(event: &Value) -> String {
    let nothing = Map::new();
    let fields = event.as_object().unwrap_or(&nothing);
    let text = |key: &str| fields.get(key).and_then(Value::as_str);
    let mut line = text("utc").unwrap_or("(undated)").to_owned();
    let _ = write!(line, "  {}", text("event").unwrap_or("event").replace('_', " "));
    if let Some(message) = text("message") {
        let _ = write!(line, ": {message}");
        return line;
    }
    for (key, value) in fields {
        if matches!(key.as_str(), "v" | "event" | "utc" | "utc_ns" | "raw_ns" | "monotonic_ns") {
            continue;
        }
        let _ = match (key.strip_suffix("_us"), value) {
            (_, Value::Null) => write!(line, ", {} unknown", key.replace('_', " ")),
            (Some(name), Value::Number(n)) => {
                let us = n.as_f64().unwrap_or(f64::NAN);
                write!(line, ", {} {}", name.replace('_', " "), amount(us))
            }
            (_, Value::String(text)) => write!(line, ", {} {text}", key.replace('_', " ")),
            (_, other) => write!(line, ", {} {other}", key.replace('_', " ")),
        };
    }
    line
}
