//! What a command tells: results on stdout, failures on stderr.
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// The exit code of a command that did its work, or why it could not.
pub type Done = Result<u8, Failure>;

/// Why a command could not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    sentence: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure in words; exit code 1.
    #[must_use]
    pub fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), hint: None, code: 1 }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure, after what it put an end to.
    #[must_use]
    pub fn after(mut self, what: &str) -> Self {
        self.sentence = format!("{what}: {}", self.sentence);
        self
    }

    /// A failure of the command line itself; exit code 2.
    #[must_use]
    pub fn usage(mut self) -> Self {
        self.code = 2;
        self
    }

    /// Tells it and gives the exit code.
    #[must_use]
    pub fn exit(self) -> ExitCode {
        if !self.sentence.is_empty() {
            let _ = writeln!(io::stderr(), "leadville-timesync: {self}");
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n  {hint}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// Writes to stdout. Nobody reading any more (`| head`) ends the command quietly.
///
/// # Errors
/// When it cannot be written.
pub fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
            Err(Failure { sentence: String::new(), hint: None, code: 0 })
        }
        Err(e) => Err(Failure::new(format!("the output cannot be written: {e}"))),
    }
}

/// Writes a line to stdout.
///
/// # Errors
/// As [`say`].
pub fn say_line(text: &str) -> Result<(), Failure> {
    say(&format!("{text}\n"))
}
