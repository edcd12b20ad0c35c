//! The status, live: the same words, and small graphs of what was measured. Plain ANSI.
use super::ask::{connect, history_of, status_of};
use super::paint::{Paint, Tone};
use super::positive_span;
use super::say::{Done, Failure, say};
use super::status::text;
use super::words::{amount, sided};
use crate::os::control::Client;
use crate::os::terminal;
use crate::state::{Measurement, Status};
use crate::units::Nanos;
use clap::Args;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

/// `watch`
#[derive(Args, Debug)]
pub struct Watch {
    /// Look so often
    #[arg(long, value_name = "SPAN", default_value = "1s", value_parser = positive_span)]
    every: Nanos,
}

/// Clears the screen, home; clears the rest of a line; clears the rest of the screen.
const CLEAR: &str = "\x1b[2J\x1b[H";
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";

/// A screen that is drawn again and again in place.
#[derive(Debug, Default)]
pub struct Screen {
    drawn: bool,
}

impl Screen {
    /// What must be written to show `text` in place of what was shown before, on a terminal of so many
    /// rows and columns; the lowest row stays free, so that nothing scrolls.
    #[must_use]
    pub fn draw(&mut self, text: &str, size: Option<(usize, usize)>) -> String {
        let (rows, columns) = size.unwrap_or((usize::MAX, usize::MAX));
        let mut out = String::from(if self.drawn { HOME } else { CLEAR });
        self.drawn = true;
        let room = rows.saturating_sub(1).max(1);
        let all = text.lines().count();
        let shown = if all > room { room - 1 } else { all };
        for line in text.lines().take(shown) {
            let _ = write!(out, "{}{REST_OF_LINE}\r\n", cut(line, columns));
        }
        if all > shown {
            let more = format!("… {} more lines on a higher terminal", all - shown);
            let _ = write!(out, "{}{REST_OF_LINE}\r\n", cut(&more, columns));
        }
        out.push_str(REST_OF_SCREEN);
        out
    }
}

/// The first `columns` characters of a line; colours take no room and are all kept.
fn cut(line: &str, columns: usize) -> String {
    let (mut out, mut used, mut colour) = (String::new(), 0, false);
    for c in line.chars() {
        colour |= c == '\x1b';
        if colour {
            out.push(c);
            colour = c != 'm';
        } else if used < columns {
            out.push(c);
            used += 1;
        }
    }
    out
}

/// Shows the status until the user has seen enough.
pub fn watch(socket: Option<&Path>, args: &Watch) -> Done {
    let pause = args.every.get().clamp(100_000_000, 60_000_000_000).unsigned_abs();
    // The first look fails in words; later ones are shown, for the daemon may come back.
    let client = connect(socket)?;
    show(socket, Some(client), "", Duration::from_nanos(pause))
}

/// The live view of `run --simulate`, through the daemon's own control socket, once a second.
/// Ends with the process, or when nobody can look any more.
pub fn follow(socket: &Path) {
    let program = std::env::args().next().unwrap_or_else(|| "leadville-timesync".into());
    let above = format!(
        "A simulated crystal and simulated servers; this computer's clock is not touched.\n\
         In a second terminal: {program} --socket {} status\n\
         Ctrl-C ends.\n\n",
        socket.display()
    );
    // The daemon begins to listen about now.
    std::thread::sleep(Duration::from_millis(100));
    let _ = show(Some(socket), None, &above, Duration::from_secs(1));
}

fn show(socket: Option<&Path>, mut client: Option<Client>, above: &str, pause: Duration) -> Done {
    let on_terminal = std::io::stdout().is_terminal();
    let (paint, mut screen) = (Paint::for_stdout(), Screen::default());
    let above = if above.is_empty() { String::new() } else { paint.on(Tone::Quiet, above) };
    loop {
        let text = look(socket, &mut client, paint).unwrap_or_else(|failure| {
            format!("{}\n\n{failure}\n", paint.on(Tone::Bad, "The daemon cannot be asked."))
        });
        let text = format!("{above}{text}");
        say(&if on_terminal { screen.draw(&text, terminal::size()) } else { format!("{text}\n") })?;
        std::thread::sleep(pause);
    }
}

/// One look, through the connection that is open or a new one.
fn look(
    socket: Option<&Path>,
    client: &mut Option<Client>,
    paint: Paint,
) -> Result<String, Failure> {
    let mut open = match client.take() {
        Some(open) => open,
        None => connect(socket)?,
    };
    let (status, _) = status_of(&mut open)?;
    let history = history_of(&mut open)?;
    *client = Some(open);
    Ok(view(&status, &history, paint))
}

/// Everything that `watch` shows at a moment. Pure.
#[must_use]
pub fn view(status: &Status, history: &[Measurement], paint: Paint) -> String {
    let mut out = text(status, paint);
    if history.is_empty() {
        return out;
    }
    out.push('\n');
    let last = &history[history.len().saturating_sub(60)..];
    let graph = |out: &mut String, head: &str, values: Vec<f64>, show: fn(f64) -> String| {
        let (low, high) = bounds(&values);
        let head = format!("{}{}", paint.on(Tone::Heading, head), " ".repeat(9 - head.len()));
        let (low, high) = if low < high {
            (show(low), format!(" to {}", show(high)))
        } else {
            (show(low), String::new())
        };
        let _ = writeln!(out, "{head}{}  {low}{high}", sparks(&values));
    };
    graph(&mut out, "Offset", last.iter().map(|m| m.offset_us).collect(), sided);
    graph(&mut out, "Bound", last.iter().map(|m| m.error_bound_us).collect(), amount);
    graph(&mut out, "Rate", last.iter().map(|m| m.frequency_ppm).collect(), |ppm| {
        format!("{ppm:+.3} ppm")
    });
    let celsius: Vec<f64> = last.iter().filter_map(|m| m.temperature_c).collect();
    if !celsius.is_empty() {
        graph(&mut out, "Heat", celsius, |c| format!("{c:.1} °C"));
    }
    let n = match last.len() {
        1 => "the only measurement".to_owned(),
        n => format!(
            "the last {n} measurements, since {}",
            super::words::clock(&last[0].time.to_string())
        ),
    };
    let _ = writeln!(out, "         {}", paint.on(Tone::Quiet, &n));
    out
}

fn bounds(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
}

/// A graph one line high; what is not a number leaves a gap.
#[must_use]
pub fn sparks(values: &[f64]) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (low, high) = bounds(values);
    values
        .iter()
        .map(|value| match value {
            v if !v.is_finite() => ' ',
            _ if low >= high => HEIGHTS[3],
            v => HEIGHTS[(((v - low) / (high - low) * 7.0).round() as usize).min(7)],
        })
        .collect()
}
