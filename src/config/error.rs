//! What is wrong with a configuration, where, and what was probably meant.
use std::fmt;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Why a configuration is refused. `Display` is one line: `file:line:column: sentence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    file: String,
    place: Option<(usize, usize)>,
    sentence: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file, self.sentence),
            None => write!(f, "{}: {}", self.file, self.sentence),
        }
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// Line and column, both from 1; a column counts characters.
    #[must_use]
    pub fn place(&self) -> Option<(usize, usize)> {
        self.place
    }

    /// What is wrong, without the place.
    #[must_use]
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let sentence = match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
            std::io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
            std::io::ErrorKind::IsADirectory => "this is a directory, not a file".to_owned(),
            _ => format!("it cannot be read: {error}"),
        };
        Self { file: path.display().to_string(), place: None, sentence }
    }

    pub(super) fn not_utf8(file: &str, bytes: &[u8], at: usize) -> Self {
        let before = String::from_utf8_lossy(&bytes[..at]);
        let sentence = "this is not UTF-8 text".to_owned();
        Self { file: file.into(), place: Some(place(&before, before.len())), sentence }
    }
}

/// Line and column of a byte position, both from 1.
#[must_use]
pub fn place(text: &str, at: usize) -> (usize, usize) {
    let before =
        &text[..(0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The sentence for an error of the parser or of a value.
pub(super) fn of_toml(file: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let span = error.span();
    let message = error.message().trim();
    let sentence = unknown(message, "unknown field")
        .map(|(name, known)| unknown_key(text, span.as_ref(), name, &known))
        .or_else(|| {
            let (name, known) = unknown(message, "unknown variant")?;
            let list = known.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
            let meant = nearest(name, &known)
                .map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
            Some(prefixed(text, span.as_ref(), &format!("\"{name}\" is none of {list}{meant}")))
        })
        .or_else(|| {
            let (what, expected) =
                message.strip_prefix("invalid type: ")?.split_once(", expected ")?;
            let expected = match expected {
                "a boolean" => "true or false",
                "a string" => "a text in quotes",
                "a sequence" => "a list in [ ]",
                e if e.starts_with("struct ") => "a table",
                other => other,
            };
            let what = what.replace('`', "").replace("string ", "the text ");
            Some(prefixed(text, span.as_ref(), &format!("this must be {expected}, not {what}")))
        })
        .or_else(|| {
            let key = message.strip_prefix("missing field `")?.strip_suffix('`')?;
            Some(prefixed(text, span.as_ref(), &format!("the key {key} is missing")))
        })
        .or_else(|| {
            (message == "duplicate key").then(|| {
                let key = span.clone().and_then(|s| text.get(s)).unwrap_or("this key").trim();
                format!("{key} stands here a second time")
            })
        })
        .unwrap_or_else(|| prefixed(text, span.as_ref(), message));
    let place = span.map(|span| place(text, span.start));
    ConfigError { file: file.into(), place, sentence: one_line(&sentence) }
}

/// The error of a value that contradicts others, where its key stands.
pub(super) fn at_key(file: &str, text: &str, key: &str, sentence: &str) -> ConfigError {
    let place = DeTable::parse(text).ok().and_then(|table| {
        let mut found: Option<Range<usize>> = None;
        let mut parts = key.split('.');
        let first = table.get_ref().get(parts.next()?)?;
        let value = parts.try_fold(first, |value, part| {
            found = Some(value.span());
            match part.parse::<usize>() {
                Ok(index) => value.get_ref().get(index),
                Err(_) => value.get_ref().get(part),
            }
        });
        Some(place(text, value.map(Spanned::span).or(found)?.start))
    });
    // People count from one.
    let counted =
        |part: &str| part.parse::<usize>().map_or(part.to_owned(), |n| (n + 1).to_string());
    let key = key.split('.').map(counted).collect::<Vec<_>>().join(".");
    ConfigError { file: file.into(), place, sentence: format!("{key}: {sentence}") }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The sentence with the path of the value at `span` before it.
fn prefixed(text: &str, span: Option<&Range<usize>>, sentence: &str) -> String {
    match span.and_then(|span| path_of(text, span)) {
        Some(path) => format!("{path}: {sentence}"),
        None => sentence.to_owned(),
    }
}

/// The dotted path of the innermost value that covers `span`.
fn path_of(text: &str, span: &Range<usize>) -> Option<String> {
    fn within(value: &Spanned<DeValue<'_>>, span: &Range<usize>, path: &mut Vec<String>) -> bool {
        let own = value.span();
        let covers = own.start <= span.start && span.end <= own.end;
        match value.get_ref() {
            DeValue::Table(table) => {
                for (key, value) in table {
                    path.push(key.get_ref().to_string());
                    if key.span() == *span || within(value, span, path) {
                        return true;
                    }
                    path.pop();
                }
            }
            DeValue::Array(array) => {
                for (index, value) in array.iter().enumerate() {
                    path.push((index + 1).to_string());
                    if within(value, span, path) {
                        return true;
                    }
                    path.pop();
                }
            }
            _ => {}
        }
        covers
    }
    let table = DeTable::parse(text).ok()?;
    for (key, value) in table.get_ref() {
        let mut path = vec![key.get_ref().to_string()];
        if within(value, span, &mut path) {
            return Some(path.join("."));
        }
    }
    None
}

/// The name and the known names of serde's message about something unknown.
fn unknown<'m>(message: &'m str, kind: &str) -> Option<(&'m str, Vec<&'m str>)> {
    let mut names = message.strip_prefix(kind)?.split('`').skip(1).step_by(2);
    Some((names.next()?, names.collect()))
}

/// Keys of the configuration that this program's predecessor had, and what they are called here.
const FORMER: [(&str, &str); 9] = [
    ("sync_interval_minutes", "sync_interval = \"5min\" in [ntp]"),
    ("drift_threshold_ms", "drift_threshold = \"20ms\" in [alert]"),
    ("enable_correction", "steer in [clock]"),
    ("timeout_seconds", "timeout = \"10s\" in [ntp]"),
    ("health_report_interval_sec", "health_report_interval = \"60s\" in [bluetooth]"),
    ("rssi_check_interval_sec", "rssi_check_interval = \"30s\" in [bluetooth]"),
    ("time_synchronization", "[ntp], [clock] and [alert]"),
    ("amg_timer", "[[timer]] and [bluetooth]"),
    ("device_id", "address in [[timer]]"),
];

fn unknown_key(text: &str, span: Option<&Range<usize>>, name: &str, known: &[&str]) -> String {
    let table = span.and_then(|span| path_of(text, span)).and_then(|path| {
        let (table, key) = path.rsplit_once('.')?;
        (key == name).then(|| format!(" in [{table}]"))
    });
    let place = table.unwrap_or_default();
    let near = |known: &[&str]| nearest(name, known).map(str::to_owned);
    let elsewhere =
        || SECTIONS.iter().find(|(_, keys)| keys.contains(&name)).map(|(section, _)| *section);
    let meant = if let Some((_, now)) = FORMER.iter().find(|(former, _)| *former == name) {
        format!("; it is now {now}")
    } else if let Some(near) = near(known) {
        format!("; did you mean {near}?")
    } else if let Some(section) = elsewhere() {
        format!("; it belongs under [{section}]")
    } else {
        format!("; possible here: {}", known.join(", "))
    };
    format!("unknown key {name}{place}{meant}")
}

/// Keys that people look for in the wrong table, by table.
const SECTIONS: [(&str, &[&str]); 6] = [
    ("ntp", &["servers", "sync_interval", "timeout", "max_retries", "min_agreeing"]),
    ("clock", &["steer", "step_above", "max_slew_ppm", "step_budget", "lock_frequency_ppm"]),
    ("alert", &["drift_threshold", "clear_below", "severe"]),
    ("control", &["socket", "group"]),
    ("log", &["level"]),
    ("state", &["directory"]),
];

/// The known name that is most like `name`, if one is like it at all.
#[must_use]
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let wanted = name.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|&candidate| (edits(&wanted, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= candidate.len().max(wanted.len()).max(3) / 3)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}
