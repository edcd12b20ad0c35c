//! The daemon as this program sees it: questions and answers over the control socket, and the
//! line of events. Everything has an end in time.
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The daemon answers within this, or is taken for gone.
const PATIENCE: Duration = Duration::from_secs(4);

/// Lines from the daemon.
pub type FromDaemon = Lines<BufReader<UnixStream>>;

/// Why there is no answer, as the protocol says it.
#[must_use]
pub fn gone(error: &io::Error) -> String {
    let (sentence, hint) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            "this page may not talk to the daemon".to_owned(),
            "its user must be in the group leadville",
        ),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ("the time daemon is not running".to_owned(), "sudo systemctl start leadville-timesync")
        }
        _ => (
            format!("the time daemon does not answer: {error}"),
            "journalctl -u leadville-timesync",
        ),
    };
    json!({"v": crate::state::PROTOCOL, "reply": "error", "error": sentence, "hint": hint})
        .to_string()
}

async fn connect(places: &[PathBuf]) -> io::Result<UnixStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for place in places {
        match UnixStream::connect(place).await {
            Ok(stream) => return Ok(stream),
            // That it may not be opened says more than that another place is empty.
            Err(e) if last.kind() != io::ErrorKind::PermissionDenied => last = e,
            Err(_) => {}
        }
    }
    Err(last)
}

async fn asked(places: &[PathBuf], request: &Value) -> io::Result<(String, FromDaemon)> {
    let mut stream = connect(places).await?;
    stream.write_all(format!("{request}\n").as_bytes()).await?;
    let mut lines = BufReader::with_capacity(4_096, stream).lines();
    match lines.next_line().await? {
        Some(line) => Ok((line, lines)),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
    }
}

fn late<T>(_: T) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in 4 s")
}

/// Asks one question.
///
/// # Errors
/// What stood in the way; [`gone`] puts it in words.
pub async fn ask(places: &[PathBuf], request: &Value) -> io::Result<String> {
    timeout(PATIENCE, asked(places, request)).await.map_err(late)?.map(|(line, _)| line)
}

/// Subscribes to what happens from now on.
///
/// # Errors
/// As [`ask`].
pub async fn follow(places: &[PathBuf]) -> io::Result<FromDaemon> {
    let request = json!({"do": "subscribe"});
    timeout(PATIENCE, asked(places, &request)).await.map_err(late)?.map(|(_, lines)| lines)
}
