//! What is written down: to the journal with fields of its own, or as short lines on standard
//! error where there is no journal.
//!
//! Callers name the fields as the journal shows them:
//! `info!(MESSAGE_ID = message_id(Event::Step), EVENT = Event::Step.name(), OFFSET_US = …, "…")`.
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;

use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, Subscriber, error, span};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{Data, LookupSpan};
use tracing_subscriber::util::SubscriberInitExt;

macro_rules! events {
    ($($(#[$doc:meta])+ $event:ident = ($name:literal, $id:literal),)+) => {
        /// Kinds of event, each with an identity that never changes (`journalctl MESSAGE_ID=…`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Event { $($(#[$doc])+ $event,)+ }

        impl Event {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$event,)+];

            /// The word for it, as in the journal's field `EVENT`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$event => $name,)+ }
            }
        }

        /// The 128 bits by which the journal knows this kind, as 32 hexadecimal digits.
        #[must_use]
        pub const fn message_id(event: Event) -> &'static str {
            match event { $(Event::$event => $id,)+ }
        }
    };
}

events! {
    /// The daemon started.
    Started = ("started", "f9b85098170b4a21ac047d92e0d47d4f"),
    /// The daemon stopped.
    Stopped = ("stopped", "16499f31f5634244bfd871e81ade966d"),
    /// The state changed: synchronised, holdover, unsynchronised.
    State = ("state", "79df7f7e3837441e863f836f538a3a01"),
    /// The clock may be more than the alert limit wrong.
    Alert = ("alert", "6a8d2a7d57db4c79b0ae60500e7bd423"),
    /// The clock is within the alert limit again.
    AlertCleared = ("alert_cleared", "eb75263f69444aceb5be9cf6feafd959"),
    /// The clock was stepped by us.
    Step = ("step", "718a46b5eb984987b3b027bab6bc145b"),
    /// Somebody else set the clock.
    ForeignStep = ("foreign_step", "1308c6ba6aac4d2dacf233ceadecc884"),
    /// Somebody else steers the clock.
    ForeignSteering = ("foreign_steering", "4a12cb6007f94d308a205021f71d501c"),
    /// Steering is frozen: the sources are absurd or disagree.
    Frozen = ("frozen", "9aa318f31bd743a6bf1cc682dfd3b2cd"),
    /// Steering goes on after it was frozen.
    Thawed = ("thawed", "aa105947c9ea44a79a2e9a9b16c6344e"),
    /// A lock forbids steps and slews.
    Lock = ("lock", "c1e098298f10469daf1213d144dac2d9"),
    /// A lock was given back or ran out.
    Unlock = ("unlock", "b51659da05de43508b5d2dbbdfb54854"),
    /// A server is not used any more, for a reason.
    SourceLeftOut = ("source_left_out", "87d5163a15044df49d027d45a01651b3"),
    /// A server is used again.
    SourceUsed = ("source_used", "e692cb51b562470fa1fbeab2e27bc79d"),
    /// A server's replies are refused, for a reason.
    SourceRejected = ("source_rejected", "86b8a05780a3491aaa54492917c810fa"),
    /// The time was restored from the clock file.
    Restored = ("restored", "83f16a68f4f347d986d962996ce11bb6"),
    /// The clock is only watched.
    MonitorOnly = ("monitor_only", "ed6c300e4776480c9ab380990478b864"),
    /// A state file is damaged or cannot be written.
    StateFile = ("state_file", "ae46940100c84a3b8de020a6201764fe"),
    /// The configuration was read again.
    Reloaded = ("reloaded", "52431bf35e6b4c6f99902a5fdde9f0ad"),
    /// The configuration is wrong; the old one stays.
    BadConfig = ("bad_config", "a0836fbf80874b03a32707f99c813477"),
    /// The control socket is not there, or somebody changed something over it.
    Control = ("control", "cbff08b5d7b84a5785673eebd835b8e5"),
    /// The shot timer was connected or lost.
    TimerLink = ("timer_link", "63d1c4e09b044df89c0d1094dc4e7cd1"),
    /// A string began or ended on the shot timer.
    TimerString = ("timer_string", "50298ae1de7b48f3820f67fca22bcc34"),
    /// The program ended by a defect of its own.
    Panic = ("panic", "b58166f78f8142759d825be7f973f384"),
}

/// Writes everything of ours up to `level` from now on, warnings of the libraries beneath, and a
/// panic with its place. The journal is used when standard error goes there, as under systemd.
/// Does nothing when called again.
pub fn init(level: Level) {
    let journal = on_the_journal().then(|| tracing_journald::layer().ok()).flatten();
    let lines = journal.is_none().then_some(Lines);
    let journal = journal.map(|j| {
        j.with_field_prefix(None).with_priority_mappings(PriorityMappings {
            info: Priority::Informational,
            debug: Priority::Debug,
            ..PriorityMappings::new()
        })
    });
    let all = Flat.with(Threshold { level }).with(journal).with(lines);
    if all.try_init().is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            error!(
                MESSAGE_ID = message_id(Event::Panic),
                EVENT = Event::Panic.name(),
                "a defect of this program: {panic}"
            );
        }));
    }
}

/// Events go straight to the layers: this program has no spans, and a registry of them would cost
/// 40 kB.
struct Flat;

impl Subscriber for Flat {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

impl<'a> LookupSpan<'a> for Flat {
    type Data = Data<'a>;
    fn span_data(&'a self, _: &span::Id) -> Option<Data<'a>> {
        None
    }
}

/// Whether standard error is the stream that systemd connected to the journal.
fn on_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}

/// What is written at all.
struct Threshold {
    level: Level,
}

impl<S: Subscriber> Layer<S> for Threshold {
    fn enabled(&self, about: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let ours = about.target().starts_with(env!("CARGO_CRATE_NAME"));
        *about.level() <= if ours { self.level } else { self.level.min(Level::WARN) }
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }
}

/// One short line per event on standard error.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        // A terminal that went away must not stop the clock.
        let _ = io::stderr().write_all(line.finish(*event.metadata().level()).as_bytes());
    }
}

/// A line in the making.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn finish(self, level: Level) -> String {
        let word = match level {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        format!("{word}{}{}\n", self.message, self.fields)
    }

    fn put(&mut self, field: &Field, value: &str) {
        // What came over the network must not move the cursor or forge a second line.
        let safe = value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
        match field.name() {
            "message" => self.message.extend(safe),
            "MESSAGE_ID" | "EVENT" => {}
            name => {
                let _ = write!(self.fields, " {}=", name.to_ascii_lowercase());
                self.fields.extend(safe);
            }
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::{Arc, Mutex};

    #[test]
    fn every_kind_of_event_has_an_identity_and_a_word_of_its_own() {
        let ids: HashSet<_> = Event::ALL.iter().map(|e| message_id(*e)).collect();
        let names: HashSet<_> = Event::ALL.iter().map(|e| e.name()).collect();
        assert_eq!((ids.len(), names.len()), (Event::ALL.len(), Event::ALL.len()));
        assert!(ids.iter().all(|id| id.len() == 32 && u128::from_str_radix(id, 16).is_ok()));
    }

    /// The lines `what` writes at `level`.
    fn written(level: Level, what: fn()) -> String {
        struct Kept(Arc<Mutex<String>>);
        impl<S: Subscriber> Layer<S> for Kept {
            fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
                let mut line = Line::default();
                event.record(&mut line);
                *self.0.lock().unwrap() += &line.finish(*event.metadata().level());
            }
        }
        let text = Arc::new(Mutex::new(String::new()));
        let kept = Kept(Arc::clone(&text));
        let all = Flat.with(Threshold { level }).with(kept);
        tracing::subscriber::with_default(all, what);
        text.lock().unwrap().clone()
    }

    #[test]
    fn a_line_shows_message_and_fields_and_not_what_only_the_journal_needs() {
        let text = written(Level::INFO, || {
            tracing::warn!(
                MESSAGE_ID = message_id(Event::Step),
                EVENT = Event::Step.name(),
                OFFSET_US = -12.5,
                "clock stepped"
            );
            tracing::debug!("not shown");
        });
        assert_eq!(text, "warning: clock stepped offset_us=-12.5\n");
    }

    #[test]
    fn what_came_over_the_network_cannot_forge_a_line() {
        let text = written(Level::INFO, || {
            tracing::info!(SOURCE = "a\nerror: b\u{1b}[2J", "hello\r");
        });
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
    }

    #[test]
    fn libraries_beneath_only_warn() {
        let text = written(Level::DEBUG, || {
            tracing::info!(target: "zbus", "chatter");
            tracing::warn!(target: "zbus", "trouble");
            tracing::debug!("ours");
        });
        assert_eq!(text, "warning: trouble\nours\n");
    }

    #[test]
    #[ignore = "run by the next test, which reads its standard error"]
    fn ends_by_a_defect() {
        init(Level::INFO);
        init(Level::TRACE);
        tracing::info!(OFFSET_US = 5, "before");
        panic!("two plus\ntwo is five");
    }

    #[test]
    fn a_panic_is_written_down_as_one_line_with_its_place() {
        let done = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "os::journal::tests::ends_by_a_defect", "--ignored", "--nocapture"])
            .env_remove("JOURNAL_STREAM")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.contains("before offset_us=5\n"), "{said}");
        let line = said.lines().find(|l| l.starts_with("error: a defect")).expect(&said);
        assert!(line.contains("journal.rs:") && line.contains("two is five"), "{said}");
    }
}
