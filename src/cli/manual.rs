//! Writes the manual: `leadville-timesync(8)` and `leadville-timesync-web(8)` from the programs
//! themselves, `timesync.toml(5)` from the comments of `config/timesync.toml`, and completions for
//! bash, zsh and fish.
//!
//! An example, not a command: the daemon's binary carries none of it.
//! `cargo run --example manual -- DIRECTORY`; the package's build calls it.
use clap::{Arg, Command};
use clap_complete::Shell;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, error, fs, process};

const PROGRAM: &str = "leadville-timesync";

/// What the commands cannot say about themselves.
const AFTER: &str = r#"
.SH EXIT STATUS
.TP
.B 0
Done; of \fBstatus --check\fR: the clock is good or better.
.TP
.B 1
An error, which a sentence on standard error explains.
.TP
.B 2
The command line was not understood.
.TP
.BR 3 ", " 4 ", " 5 ", " 6 ", " 7
Of \fBstatus --check\fR: fair, poor, critical, unknown, frozen.
.SH SIGNALS
.TP
.B SIGHUP
Reads the configuration again. If there is a mistake in it, the old one goes on and the journal
says where the mistake is.
.TP
.BR SIGTERM ", " SIGINT
Saves the time and what was learned of the clock, and ends within a second.
.SH ENVIRONMENT
.TP
.B LEADVILLE_SOCKET
The control socket the commands talk to.
.TP
.BR NOTIFY_SOCKET ", " WATCHDOG_USEC ", " JOURNAL_STREAM
Set by systemd; see
.BR systemd.exec (5).
.SH FILES
.TP
.I /etc/leadville/timesync.toml
The configuration; see
.BR timesync.toml (5).
.TP
.I /run/leadville/timesync.sock
The control socket: one JSON object a line. Everybody in group leadville may use it.
.TP
.I $XDG_RUNTIME_DIR/leadville/timesync.sock
The same, of a daemon that was started without rights.
.TP
.I /var/lib/leadville/timesync/
What was learned of the clock, the time for the next boot, history and strings.
.TP
.I /run/systemd/timesync/synchronized
Exists from the first synchronisation on.
.SH SEE ALSO
.BR timesync.toml (5),
.BR leadville\-timesync\-web (8),
.BR timedatectl (1),
.BR systemctl (1),
.BR journalctl (1)
"#;

/// What the second program cannot say about itself.
#[cfg(feature = "web")]
const AFTER_WEB: &str = r#"
.SH SERVICE
Off until \fBleadville\-timesync web enable\fR puts the page on, or, for MQTT alone, until
\fBenabled = true\fR stands under [mqtt] and \fBsystemctl enable \-\-now leadville\-timesync\-web\fR
was said. It has no right but to ask the daemon, and nothing can be changed through it but, with
\fB\-\-phone\-time\fR, a time that no server has said yet.
.SH PATHS OF THE PAGE
.TP
.I /
The page for people.
.TP
.IR /api/status ", " /api/history?since=24h ", " /api/events
JSON; the last as server-sent events.
.TP
.I /chart.svg?since=7d
A chart.
.TP
.I /metrics
OpenMetrics.
.SH FILES
.TP
.I /etc/leadville/timesync.toml
Tables [web] and [mqtt]; see
.BR timesync.toml (5).
.TP
.I /etc/leadville/timesync\-web.env
Written by \fBleadville\-timesync web enable\fR: where the page is.
.SH SEE ALSO
.BR leadville\-timesync (8),
.BR timesync.toml (5)
"#;

fn main() {
    let Some(directory) = env::args_os().nth(1) else {
        eprintln!("usage: manual DIRECTORY");
        process::exit(2);
    };
    if let Err(why) = write_all(Path::new(&directory)) {
        eprintln!("manual: {why}");
        process::exit(1);
    }
}

fn write_all(directory: &Path) -> Result<(), Box<dyn error::Error>> {
    let mut command = leadville_timesync::cli::command().name(PROGRAM).bin_name(PROGRAM);
    command.build();
    fs::write(directory.join(format!("{PROGRAM}.8")), command_page(&command))?;
    #[cfg(feature = "web")]
    fs::write(
        directory.join(format!("{PROGRAM}-web.8")),
        web_page(&leadville_timesync::web::command()),
    )?;
    fs::write(
        directory.join("timesync.toml.5"),
        configuration_page(leadville_timesync::config::DEFAULT_TEXT),
    )?;
    for (shell, name) in [
        (Shell::Bash, format!("{PROGRAM}.bash")),
        (Shell::Zsh, format!("_{PROGRAM}")),
        (Shell::Fish, format!("{PROGRAM}.fish")),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, PROGRAM, &mut text);
        fs::write(directory.join(name), text)?;
    }
    Ok(())
}

/// Text as roff wants it: no backslash, no control line by chance, hyphens that can be copied.
fn roff(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for (n, line) in text.trim_end().lines().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        let line = line.trim();
        if line.starts_with(['.', '\'']) {
            out.push_str("\\&");
        }
        for letter in line.chars() {
            match letter {
                '\\' => out.push_str("\\e"),
                '-' => out.push_str("\\-"),
                '"' => out.push_str("\\(dq"),
                '\'' => out.push_str("\\(aq"),
                '`' => out.push_str("\\(ga"),
                '^' => out.push_str("\\(ha"),
                '~' => out.push_str("\\(ti"),
                other => out.push(other),
            }
        }
    }
    out
}

/// Paragraphs, one `.PP` between two.
fn paragraphs(text: &str) -> String {
    text.trim().split("\n\n").map(roff).collect::<Vec<_>>().join("\n.PP\n")
}

#[cfg(feature = "web")]
fn web_page(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let name = format!("{PROGRAM}-web - page, metrics and MQTT of {PROGRAM}");
    let mut page = heading("LEADVILLE\\-TIMESYNC\\-WEB", 8, &name);
    let _ = writeln!(page, ".SH SYNOPSIS\n.B {}\n[\\fIoptions\\fR]", roff(command.get_name()));
    let _ = writeln!(page, ".SH DESCRIPTION\n{}", paragraphs(&about));
    page.push_str(".SH OPTIONS\n");
    for argument in shown(command) {
        describe(&mut page, argument);
    }
    page.push_str(AFTER_WEB.trim_start());
    page
}

fn heading(title: &str, section: u8, name: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        ".TH {title} {section} \"\" \"{PROGRAM} {version}\" \"LeadVille\"\n.SH NAME\n{}\n",
        roff(name)
    )
}

fn command_page(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let about =
        about.lines().next().unwrap_or("keeps the clock right").trim_end_matches('.').to_owned();
    let mut page = heading("LEADVILLE\\-TIMESYNC", 8, &format!("{PROGRAM} - {about}"));
    let _ = writeln!(page, ".SH SYNOPSIS\n.B {}\n[\\fIoptions\\fR] \\fIcommand\\fR", roff(PROGRAM));
    let long = command.get_long_about().or(command.get_about()).map(ToString::to_string);
    let _ = writeln!(page, ".SH DESCRIPTION\n{}", paragraphs(&long.unwrap_or_default()));
    page.push_str(".SH OPTIONS\n");
    for argument in shown(command) {
        describe(&mut page, argument);
    }
    page.push_str(".SH COMMANDS\n");
    for sub in command.get_subcommands() {
        subcommand(&mut page, "", sub);
    }
    page.push_str(AFTER.trim_start());
    page
}

fn subcommand(page: &mut String, above: &str, command: &Command) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let name = format!("{above}{}", command.get_name());
    let inner: Vec<&Command> =
        command.get_subcommands().filter(|c| c.get_name() != "help").collect();
    if inner.is_empty() {
        let mut synopsis = format!("\\fB{}\\fR", roff(&name));
        for argument in shown(command).filter(|a| a.is_positional()) {
            let _ = write!(synopsis, " {}", value(argument));
        }
        let _ = writeln!(page, ".SS {synopsis}");
        let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
        let _ = writeln!(page, "{}", paragraphs(&about.unwrap_or_default()));
    }
    // Options that every command has stand under OPTIONS, once.
    for argument in shown(command).filter(|a| !a.is_global_set() && a.get_id() != "help") {
        describe(page, argument);
    }
    for sub in inner {
        subcommand(page, &format!("{name} "), sub);
    }
}

fn shown(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|a| !a.is_hide_set())
}

/// The place of a value, `[FILE]` or `SERVER...`, in italics.
fn value(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let mut text =
        names.iter().map(|n| format!("\\fI{}\\fR", roff(n))).collect::<Vec<_>>().join(" ");
    if argument.get_num_args().is_some_and(|n| n.max_values() > names.len().max(1)) {
        text.push_str("...");
    }
    if argument.is_positional() && !argument.is_required_set() {
        text = format!("[{text}]");
    }
    text
}

fn describe(page: &mut String, argument: &Arg) {
    let mut tag = Vec::new();
    if let Some(short) = argument.get_short() {
        tag.push(format!("\\fB\\-{short}\\fR"));
    }
    if let Some(long) = argument.get_long() {
        tag.push(format!("\\fB\\-\\-{}\\fR", roff(long)));
    }
    let mut tag = tag.join(", ");
    if argument.get_action().takes_values() {
        if !tag.is_empty() {
            tag.push(' ');
        }
        tag.push_str(&value(argument));
    }
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string);
    let mut help = roff(&help.unwrap_or_default());
    let values: Vec<_> = argument.get_possible_values();
    if argument.get_action().takes_values() && !values.is_empty() {
        let names: Vec<_> =
            values.iter().filter(|v| !v.is_hide_set()).map(|v| roff(v.get_name())).collect();
        let _ = write!(help, "\n[one of {}]", names.join(", "));
    }
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|d| roff(&d.to_string_lossy())).collect();
    if argument.get_action().takes_values()
        && !defaults.is_empty()
        && !argument.is_hide_default_value_set()
    {
        let _ = write!(help, "\n[default: {}]", defaults.join(" "));
    }
    let _ = writeln!(page, ".TP\n{tag}\n{}", help.trim_start());
}

/// One line of the configuration, as far as the manual cares.
enum Line<'a> {
    Blank,
    Comment(&'a str),
    Table(&'a str),
    Key(&'a str, String),
}

fn configuration_page(text: &str) -> String {
    let mut page =
        heading("TIMESYNC.TOML", 5, &format!("timesync.toml - configuration of {PROGRAM}"));
    page.push_str(".SH SYNOPSIS\n.I /etc/leadville/timesync.toml\n.SH DESCRIPTION\n");
    let mut comment: Vec<&str> = Vec::new();
    let mut described = false; // the file's first comment is its description
    for line in configuration_lines(text) {
        match line {
            Line::Comment(words) => comment.push(words),
            Line::Blank => {
                if !comment.is_empty() {
                    let _ = writeln!(page, ".PP\n{}", comment_text(&comment));
                    comment.clear();
                }
                if !described {
                    described = true;
                    page.push_str(".SH KEYS\n");
                }
            }
            Line::Table(name) => {
                if !comment.is_empty() {
                    let _ = writeln!(page, ".PP\n{}", comment_text(&comment));
                    comment.clear();
                }
                let _ = writeln!(page, ".SS {}", roff(name));
            }
            Line::Key(name, value) => {
                let _ = writeln!(
                    page,
                    ".TP\n\\fB{}\\fR = {}\n{}",
                    roff(name),
                    roff(&value),
                    comment_text(&comment)
                );
                comment.clear();
            }
        }
    }
    page.push_str(
        ".SH SEE ALSO\n.BR leadville\\-timesync (8);\n.B leadville\\-timesync check\\-config\nfinds mistakes before the daemon does.\n",
    );
    page
}

/// Running text is filled; lines that are set out in columns stay as they are.
fn comment_text(comment: &[&str]) -> String {
    let mut out = String::new();
    let mut literal = false;
    for line in comment {
        let columns = line.starts_with("  ") || line.contains(":   ");
        if columns != literal {
            out.push_str(if columns { ".nf\n" } else { ".fi\n" });
            literal = columns;
        }
        if columns {
            let indent = line.len() - line.trim_start().len();
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(&roff(line));
        out.push('\n');
    }
    if literal {
        out.push_str(".fi\n");
    }
    out.trim_end().to_owned()
}

fn configuration_lines(text: &str) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut rest = text.lines().peekable();
    let mut sample = false; // inside a table that is commented out
    while let Some(whole) = rest.next() {
        let mut line = whole.trim();
        sample = !line.is_empty() && (sample || line.starts_with("#[["));
        if sample {
            line = line.strip_prefix('#').unwrap_or(line);
        }
        if line.is_empty() {
            lines.push(Line::Blank);
        } else if let Some(words) = line.strip_prefix('#') {
            lines.push(Line::Comment(words.strip_prefix(' ').unwrap_or(words)));
        } else if line.starts_with('[') {
            lines.push(Line::Table(line));
        } else if let Some((key, value)) = line.split_once(" = ") {
            let mut value = value.to_owned();
            while value.matches('[').count() > value.matches(']').count() {
                let Some(more) = rest.next() else { break };
                if !value.ends_with('[') && more.trim() != "]" {
                    value.push(' ');
                }
                value.push_str(more.trim());
            }
            lines.push(Line::Key(key, value.replace(",]", "]")));
        }
    }
    lines
}
