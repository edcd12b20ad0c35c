//! Serving time to the range, in a thread of its own: a flood of requests may take a processor's
//! idle time, but neither our own exchanges nor the arrivals of shots wait behind it.
use crate::config::{Network, Serve};
use crate::engine::packet::LEN;
use crate::engine::serve::{Limiter, Service};
use crate::os::clock;
use crate::os::serve::{self as os, Arrival, ROOM, ServerSocket};
use crate::state::ServeStatus;
use crate::units::Reading;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::{info, warn};

/// Datagrams taken at one go; then others may have the processor.
const BATCH: u32 = 64;
const PAUSE: Duration = Duration::from_millis(1);

/// What is served, and what became of the requests.
#[derive(Debug, Default)]
struct Counter {
    current: Mutex<Option<Service>>,
    answered: AtomicU64,
    malformed: AtomicU64,
    strangers: AtomicU64,
    too_often: AtomicU64,
    no_time: AtomicU64,
}

/// The daemon's end: it says what is served.
#[derive(Debug)]
pub struct Server {
    counter: Arc<Counter>,
    listens: Vec<String>,
}

impl Server {
    /// Listens, if it is wanted and can be done, on what systemd gave or on a socket of its own;
    /// says in the journal what came of it.
    #[must_use]
    pub fn start(config: &Serve, given: Vec<ServerSocket>) -> Option<Self> {
        let mut sockets = given;
        if !config.enabled {
            if !sockets.is_empty() {
                warn!(EVENT = "serve", "systemd listens for us, but [serve] says enabled = false");
            }
            return None;
        }
        if sockets.is_empty() {
            match ServerSocket::bind(config.listen) {
                Ok(socket) => sockets.push(socket),
                Err(e) => {
                    let hint = if e.kind() == io::ErrorKind::PermissionDenied {
                        "; systemd opens it for us: systemctl enable leadville-timesync.socket && systemctl restart leadville-timesync"
                    } else {
                        ""
                    };
                    warn!(EVENT = "serve", "no time is served on {}: {e}{hint}", config.listen);
                    return None;
                }
            }
        }
        let counter = Arc::new(Counter::default());
        let mut listens = Vec::new();
        for socket in sockets {
            let place = socket.address().map_or_else(|e| e.to_string(), |a| a.to_string());
            let secret = getrandom::u64().unwrap_or_else(|_| clock::raw_now().as_nanos() as u64);
            let desk = Desk {
                socket,
                counter: Arc::clone(&counter),
                allow: config.allow.clone(),
                limiter: Limiter::new(config.per_minute, secret),
            };
            let name = std::thread::Builder::new().name("serve".into());
            match name.stack_size(128 << 10).spawn(move || desk.run()) {
                Ok(_) => listens.push(place),
                Err(e) => warn!(EVENT = "serve", "no time is served on {place}: {e}"),
            }
        }
        if listens.is_empty() {
            return None;
        }
        info!(EVENT = "serve", "time is served on {}", listens.join(", "));
        Some(Self { counter, listens })
    }

    /// What is served from now on; `None`: silence.
    pub fn publish(&self, service: Option<Service>) {
        *self.counter.current.lock().unwrap_or_else(PoisonError::into_inner) = service;
    }

    /// For `status`.
    #[must_use]
    pub fn status(&self) -> ServeStatus {
        let c = &self.counter;
        let now = *c.current.lock().unwrap_or_else(PoisonError::into_inner);
        ServeStatus {
            listen: self.listens.clone(),
            stratum: now.map(|s| s.stratum),
            answered: c.answered.load(Relaxed),
            malformed: c.malformed.load(Relaxed),
            strangers: c.strangers.load(Relaxed),
            too_often: c.too_often.load(Relaxed),
            no_time: c.no_time.load(Relaxed),
        }
    }
}

/// A thread's own.
struct Desk {
    socket: ServerSocket,
    counter: Arc<Counter>,
    allow: Vec<Network>,
    limiter: Limiter,
}

impl Desk {
    fn run(mut self) {
        os::give_way();
        let mut buffer = [0; ROOM];
        loop {
            let mut next = self.socket.receive(&mut buffer, true);
            let service = *self.counter.current.lock().unwrap_or_else(PoisonError::into_inner);
            let now = clock::read();
            for n in 1..=BATCH {
                match next {
                    Ok(arrival) => self.answer(service.as_ref(), now, &arrival, &buffer),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    // An unreachable client's echo, or the network is down: no reason to stop.
                    Err(_) if n > 1 => break,
                    Err(_) => std::thread::sleep(PAUSE * 10),
                }
                if n == BATCH {
                    std::thread::sleep(PAUSE);
                    break;
                }
                next = self.socket.receive(&mut buffer, false);
            }
        }
    }

    fn answer(
        &mut self,
        service: Option<&Service>,
        now: Reading,
        arrival: &Arrival,
        buffer: &[u8; ROOM],
    ) {
        let count = |what: &AtomicU64| {
            what.fetch_add(1, Relaxed);
        };
        let counter = Arc::clone(&self.counter);
        if arrival.bytes != LEN
            || !arrival.to_us_alone()
            || !crate::engine::serve::is_request(&buffer[..LEN])
        {
            return count(&counter.malformed);
        }
        let who = os::who(arrival.from);
        if arrival.from.port() == 0 || !self.allow.iter().any(|network| network.contains(who)) {
            return count(&counter.strangers);
        }
        let Some(service) = service else { return count(&counter.no_time) };
        if !self.limiter.allows(who, now.raw) {
            return count(&counter.too_often);
        }
        let received = arrival.stamp.and_then(|stamp| now.raw_at(stamp));
        let received = received.unwrap_or_else(clock::raw_now);
        let answer = service.answer(&buffer[..LEN], received, clock::raw_now());
        if answer.is_some_and(|bytes| self.socket.reply(arrival, &bytes).is_ok()) {
            count(&counter.answered);
        }
    }
}
