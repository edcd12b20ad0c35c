//! Checking a configuration file.
use super::say::{Done, Failure, say_line};
use crate::config::{Config, ConfigError, DEFAULT_PATH};
use clap::Args;
use std::io::Read;
use std::path::{Path, PathBuf};

/// `check-config`
#[derive(Args, Debug)]
pub struct Check {
    /// The file; - reads from standard input
    #[arg(value_name = "FILE", default_value = DEFAULT_PATH)]
    file: PathBuf,
}

pub fn check(args: &Check) -> Done {
    let (config, text) = if args.file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .take(1 << 20)
            .read_to_string(&mut text)
            .map_err(|error| Failure::new(format!("standard input: {error}")))?;
        (Config::parse(&text, "standard input"), Some(text))
    } else {
        (Config::load(&args.file), std::fs::read_to_string(&args.file).ok())
    };
    let config = config.map_err(|error| refusal(&error, text.as_deref()))?;
    let servers = match config.ntp.servers.len() {
        1 => "1 server".to_owned(),
        n => format!("{n} servers"),
    };
    let timers = match config.timer.len() {
        0 => String::new(),
        1 => ", 1 timer".into(),
        n => format!(", {n} timers"),
    };
    say_line(&format!("{}: right ({servers}{timers})", args.file.display()))?;
    for note in config.notes() {
        say_line(&format!("Note: {note}"))?;
    }
    Ok(0)
}

/// The error, and under it the line it is about with a mark at the place.
fn refusal(error: &ConfigError, text: Option<&str>) -> Failure {
    let failure = Failure::new(error.to_string());
    let Some((line, column)) = error.place() else { return failure };
    match text.and_then(|text| text.lines().nth(line - 1)) {
        Some(wrong) if wrong.chars().count() <= 200 => {
            let wrong = wrong.trim_start_matches('\u{feff}').replace('\t', " ");
            failure.hint(format!("{wrong}\n  {}^", " ".repeat(column - 1)))
        }
        _ => failure,
    }
}
