//! What a frame costs from its bytes to the string's new date, µs of processor time, by interval and
//! length of the string: `make bench-timer` (`--write` puts the table into README.md).
//!
//! Fails above 50 µs in the mean of any row, on a link that is kept and where every string is the first
//! on its link.
use leadville_timesync::sim::shooter::{Habit, Radio, Shooter};
use leadville_timesync::timer::bay::Bay;
use leadville_timesync::timer::epoch::Delay;
use leadville_timesync::units::RawTime;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

/// In the mean, µs.
const LIMIT: f64 = 50.0;
const STRINGS: i64 = 300;
const INTERVALS: [f64; 3] = [48.75, 15.0, 7.5];

/// Processor time of this thread: what else runs on the machine is not measured.
fn spent() -> Duration {
    nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("the kernel counts it").into()
}

/// How long frames took, µs.
struct Took {
    /// All, in order.
    sorted: Vec<f64>,
    /// The median of the dearest place in the string: the start, the n-th shot or the stop.
    dearest: f64,
}

impl Took {
    fn mean(&self) -> f64 {
        self.sorted.iter().sum::<f64>() / self.sorted.len() as f64
    }
}

/// How long the frames of many strings took. `fresh`: every string on a link of its own, its interval
/// not known before.
fn frames(interval_ms: f64, shots: u32, fresh: bool) -> Took {
    let habit = Habit { num_shots: shots, random_timing: true, ..Habit::default() };
    let radio = Radio { interval_ms, ..Radio::default() };
    let mut shooter = Shooter::new(habit, radio, 9);
    let mut bay = Bay::new(Delay::default());
    let mut places = vec![Vec::new(); shots as usize + 2];
    for n in 0..STRINGS {
        if fresh {
            shooter.reconnected();
            bay = Bay::new(Delay::default());
        }
        let fired = shooter.fire(RawTime::from_nanos(n * 400_000_000_000));
        for (heard, took) in fired.heard.iter().zip(&mut places) {
            let start = spent();
            let said = bay.hear(heard.at, &heard.bytes);
            let estimate = bay.estimate(fired.number);
            took.push(spent().saturating_sub(start).as_secs_f64() * 1e6);
            std::hint::black_box((said, estimate));
        }
    }
    places.iter_mut().for_each(|took| took.sort_by(f64::total_cmp));
    let dearest = places.iter().map(|took| took[took.len() / 2]).fold(0.0, f64::max);
    let mut sorted = places.concat();
    sorted.sort_by(f64::total_cmp);
    Took { sorted, dearest }
}

/// Puts the table into README.md.
fn write(table: &str) {
    let readme = std::fs::read_to_string("README.md").expect("run in the repository");
    let (before, rest) = readme.split_once("<!-- frames -->\n").expect("a place for it");
    let (_, after) = rest.split_once("<!-- /frames -->").expect("its end");
    std::fs::write("README.md", format!("{before}<!-- frames -->\n{table}<!-- /frames -->{after}"))
        .expect("README.md can be written");
}

fn main() -> ExitCode {
    let (mut slow, mut dearest) = (false, 0.0_f64);
    let mut table = String::from("| shots |");
    for interval_ms in INTERVALS {
        let _ = write!(table, " {interval_ms} ms | new link |");
    }
    let _ = write!(table, "\n|---:|{}\n", "---:|".repeat(2 * INTERVALS.len()));
    println!(
        "interval ms  shots  link  frames    mean  median    99 %     max  dearest   (µs per frame)"
    );
    for shots in [1, 6, 10, 150] {
        let _ = write!(table, "| {shots} |");
        for interval_ms in INTERVALS {
            for fresh in [false, true] {
                let took = frames(interval_ms, shots, fresh);
                let (mean, all) = (took.mean(), &took.sorted);
                slow |= mean > LIMIT;
                dearest = dearest.max(took.dearest);
                let _ = write!(table, " {mean:.0} |");
                println!(
                    "{interval_ms:11} {shots:6}  {}  {:6} {mean:7.1} {:7.1} {:7.1} {:7.1}  {:7.1}",
                    if fresh { "new " } else { "kept" },
                    all.len(),
                    all[all.len() / 2],
                    all[all.len() * 99 / 100],
                    all[all.len() - 1],
                    took.dearest,
                );
            }
        }
        table.push('\n');
    }
    let _ = write!(
        table,
        "\nProcessor time of a timer's frame in the mean, from its bytes to the string's date, µs; limit {LIMIT}. By \
         connection interval and shots of the string, on a link that is kept and where every string is the first on \
         its link. The dearest single frame, by its place in the string, takes {dearest:.0} µs in the median; \
         `make bench-timer`.\n"
    );
    if std::env::args().any(|arg| arg == "--write") {
        write(&table);
    }
    if slow {
        eprintln!("above {LIMIT} µs in the mean");
    }
    ExitCode::from(u8::from(slow))
}
