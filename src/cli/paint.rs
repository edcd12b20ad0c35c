//! Colour, where somebody looks.
use crate::state::{Quality, Status, SyncPhase};
use std::io::IsTerminal;

/// Puts colour on words, or leaves them plain.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well (green).
    Good,
    /// Somebody should look (yellow).
    Doubtful,
    /// Something must be done (red).
    Bad,
    /// Less important (dim).
    Quiet,
    /// A heading (bold).
    Heading,
}

impl Paint {
    /// No colour.
    pub const PLAIN: Self = Self(false);
    /// Colour, whoever reads.
    pub const BRIGHT: Self = Self(true);

    /// Colour if the output is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(std::io::stdout().is_terminal() && !refused)
    }

    /// `text` in the colour of `tone`.
    #[must_use]
    pub fn on(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Doubtful => "33",
            Tone::Bad => "31",
            Tone::Quiet => "2",
            Tone::Heading => "1",
        };
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// How a state looks from far away.
#[must_use]
pub fn tone(status: &Status) -> Tone {
    let by_quality = match status.quality {
        Quality::Excellent | Quality::Good => Tone::Good,
        Quality::Fair | Quality::Unknown => Tone::Doubtful,
        Quality::Poor | Quality::Critical => Tone::Bad,
    };
    match status.state {
        SyncPhase::Frozen => Tone::Bad,
        _ if status.alert.is_some() => Tone::Bad,
        SyncPhase::Synchronised if status.verified => by_quality,
        _ if by_quality == Tone::Good => Tone::Doubtful,
        _ => by_quality,
    }
}
