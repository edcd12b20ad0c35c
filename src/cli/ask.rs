//! Questions to the daemon: status, sources, stamp.
use super::paint::Paint;
use super::say::{Done, Failure, say, say_line};
use super::status::{check_line, server_lines, text};
use super::words::{at_most, exit_code, span};
use crate::os::clock::monotonic_now;
use crate::os::control::{Client, places};
use crate::state::{self, Measurement, ServerStatus};

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// `status`
#[derive(Args, Debug)]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print one line and exit by quality
    #[arg(long, conflicts_with = "json")]
    check: bool,
}

/// A command with no other option.
#[derive(Args, Debug)]
pub struct Json {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `stamp`
#[derive(Args, Debug)]
pub struct Stamp {
    /// A time of the monotonic clock, in ns (what Python calls monotonic) [default: now]
    #[arg(long, value_name = "NS")]
    monotonic_ns: Option<i64>,
    /// A time of the raw monotonic clock, in ns
    #[arg(long, value_name = "NS", conflicts_with = "monotonic_ns")]
    raw_ns: Option<i64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Opens the connection to the daemon.
pub fn connect(socket: Option<&Path>) -> Result<Client, Failure> {
    Client::connect(&places(socket)).map_err(|error| {
        let failure = Failure::new(error.to_string());
        if error.kind() == std::io::ErrorKind::NotFound {
            failure.hint(
                "start it with `sudo systemctl start leadville-timesync`, or try \
                 `leadville-timesync run --simulate`",
            )
        } else {
            failure
        }
    })
}

/// One request, one reply; the daemon's refusals become failures.
pub fn request(client: &mut Client, request: &Value) -> Result<Value, Failure> {
    let at = client.path().display().to_string();
    let reply = client
        .request(request)
        .map_err(|error| Failure::new(format!("the daemon at {at} does not answer: {error}")))?;
    if reply["reply"] != "error" {
        return Ok(reply);
    }
    let failure = Failure::new(reply["error"].as_str().unwrap_or("the daemon refuses"));
    Err(match reply["hint"].as_str() {
        Some(hint) => failure.hint(hint),
        None => failure,
    })
}

/// A part of a reply as a type of ours.
fn part<T: DeserializeOwned>(reply: Value) -> Result<T, Failure> {
    serde_json::from_value(reply).map_err(|error| {
        Failure::new(format!("the daemon's reply is not understood: {error}"))
            .hint("daemon and command may be of different versions: restart the daemon")
    })
}

/// The status, as a type of ours and as it came.
pub fn status_of(client: &mut Client) -> Result<(state::Status, Value), Failure> {
    let reply = request(client, &json!({"do": "status"}))?;
    Ok((part(reply.clone())?, reply))
}

/// The history, oldest first.
pub fn history_of(client: &mut Client) -> Result<Vec<Measurement>, Failure> {
    let mut reply = request(client, &json!({"do": "history"}))?;
    part(reply["history"].take())
}

pub fn status(socket: Option<&Path>, args: &Status) -> Done {
    let (status, reply) = status_of(&mut connect(socket)?)?;
    if args.json {
        say_line(&pretty(&reply))?;
    } else if args.check {
        say_line(&check_line(&status))?;
        return Ok(exit_code(&status));
    } else {
        say(&text(&status, Paint::for_stdout()))?;
    }
    Ok(0)
}

pub fn sources(socket: Option<&Path>, args: &Json) -> Done {
    let mut reply = request(&mut connect(socket)?, &json!({"do": "sources"}))?;
    if args.json {
        say_line(&pretty(&reply))?;
        return Ok(0);
    }
    let servers: Vec<ServerStatus> = part(reply["servers"].take())?;
    if servers.is_empty() {
        say_line("No server is asked.")?;
    }
    for (server, line) in servers.iter().zip(server_lines(&servers, Paint::for_stdout())) {
        say_line(&line)?;
        say_line(&format!("    {}", details(server)))?;
    }
    Ok(0)
}

/// The second line about a server.
fn details(server: &ServerStatus) -> String {
    let place = server.address.as_deref().unwrap_or("no address yet");
    let mut text =
        format!("{place}; {} requests, {} usable replies", server.requests, server.replies);
    if server.beside() {
        text =
            format!("beside us; {} groups of seconds, {} usable", server.requests, server.replies);
    }
    if let Some(most) = server.max_error_us {
        let _ = write!(text, "; guaranteed {}", at_most(most));
    }
    if let Some(id) = &server.reference_id {
        let _ = write!(text, "; takes its time from {id}");
    }
    match server.next_poll_s {
        Some(next) if next < 0.5 => text.push_str("; asked again now"),
        Some(next) => {
            let _ = write!(text, "; asked again in {}", span(next));
        }
        None => {}
    }
    for (why, count) in &server.rejected {
        let _ = write!(text, "; {count} × {why}");
    }
    text
}

pub fn stamp(socket: Option<&Path>, args: &Stamp) -> Done {
    let question = if let Some(raw) = args.raw_ns {
        json!({"do": "stamp", "raw_ns": raw})
    } else {
        let ns = args.monotonic_ns.unwrap_or_else(monotonic_now);
        json!({"do": "stamp", "monotonic_ns": ns})
    };
    let reply = request(&mut connect(socket)?, &question)?;
    if args.json {
        say_line(&pretty(&reply))?;
        return Ok(0);
    }
    let utc = reply["utc"].as_str().unwrap_or("unknown");
    match reply["bound_us"].as_f64() {
        Some(bound) => say_line(&format!("{utc}, within {}", at_most(bound)))?,
        None => say_line(&format!("{utc}, how well is unknown"))?,
    }
    Ok(0)
}

/// JSON for people and programs alike.
pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}
