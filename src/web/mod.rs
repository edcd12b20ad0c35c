//! The second program: a page for people, metrics and MQTT for programs. It has no privilege and
//! no knowledge of its own; all comes over the control socket, and only while somebody looks.
//!
//! ```text
//!  daemon ◄─ control socket ─► daemon ─► feed ─┬─► http (page, /api/…, /metrics, events)
//!                              (client)  (one)  └─► mqtt
//! ```
pub mod client;
pub mod crowd;
pub mod feed;
pub mod history;
pub mod http;
pub mod metrics;
pub mod mqtt;
pub mod phone;

use crate::config::{self, Config};
use crate::os::signals::{self, Asked, Signals};
use crate::os::{control, heap, notify};
use clap::{CommandFactory, Parser};
use feed::Feed;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use tokio::net::TcpListener;

/// Shows the range's time: a page, metrics and MQTT, from what the daemon says.
#[derive(Debug, Parser)]
#[command(name = "leadville-timesync-web", version)]
struct Options {
    /// Configuration file [default: /etc/leadville/timesync.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask the daemon at this socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Serve the page here, whatever the configuration says [environment: LEADVILLE_WEB_LISTEN]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Offer to start the time with a phone's, as `phone_time` under [web]
    /// [environment: LEADVILLE_WEB_PHONE_TIME=yes]
    #[arg(long)]
    phone_time: bool,
}

/// The command line, for the manual.
#[must_use]
pub fn command() -> clap::Command {
    let mut command = Options::command();
    command.build();
    command
}

/// Runs until told to stop.
#[must_use]
pub fn main() -> ExitCode {
    let options = Options::parse();
    match prepare(options).and_then(|(config, socket, listen)| run(&config, socket, listen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("leadville-timesync-web: {sentence}");
            ExitCode::FAILURE
        }
    }
}

type Prepared = (Config, Option<PathBuf>, Option<SocketAddr>);

fn prepare(options: Options) -> Result<Prepared, String> {
    let default = PathBuf::from(config::DEFAULT_PATH);
    let file = options.config.or_else(|| default.exists().then_some(default));
    let mut config = match file {
        Some(file) => Config::load(&file).map_err(|e| e.to_string())?,
        None => Config::default(),
    };
    config.web.phone_time |= options.phone_time
        || std::env::var("LEADVILLE_WEB_PHONE_TIME").is_ok_and(|word| word == "yes");
    let named = match std::env::var("LEADVILLE_WEB_LISTEN") {
        Ok(text) if !text.is_empty() => {
            let wrong =
                |_| format!("LEADVILLE_WEB_LISTEN is \"{text}\", not an address and a port");
            Some(text.parse().map_err(wrong)?)
        }
        _ => None,
    };
    let listen = options.listen.or(named).or(config.web.enabled.then_some(config.web.listen));
    let custom = config.control.socket != Config::default().control.socket;
    let socket = options.socket.or_else(|| custom.then(|| config.control.socket.clone()));
    Ok((config, socket, listen))
}

fn run(config: &Config, socket: Option<PathBuf>, listen: Option<SocketAddr>) -> Result<(), String> {
    if listen.is_none() && !config.mqtt.enabled {
        println!(
            "nothing to do: neither [web] nor [mqtt] is enabled; \
             `leadville-timesync web enable` puts the page on"
        );
        return Ok(());
    }
    heap::be_frugal();
    signals::hold().map_err(|e| format!("signals cannot be held: {e}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("the runtime cannot start: {e}"))?;
    let feed = Rc::new(Feed::new(control::places(socket.as_deref())));
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        if let Some(listen) = listen {
            let listener = TcpListener::bind(listen)
                .await
                .map_err(|e| format!("the page cannot be served at {listen}: {e}"))?;
            // A port of 0 is chosen by the kernel; tests read it here.
            let at = listener.local_addr().map_err(|e| e.to_string())?;
            println!("the page is at http://{at}/");
            let desk = config.web.phone_time.then(phone::Desk::default);
            tokio::task::spawn_local(http::serve(listener, Rc::clone(&feed), desk));
        }
        if config.mqtt.enabled {
            mqtt::start(&config.mqtt, &feed)?;
        }
        notify::ready();
        let watching = Rc::clone(&feed);
        tokio::task::spawn_local(async move { watching.watch().await });
        let mut signals =
            Signals::listen().map_err(|e| format!("signals cannot be caught: {e}"))?;
        while signals.next().await != Asked::Stop {}
        notify::stopping();
        Ok(())
    })
}
