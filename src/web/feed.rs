//! One look at the daemon for all who watch: the status at most once a second, and only while
//! somebody is there; events as they come.
use super::client;
use crate::cli::paint::{Tone, tone};
use crate::state::Status;
use hyper::body::Bytes;
use serde_json::json;
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, broadcast};
use tokio::time::Instant;

/// A status is not asked for again within this.
pub const FRESH: Duration = Duration::from_millis(950);
/// How often a daemon that is gone is looked for.
const RETRY: Duration = Duration::from_secs(2);
/// How often the status is looked at when only programs listen.
const QUIET: Duration = Duration::from_secs(30);

/// What is told to all.
#[derive(Clone, Debug)]
pub struct Told {
    /// For programs.
    pub news: News,
    /// For browsers, as a server-sent event: one copy, however many look.
    pub line: Bytes,
}

/// Of what kind, and the text.
#[derive(Clone, Debug)]
pub enum News {
    /// The status, as JSON with a `tone`.
    Status(Arc<str>),
    /// An event, as the daemon's JSON.
    Event(Arc<str>),
    /// The daemon is gone: an error of the protocol.
    Gone(Arc<str>),
}

impl From<News> for Told {
    fn from(news: News) -> Self {
        let (kind, data) = match &news {
            News::Status(data) => ("status", data),
            News::Event(data) => ("event", data),
            News::Gone(data) => ("gone", data),
        };
        let line = format!("event: {kind}\ndata: {data}\n\n").into();
        Self { news, line }
    }
}

/// The status, or why there is none; both as JSON.
pub type Seen = Result<Arc<str>, Arc<str>>;

/// What all who watch share.
#[derive(Debug)]
pub struct Feed {
    places: Vec<PathBuf>,
    news: broadcast::Sender<Told>,
    viewers: Cell<usize>,
    programs: Cell<bool>,
    asking: Cell<bool>,
    told: Cell<u64>,
    come: Notify,
    last: Mutex<Option<(Instant, Seen)>>,
}

/// Somebody who looks; the daemon is left alone when the last has gone.
pub struct Viewer {
    feed: Rc<Feed>,
    /// What is told.
    pub news: broadcast::Receiver<Told>,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.feed.viewers.set(self.feed.viewers.get() - 1);
    }
}

/// A status as the daemon sends it, with the tone that a person sees from afar.
#[must_use]
pub fn toned(reply: &str) -> String {
    let tone = match serde_json::from_str::<Status>(reply).map(|status| tone(&status)) {
        Ok(Tone::Good) => "good",
        Ok(Tone::Bad) => "bad",
        _ => "doubtful",
    };
    match reply.trim_end().strip_suffix('}') {
        Some(open) => format!("{open},\"tone\":\"{tone}\"}}"),
        None => reply.to_owned(),
    }
}

impl Feed {
    /// Will look for the daemon at `places`, best first.
    #[must_use]
    pub fn new(places: Vec<PathBuf>) -> Self {
        Self {
            places,
            news: broadcast::channel(64).0,
            viewers: Cell::new(0),
            programs: Cell::new(false),
            asking: Cell::new(false),
            told: Cell::new(0),
            come: Notify::new(),
            last: Mutex::new(None),
        }
    }

    /// Where the daemon is looked for.
    #[must_use]
    pub fn places(&self) -> &[PathBuf] {
        &self.places
    }

    /// Somebody begins to look.
    #[must_use]
    pub fn look(self: &Rc<Self>) -> Viewer {
        self.viewers.set(self.viewers.get() + 1);
        self.come.notify_one();
        Viewer { feed: Rc::clone(self), news: self.news.subscribe() }
    }

    /// A program listens from now on: events at once, the status now and then.
    pub fn listen(&self) -> broadcast::Receiver<Told> {
        self.programs.set(true);
        self.come.notify_one();
        self.news.subscribe()
    }

    /// Something has happened: the status is looked at once more, soon.
    pub fn ask_soon(self: &Rc<Self>) {
        if !self.asking.replace(true) {
            let feed = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(FRESH).await;
                feed.asking.set(false);
                feed.come.notify_one();
            });
        }
    }

    /// The status, at most a second old; many who ask at once cost the daemon one question.
    pub async fn status(&self) -> Seen {
        let mut last = self.last.lock().await;
        if let Some((at, seen)) = &*last
            && at.elapsed() < FRESH
        {
            return seen.clone();
        }
        let seen = match client::ask(&self.places, &json!({"do": "status"})).await {
            Ok(reply) => Ok(Arc::from(toned(&reply))),
            Err(e) => Err(Arc::from(client::gone(&e))),
        };
        *last = Some((Instant::now(), seen.clone()));
        seen
    }

    fn tell(&self, news: News) {
        self.told.set(self.told.get() + u64::from(matches!(news, News::Event(_))));
        // Nobody may listen just now.
        let _ = self.news.send(news.into());
    }

    /// How many events there were: what was drawn before the last one is old.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told.get()
    }

    fn idle(&self) -> bool {
        self.viewers.get() == 0 && !self.programs.get()
    }

    async fn tell_status(&self) -> bool {
        let seen = self.status().await;
        let here = seen.is_ok();
        self.tell(match seen {
            Ok(status) => News::Status(status),
            Err(error) => News::Gone(error),
        });
        here
    }

    /// Looks at the daemon for as long as somebody is there; never ends.
    pub async fn watch(&self) {
        loop {
            while self.idle() {
                self.come.notified().await;
            }
            match client::follow(&self.places).await {
                Ok(lines) => self.while_here(lines).await,
                Err(e) => {
                    self.tell(News::Gone(client::gone(&e).into()));
                }
            }
            if !self.idle() {
                // A daemon that has just gone is said to be gone now, not at the next look.
                self.last.lock().await.take();
                let _ = tokio::time::timeout(RETRY, self.come.notified()).await;
            }
        }
    }

    async fn while_here(&self, mut lines: client::FromDaemon) {
        if !self.tell_status().await {
            return;
        }
        let mut next = Instant::now();
        loop {
            tokio::select! {
                line = lines.next_line() => {
                    let Ok(Some(line)) = line else {
                        let closed = std::io::Error::from(std::io::ErrorKind::NotFound);
                        self.tell(News::Gone(client::gone(&closed).into()));
                        return;
                    };
                    self.tell(News::Event(line.into()));
                }
                () = self.come.notified() => {
                    if !self.tell_status().await {
                        return;
                    }
                }
                () = tokio::time::sleep_until(next) => {
                    if self.idle() || !self.tell_status().await {
                        return;
                    }
                }
            }
            let pause = if self.viewers.get() > 0 { Duration::from_secs(1) } else { QUIET };
            // Events must not put the next look off.
            if next <= Instant::now() || next > Instant::now() + pause {
                next = Instant::now() + pause;
            }
        }
    }
}
