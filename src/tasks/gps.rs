//! The receiver beside us: its socket, and what it says on its way to the engine.
use crate::config;
use crate::engine::ServerId;
use crate::engine::packet::Why;
use crate::engine::refclock::Gatherer;
use crate::engine::source::ServerSpec;
use crate::os::gps::{self, Seconds};
use crate::state::RECEIVER;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use tracing::warn;

/// The receiver beside us.
pub(super) struct Gps {
    pub id: ServerId,
    /// None where it could not be opened: why, until that was said.
    socket: Option<Seconds>,
    pub trouble: Option<Why>,
    pub gatherer: Gatherer,
}

impl Gps {
    pub(super) fn open(
        config: &config::Gps,
        id: ServerId,
        before: Option<UnixDatagram>,
    ) -> Option<(Self, ServerSpec)> {
        if config.sock.as_os_str().is_empty() {
            return None;
        }
        let (socket, trouble) = match Seconds::open(&config.sock, before) {
            Ok(socket) => (Some(socket), None),
            Err(e) => {
                let at = config.sock.display();
                warn!(EVENT = "gps", "gpsd cannot reach us at {at}: {e}; restart us when it can");
                (None, Some(Why::Local(format!("{at}: {e}"))))
            }
        };
        let spec = ServerSpec {
            name: RECEIVER.into(),
            operator: RECEIVER.into(),
            trust: config.trust,
            passive: true,
            ..ServerSpec::default()
        };
        Some((Self { id, socket, trouble, gatherer: Gatherer::new(config.uncertainty) }, spec))
    }
}

/// The next datagram of gpsd; never, without a receiver.
pub(super) async fn heard(gps: Option<&Gps>) -> Vec<u8> {
    let Some(socket) = gps.and_then(|gps| gps.socket.as_ref()) else {
        return std::future::pending().await;
    };
    let mut buffer = [0; gps::ROOM];
    loop {
        match socket.next(&mut buffer).await {
            Ok(length) => return buffer[..length].to_vec(),
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}
