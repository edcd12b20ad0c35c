//! Orders to the daemon: each is one request, and the answer is a sentence.
use super::ask::{connect, request};
use super::positive_span;
use super::say::{Done, Failure, say_line};
use crate::units::{Nanos, UtcTime};
use clap::Args;
use serde_json::{Value, json};
use std::path::Path;

/// `lock`
#[derive(Args, Debug)]
pub struct Lock {
    /// What it is for, as status shows it
    #[arg(long, value_name = "NAME", default_value = "match")]
    name: String,
    /// When it ends by itself [default: as configured, 4h]
    #[arg(long = "for", value_name = "SPAN", value_parser = positive_span)]
    length: Option<Nanos>,
}

/// `unlock`
#[derive(Args, Debug)]
pub struct Unlock {
    /// Which lock
    #[arg(long, value_name = "NAME", default_value = "match")]
    name: String,
}

/// `set-time`
#[derive(Args, Debug)]
pub struct SetTime {
    /// UTC, such as 2026-11-22T09:00:05Z
    utc: String,
    /// How well it is known
    #[arg(long, value_name = "SPAN", default_value = "2s", value_parser = positive_span)]
    uncertainty: Nanos,
}

/// A request without arguments.
pub fn plain(socket: Option<&Path>, what: &str) -> Done {
    order(socket, &json!({"do": what}))
}

pub fn lock(socket: Option<&Path>, args: &Lock) -> Done {
    let name = named(&args.name)?;
    match args.length {
        Some(length) => {
            order(socket, &json!({"do": "lock", "name": name, "for_s": length.as_secs_f64()}))
        }
        None => order(socket, &json!({"do": "lock", "name": name})),
    }
}

pub fn unlock(socket: Option<&Path>, args: &Unlock) -> Done {
    order(socket, &json!({"do": "unlock", "name": named(&args.name)?}))
}

pub fn set_time(socket: Option<&Path>, args: &SetTime) -> Done {
    let Some(utc) = UtcTime::from_iso(&args.utc) else {
        let sentence = format!("{} is not a time such as 2026-11-22T09:00:05Z", args.utc);
        return Err(Failure::new(sentence).usage());
    };
    let uncertainty = args.uncertainty.as_secs_f64();
    order(socket, &json!({"do": "set-time", "utc": utc.iso(9), "uncertainty_s": uncertainty}))
}

fn named(name: &str) -> Result<&str, Failure> {
    if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
        return Err(Failure::new("a lock's name has 1 to 64 plain characters").usage());
    }
    Ok(name)
}

fn order(socket: Option<&Path>, what: &Value) -> Done {
    let reply = request(&mut connect(socket)?, what)?;
    say_line(reply["message"].as_str().unwrap_or("Done."))?;
    Ok(0)
}
