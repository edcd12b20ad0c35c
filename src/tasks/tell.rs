//! One line in the journal and one event for subscribers per change of state, not per retry.
use super::silence::{Line, Silence};
use crate::cli::words;
use crate::engine::discipline::Refusal;
use crate::engine::packet::Rejected;
use crate::engine::source::{Source, Standing};
use crate::engine::{Engine, Event, Phase, ServerId};
use crate::os::journal::{self, message_id};
use crate::state::{Quality, Shared};
use crate::units::{Nanos, RawTime, Reading};
use serde_json::{Value, json};
use std::collections::HashMap;
use tracing::{debug, info, warn};

/// The same complaint about the same server is repeated after so long.
const QUIET: Nanos = Nanos::from_secs(600);

/// What was said when, so that it is not said again at once.
#[derive(Debug, Default)]
pub struct Teller {
    said: HashMap<(ServerId, usize), RawTime>,
    silence: Silence,
    phase: Phase,
    /// The alert threshold, for sentences.
    pub threshold: Nanos,
}

impl Phase {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Restored => "restored",
            Self::Unsynchronised => "unsynchronised",
            Self::Synchronised => "synchronised",
            Self::Holdover => "holdover",
            Self::Frozen => "frozen",
        }
    }
}

/// A span in milliseconds, for sentences.
#[must_use]
pub fn ms(span: Nanos) -> String {
    let ms = span.as_millis_f64();
    if ms.abs() < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}

/// Since when, within what, until when: holdover in words.
fn holding_over(now: Reading, engine: &Engine, threshold: Nanos) -> String {
    let view = engine.view(now);
    let since = view.last_used.map(|t| now.utc - (now.raw - t));
    let since = since.map_or_else(String::new, |t| format!(" since {}", words::clock(&t.iso(0))));
    let Some((offset, e)) = view.offset.zip(view.estimate) else {
        return format!("no usable answer{since}; how far off is unknown");
    };
    let within = words::at_most((offset.abs() + e.bound).as_micros_f64());
    let limit = words::at_most(threshold.as_micros_f64());
    let until = match engine.keeps_within(now, threshold) {
        Some(span) => {
            format!("within {limit} for another {}", words::span(span.as_secs_f64()))
        }
        None => format!("no longer within {limit}"),
    };
    format!(
        "no usable answer{since}; holding over on the learned frequency, within {within}, {until}"
    )
}

impl Teller {
    /// For an alert threshold.
    #[must_use]
    pub fn new(threshold: Nanos) -> Self {
        Self { threshold, ..Self::default() }
    }

    /// Says what happened.
    pub fn tell(&mut self, now: Reading, engine: &Engine, event: &Event, shared: &Shared) {
        let name = |id: ServerId| {
            engine.sources().get(id).map_or_else(String::new, |s| s.spec.name.clone())
        };
        let due = self.silence.due(
            now.raw,
            |t| engine.sources().iter().any(|s| s.latest().is_some_and(|l| l.received > t)),
            |id| engine.sources().get(id).is_some_and(|s| s.silent() > 0 && !s.retired),
        );
        self.of_silence(now.raw, engine, due);
        let mut out = match event {
            Event::Sync { server, offset, bound, frequency } => {
                let quality = Quality::of(offset.abs() + *bound);
                let source = name(*server);
                debug!(
                    EVENT = "sync",
                    OFFSET_US = offset.as_micros_f64(),
                    ERROR_BOUND_US = bound.as_micros_f64(),
                    FREQUENCY_PPM = frequency.get(),
                    QUALITY = quality.name(),
                    SOURCE = source.as_str(),
                    "measured {} from {source}, within {}",
                    ms(*offset),
                    ms(*bound)
                );
                // The commonest of all, and nothing that the record keeps.
                if !shared.is_listened_to() {
                    return;
                }
                json!({"event": "sync", "source": source, "offset_us": offset.as_micros_f64(),
                       "error_bound_us": bound.as_micros_f64(), "frequency_ppm": frequency.get(),
                       "quality": quality})
            }
            Event::Phase(phase, why) => self.phase(now, engine, *phase, why.as_deref()),
            Event::Stepped(by, why) => {
                warn!(
                    MESSAGE_ID = message_id(journal::Event::Step),
                    EVENT = "step",
                    OFFSET_US = by.as_micros_f64(),
                    "clock stepped by {by}: {why}"
                );
                json!({"event": "step", "offset_us": by.as_micros_f64(), "why": why})
            }
            Event::ForeignStep(by) => {
                warn!(
                    MESSAGE_ID = message_id(journal::Event::ForeignStep),
                    EVENT = "foreign_step",
                    OFFSET_US = by.as_micros_f64(),
                    "somebody else set the clock by {by}; asking the servers"
                );
                json!({"event": "foreign_step", "offset_us": by.as_micros_f64()})
            }
            Event::ByHand { how, offset, bound } => {
                warn!(
                    MESSAGE_ID = message_id(journal::Event::State),
                    EVENT = "set_time",
                    OFFSET_US = offset.as_micros_f64(),
                    ERROR_BOUND_US = bound.as_micros_f64(),
                    SOURCE = how.name(),
                    "the time is {}, within {}, until a server says better",
                    how.words(),
                    crate::cli::words::at_most(bound.as_micros_f64())
                );
                json!({"event": "set_time", "how": how.name(), "offset_us": offset.as_micros_f64(),
                       "error_bound_us": bound.as_micros_f64()})
            }
            Event::Dropped(id, why) => return self.dropped(now, *id, *why, &name(*id)),
            // A receiver of our own has nothing to do with the network.
            Event::Silent(id, why) if engine.sources()[*id].spec.passive => {
                let source = name(*id);
                let sentence = format!("{source} is silent: {why}");
                self.left_out(now, (*id, Rejected::COUNT), &source, None, &sentence);
                json!({"event": "source_silent", "source": source, "why": why.to_string()})
            }
            Event::Heard(id) if engine.sources()[*id].spec.passive => {
                let source = name(*id);
                let sentence = format!("{source} is heard again");
                self.used(now, (*id, Rejected::COUNT + 1), &source, &sentence);
                json!({"event": "source_heard", "source": source})
            }
            Event::Silent(id, why) => {
                let line = self.silence.fell(now.raw, *id, why.to_string(), all_silent(engine));
                self.of_silence(now.raw, engine, line);
                json!({"event": "source_silent", "source": name(*id), "why": why.to_string()})
            }
            Event::Heard(id) => {
                let line = self.silence.heard(now.raw, *id);
                self.of_silence(now.raw, engine, line);
                json!({"event": "source_heard", "source": name(*id)})
            }
            Event::Outvoted(id, by) => {
                let source = name(*id);
                let sentence = format!("{source} is left out: {by} away from the majority");
                self.left_out(now, (*id, Rejected::COUNT + 2), &source, Some(*by), &sentence);
                json!({"event": "source_outvoted", "source": source, "offset_us": by.as_micros_f64()})
            }
            Event::Agrees(id) => {
                let source = name(*id);
                let sentence = format!("{source} agrees with the majority again");
                self.used(now, (*id, Rejected::COUNT + 3), &source, &sentence);
                json!({"event": "source_agrees", "source": source})
            }
            Event::Refused(refusal) => {
                warn!(
                    MESSAGE_ID = message_id(journal::Event::Frozen),
                    EVENT = "refused",
                    "{refusal}"
                );
                let foreign = matches!(refusal, Refusal::Foreign);
                json!({"event": "refused", "why": refusal.to_string(), "foreign": foreign})
            }
            Event::Lock(who, true) => {
                info!(
                    MESSAGE_ID = message_id(journal::Event::Lock),
                    EVENT = "lock",
                    "the clock is held still for {who}"
                );
                json!({"event": "lock", "name": who})
            }
            Event::Lock(who, false) => {
                info!(
                    MESSAGE_ID = message_id(journal::Event::Unlock),
                    EVENT = "unlock",
                    "the clock is free again: {who} has ended"
                );
                json!({"event": "unlock", "name": who})
            }
            Event::DateOverridden => {
                warn!(
                    MESSAGE_ID = message_id(journal::Event::State),
                    EVENT = "date_overridden",
                    "three operators agree for ten minutes on a date outside this program's life; \
                     believing them: install a newer version"
                );
                json!({"event": "date_overridden"})
            }
            Event::Slept(span) => {
                info!(EVENT = "slept", "the machine slept for {span}; measuring anew");
                json!({"event": "slept", "span_s": span.as_secs_f64()})
            }
        };
        stamp(&mut out, now);
        shared.tell(out);
    }

    fn of_silence(&mut self, now: RawTime, engine: &Engine, lines: impl IntoIterator<Item = Line>) {
        let name = |id: ServerId| {
            engine.sources().get(id).map_or_else(String::new, |s| s.spec.name.clone())
        };
        for line in lines {
            let (id, source, sentence, again) = match line {
                Line::One(id, why) => {
                    let source = name(id);
                    let sentence = format!("{source} does not answer: {why}");
                    (id, source, sentence, false)
                }
                Line::All(why) => {
                    let asked = engine.sources().iter().filter(|s| !s.retired && !s.spec.passive);
                    let names: Vec<_> = asked.map(|s| s.spec.name.as_str()).collect();
                    let sentence = match names.as_slice() {
                        [only] => format!("{only} does not answer: {why}"),
                        all => format!("none of the {} servers answers: {why}", all.len()),
                    };
                    (ServerId::MAX, names.join(" "), sentence, false)
                }
                Line::Again(id) => {
                    let source = name(id);
                    let sentence = format!("{source} answers again");
                    (id, source, sentence, true)
                }
            };
            let (kind, event) = if again {
                (journal::Event::SourceUsed, "source_used")
            } else {
                (journal::Event::SourceLeftOut, "source_left_out")
            };
            self.say(now, id, Rejected::COUNT + usize::from(again), || {
                info!(
                    MESSAGE_ID = message_id(kind),
                    EVENT = event,
                    SOURCE = source.as_str(),
                    "{sentence}"
                );
            });
        }
    }

    fn phase(&mut self, now: Reading, engine: &Engine, phase: Phase, why: Option<&str>) -> Value {
        let view = engine.view(now);
        let (offset, bound) = (view.offset, view.estimate.map(|e| e.bound));
        let quality = offset.zip(bound).map_or(Quality::Unknown, |(o, b)| Quality::of(o.abs() + b));
        let id = match (phase, self.phase) {
            (Phase::Frozen, _) => journal::Event::Frozen,
            (Phase::Synchronised, Phase::Frozen) => journal::Event::Thawed,
            _ => journal::Event::State,
        };
        let sentence = match phase {
            Phase::Synchronised if view.verified => "synchronised with agreeing servers".to_owned(),
            Phase::Synchronised => "synchronised, unverified: one source only".to_owned(),
            Phase::Holdover if view.by_hand.is_some() => "no server is heard".to_owned(),
            Phase::Holdover => holding_over(now, engine, self.threshold),
            Phase::Frozen => "steering is frozen".to_owned(),
            Phase::Unsynchronised => "not synchronised".to_owned(),
            Phase::Starting => "measuring anew".to_owned(),
            Phase::Restored => {
                "the saved time is set; behind by however long the power was off".into()
            }
        };
        let sentence = why.map_or_else(|| sentence.clone(), |why| format!("{sentence}: {why}"));
        self.phase = phase;
        // Unknown figures are left out rather than shown as zero.
        match (offset, bound) {
            (Some(offset), Some(bound)) => info!(
                MESSAGE_ID = message_id(id),
                EVENT = "state",
                STATE = phase.name(),
                OFFSET_US = offset.as_micros_f64(),
                ERROR_BOUND_US = bound.as_micros_f64(),
                FREQUENCY_PPM = view.frequency.get(),
                QUALITY = quality.name(),
                SOURCE = used(engine).as_str(),
                "{sentence}"
            ),
            _ => info!(
                MESSAGE_ID = message_id(id),
                EVENT = "state",
                STATE = phase.name(),
                QUALITY = quality.name(),
                "{sentence}"
            ),
        }
        json!({"event": "state", "state": phase.name(), "why": why, "verified": view.verified,
               "message": sentence})
    }

    fn dropped(&mut self, now: Reading, id: ServerId, why: Rejected, source: &str) {
        self.say(now.raw, id, why.index(), || {
            warn!(
                MESSAGE_ID = message_id(journal::Event::SourceRejected),
                EVENT = "source_rejected",
                SOURCE = source,
                "a reply of {source} is not used: {why}"
            );
        });
    }

    fn left_out(
        &mut self,
        now: Reading,
        (id, what): (ServerId, usize),
        source: &str,
        by: Option<Nanos>,
        line: &str,
    ) {
        self.say(now.raw, id, what, || {
            warn!(
                MESSAGE_ID = message_id(journal::Event::SourceLeftOut),
                EVENT = "source_left_out",
                SOURCE = source,
                OFFSET_US = by.map(Nanos::as_micros_f64),
                "{line}"
            );
        });
    }

    fn used(&mut self, now: Reading, (id, what): (ServerId, usize), source: &str, line: &str) {
        self.say(now.raw, id, what, || {
            info!(
                MESSAGE_ID = message_id(journal::Event::SourceUsed),
                EVENT = "source_used",
                SOURCE = source,
                "{line}"
            );
        });
    }

    fn say(&mut self, now: RawTime, id: ServerId, what: usize, line: impl FnOnce()) {
        let last = self.said.get(&(id, what));
        if last.is_none_or(|t| now - *t >= QUIET) {
            self.said.insert((id, what), now);
            line();
        }
    }
}

/// Nobody who is asked answers, nor a receiver beside them.
fn all_silent(engine: &Engine) -> bool {
    let selected = |s: &Source| matches!(s.standing, Standing::Selected);
    engine
        .sources()
        .iter()
        .filter(|s| !s.retired)
        .all(|s| if s.spec.passive { !selected(s) } else { s.silent() >= 3 })
}

fn used(engine: &Engine) -> String {
    let selected =
        engine.sources().iter().filter(|s| matches!(s.standing, Standing::Selected) && !s.retired);
    selected.map(|s| s.spec.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// Adds when it happened.
pub fn stamp(event: &mut Value, now: Reading) {
    if let Some(object) = event.as_object_mut() {
        object.insert("utc".into(), now.utc.iso(6).into());
        object.insert("raw_ns".into(), now.raw.as_nanos().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_server_and_reason_in_ten_minutes_however_often_it_happens() {
        let mut teller = Teller::new(Nanos::from_millis(20));
        let mut lines = [0; 3];
        for second in 0..1_800 {
            let now = RawTime::from_nanos(second * 1_000_000_000);
            for (line, (id, why)) in lines.iter_mut().zip([(0, 1), (0, 2), (1, 1)]) {
                teller.say(now, id, why, || *line += 1);
            }
        }
        assert_eq!(lines, [3, 3, 3]);
    }
}
