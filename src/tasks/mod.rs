//! The three loops of the daemon, and what joins them: start, signals, stop.
pub mod bridge;
pub mod control;
mod exchanges;
mod gps;
pub mod memory;
pub mod monitor;
pub mod resync;
pub mod serve;
pub mod servers;
pub mod silence;
pub mod tell;
pub mod world;

use crate::config::{Config, Level};
use crate::drift::AlertLimits;
use crate::os::control::{self as socket, Listener};
use crate::os::journal::{self, message_id};
use crate::os::signals::{self, Asked, Signals};
use crate::os::{clock, heap, notify};
use crate::sim;
use crate::state::{Request, Shared};
use crate::units::Nanos;
pub use bridge::desk::TimerDesk;
use memory::Memory;
use resync::Resync;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tracing::{error, info, warn};
use world::World;

/// How the daemon was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The file that the configuration is from, to be read again at SIGHUP; `None`: the defaults.
    pub file: Option<PathBuf>,
    /// `--socket`, which goes before the configuration's.
    pub socket: Option<PathBuf>,
    /// Run in the simulated world; the kernel clock is not touched.
    pub simulate: Option<Simulate>,
}

/// Which simulated world, and how it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simulate {
    /// The same seed gives the same world.
    pub seed: u64,
    /// Servers die and lie, somebody sets the clock, the timer's link drops.
    pub faults: bool,
    /// Log lines instead of a live view.
    pub plain: bool,
}

fn alert_limits(config: &Config) -> AlertLimits {
    AlertLimits {
        threshold: config.alert.drift_threshold,
        clear_below: config.alert.clear_below,
        severe: config.alert.severe,
    }
}

fn level(config: &Config, quiet: bool) -> tracing::Level {
    if quiet {
        return tracing::Level::ERROR;
    }
    match config.log.level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
        Level::Trace => tracing::Level::TRACE,
    }
}

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn run(config: Config, options: Options) -> ExitCode {
    let live = options.simulate.is_some_and(|s| !s.plain)
        && std::io::IsTerminal::is_terminal(&std::io::stdout());
    heap::be_frugal();
    journal::init(level(&config, live));
    // Before the program takes descriptors of its own.
    let given = crate::os::given::Given::take();
    let runtime = signals::hold().and_then(|()| {
        let mut plan = tokio::runtime::Builder::new_current_thread();
        // Room for a thousand events at once would be 12 kB.
        // Its tasks never leave this thread, and may hold what cannot.
        plan.enable_all().max_io_events_per_tick(64).build_local(LocalOptions::default())
    });
    // After the signals are held: its threads must not catch them.
    let server = serve::Server::start(&config.serve, given.servers);
    let seconds = given.seconds;
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            error!("the runtime cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(daemon(config, options, live, server, seconds));
    // Lookups that hang in the resolver must not hold up a stop.
    runtime.shutdown_background();
    code
}

fn prepare(mut config: Config, options: &Options) -> (Config, World, Option<String>) {
    match options.simulate {
        None => {
            let (world, why) = World::real(&config);
            (config, world, why)
        }
        Some(simulate) => {
            // A newcomer should see something happen: four servers, one of them lying.
            if config.ntp.sync_interval >= Nanos::from_secs(300) {
                config.ntp.sync_interval = Nanos::from_secs(16);
            }
            let names = ["one.simulated", "two.simulated", "liar.simulated", "lossy.simulated"];
            // Without servers it is a range without internet, where people say the time.
            if config.ntp.enabled {
                let named = |n: &&str| crate::config::ServerEntry::named(n).ok();
                config.ntp.servers = names.iter().filter_map(named).collect();
            }
            let name = if simulate.faults { "misfortunes" } else { "S5" };
            let scenario =
                sim::scenario(name).unwrap_or_else(|| unreachable!("both are in the table"));
            (config, World::simulated(scenario, simulate.seed), None)
        }
    }
}

async fn daemon(
    config: Config,
    options: Options,
    live: bool,
    server: Option<serve::Server>,
    seconds: Option<std::os::unix::net::UnixDatagram>,
) -> ExitCode {
    let Some(mut running) = start(config, &options, live, (server, seconds)) else {
        return ExitCode::FAILURE;
    };
    heed_signals(&options, &running.shared, &mut running.tasks).await;
    notify::stopping();
    let _ = running.tell_stop.send(true);
    let stopped = async { while running.tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(std::time::Duration::from_millis(800), stopped).await;
    info!(MESSAGE_ID = message_id(journal::Event::Stopped), EVENT = "stopped", "stopped");
    ExitCode::SUCCESS
}

/// What runs, and what it is told to end by.
struct Running {
    tasks: tokio::task::JoinSet<()>,
    shared: Shared,
    tell_stop: watch::Sender<bool>,
}

/// Starts the tasks. Waits for nothing, so that none of this takes room while they run.
fn start(
    config: Config,
    options: &Options,
    live: bool,
    given: (Option<serve::Server>, Option<std::os::unix::net::UnixDatagram>),
) -> Option<Running> {
    let started = clock::monotonic_now();
    let (config, world, steering_why) = prepare(config, options);
    let simulated = options.simulate.is_some();
    let place =
        options.socket.clone().or_else(|| (!simulated).then(|| config.control.socket.clone()));
    let place = socket::own_place(place.as_deref());
    let group =
        (!simulated && !config.control.group.is_empty()).then_some(config.control.group.as_str());
    let listener = match Listener::bind(&place, group) {
        Ok((listener, note)) => {
            if let Some(note) = note {
                warn!(
                    MESSAGE_ID = message_id(journal::Event::Control),
                    EVENT = "control",
                    "{note}"
                );
            }
            listener
        }
        Err(e) => {
            // A second instance would steer the same clock: it must not run. Anything else that
            // is wrong with the socket is no reason to leave the clock alone.
            error!(MESSAGE_ID = message_id(journal::Event::Control), EVENT = "control", "{e}");
            return None;
        }
    };
    let runtime_dir = place.parent().map(PathBuf::from).filter(|_| !simulated);
    let state_dir = (!simulated).then(|| config.state.directory.clone());
    // With a history of 0 s nothing is recorded.
    let record_dir = state_dir.clone().filter(|_| config.state.history > Nanos::ZERO);
    let recorder = record_dir
        .clone()
        .map(|dir| crate::record::Recorder::new(dir, config.state.history, clock::raw_now()));
    let memory = Memory::open(state_dir.as_deref(), runtime_dir.clone());
    let (shared, inbox) =
        Shared::new(alert_limits(&config), config.ntp.sync_interval, config.ntp.enabled);
    if let Some(why) = &steering_why {
        info!(
            MESSAGE_ID = message_id(journal::Event::MonitorOnly),
            EVENT = "monitor_only",
            "the clock is only watched: {why}"
        );
    }
    info!(
        MESSAGE_ID = message_id(journal::Event::Started),
        EVENT = "started",
        "leadville-timesync {} runs; ask it on {}",
        env!("CARGO_PKG_VERSION"),
        place.display()
    );
    let (tell_stop, stop) = watch::channel(false);
    let listening = config.bluetooth.enabled || simulated;
    let (timers, questions) = TimerDesk::new();
    let bridge = bridge::run(
        config.clone(),
        shared.clone(),
        state_dir.clone(),
        runtime_dir.clone(),
        options.simulate,
        questions,
        stop.clone(),
    );
    let desk = control::Desk {
        shared: shared.clone(),
        started,
        default_lock: config.lock.default_length,
        record: record_dir.clone(),
        timers: listening.then_some(timers),
    };
    // A simulated clock has no business with the board's light.
    let led = if simulated { String::new() } else { config.led.clone() };
    let resync = Resync::new(config, world, steering_why, memory, shared.clone(), given);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn_local(resync.run(inbox, stop.clone()));
    tasks.spawn_local(monitor::run(shared.clone(), recorder, led, stop.clone()));
    tasks.spawn_local(control::run(listener, desk, stop.clone()));
    if listening {
        tasks.spawn_local(bridge);
    }
    notify::ready();
    if live {
        let place = place.clone();
        let _ = std::thread::Builder::new()
            .name("view".into())
            .spawn(move || crate::cli::watch::follow(&place));
    }
    Some(Running { tasks, shared, tell_stop })
}

/// Waits for the end; SIGHUP reads the configuration again and keeps the old one if it is bad.
async fn heed_signals(options: &Options, shared: &Shared, tasks: &mut tokio::task::JoinSet<()>) {
    let Ok(mut signals) = Signals::listen() else {
        error!("signals cannot be caught");
        return;
    };
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop => return,
                Asked::Reload => reload(options, shared).await,
            },
            Some(ended) = tasks.join_next() => {
                if let Err(e) = ended {
                    error!("a task of the daemon failed: {e}");
                }
                return;
            }
        }
    }
}

async fn reload(options: &Options, shared: &Shared) {
    notify::reloading();
    let loaded = options.file.as_deref().map(Config::load);
    match loaded {
        None => info!("no configuration file to read again; the defaults stay"),
        Some(Err(e)) => warn!(
            MESSAGE_ID = message_id(journal::Event::BadConfig),
            EVENT = "bad_config",
            "{e}; the old configuration stays"
        ),
        Some(Ok(_)) if options.simulate.is_some() => {
            info!("the simulated world keeps its servers");
        }
        Some(Ok(config)) => {
            shared.reconfigure(alert_limits(&config), config.ntp.sync_interval);
            shared.ask(Request::Reconfigure(Box::new(config))).await;
            info!(
                MESSAGE_ID = message_id(journal::Event::Reloaded),
                EVENT = "reloaded",
                "the configuration was read again"
            );
        }
    }
    notify::ready();
}
