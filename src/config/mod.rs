//! The configuration: a closed TOML file, every value with its unit and its bounds.
//!
//! What the file may say is in `config/timesync.toml`, which a test holds equal to
//! [`Config::default`]. An unknown key, a wrong type, a value out of bounds or a duplicate is
//! refused with file, line, column and a sentence.
mod check;
mod error;
mod server;
mod value;

pub use error::ConfigError;
pub use server::{Endpoint, Network, ServerEntry, nearby};
pub use value::{parse_span, write_span};

use crate::units::{Nanos, Ppm};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use value::{bounded, length, ppm, span};

/// Where the daemon looks for its configuration.
pub const DEFAULT_PATH: &str = "/etc/leadville/timesync.toml";

/// The documented defaults, comments included: what the package installs.
pub const DEFAULT_TEXT: &str = include_str!("../../config/timesync.toml");

/// Most servers that may be configured.
pub const MAX_SERVERS: usize = 16;

const US: i64 = 1_000;
const MS: i64 = 1_000 * US;
const S: i64 = 1_000 * MS;
const MIN: i64 = 60 * S;
const H: i64 = 60 * MIN;
const DAY: i64 = 24 * H;

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of an LED under /sys/class/leds that shows the state; empty: none.
    pub led: String,
    /// Who is asked for the time.
    pub ntp: Ntp,
    /// How the kernel clock is corrected.
    pub clock: Clock,
    /// When somebody is told.
    pub alert: Alert,
    /// Holding the clock still.
    pub lock: Lock,
    /// What is kept on disk.
    pub state: State,
    /// The control socket.
    pub control: Control,
    /// The journal.
    pub log: Log,
    /// The thermometer.
    pub thermal: Thermal,
    /// The link to the timers.
    pub bluetooth: Bluetooth,
    /// The timers, one per bay.
    pub timer: Vec<Timer>,
    /// The simulated timer of `run --simulate`.
    pub simulation: Simulation,
    /// A receiver of its own.
    pub gps: Gps,
    /// Serving time to the range.
    pub serve: Serve,
    /// The web page.
    pub web: Web,
    /// Publishing to a broker.
    pub mqtt: Mqtt,
}

/// `[ntp]`: who is asked, how often, and how long an answer may take.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ntp {
    /// Servers are asked at all.
    pub enabled: bool,
    /// 1..16 servers (none only when not enabled).
    pub servers: Vec<ServerEntry>,
    /// Time between two rounds once settled, 16 s..24 h.
    #[serde(deserialize_with = "span::<_, { 16 * S }, { 24 * H }>")]
    pub sync_interval: Nanos,
    /// Longest wait for one reply, 100 ms..1 min.
    #[serde(deserialize_with = "span::<_, { 100 * MS }, { MIN }>")]
    pub timeout: Nanos,
    /// The former system's, 0..10; without effect: lost replies have rules of their own.
    #[serde(deserialize_with = "bounded::<_, 0, 10>")]
    pub max_retries: u32,
    /// Operators that must agree for the time to be verified, 1..16.
    #[serde(deserialize_with = "bounded::<_, 1, 16>")]
    pub min_agreeing: u32,
}

/// `[clock]`: how the kernel clock is corrected.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clock {
    /// Correct the kernel clock; otherwise only watch it.
    pub steer: bool,
    /// Before the first synchronisation of a boot, a larger offset is stepped, 1 ms..10 s.
    #[serde(deserialize_with = "span::<_, { MS }, { 10 * S }>")]
    pub step_above: Nanos,
    /// 10..500 ppm; without effect so far: the kernel slews at 500 ppm.
    #[serde(deserialize_with = "ppm::<_, 10, 500>")]
    pub max_slew_ppm: Ppm,
    /// After the first synchronisation, a larger offset may be stepped once, 100 ms..1 h.
    #[serde(deserialize_with = "span::<_, { 100 * MS }, { H }>")]
    pub late_step_above: Nanos,
    /// How long a verified majority must insist on such a step, 1 min..24 h.
    #[serde(deserialize_with = "span::<_, { MIN }, { 24 * H }>")]
    pub late_step_insist: Nanos,
    /// Sum of such steps and of backward ones in a day, 0..24 h.
    #[serde(deserialize_with = "span::<_, 0, { 24 * H }>")]
    pub step_budget: Nanos,
    /// Largest frequency change while a lock is held, 0..10 ppm.
    #[serde(deserialize_with = "ppm::<_, 0, 10>")]
    pub lock_frequency_ppm: Ppm,
}

/// `[alert]`: limits of |offset| + error bound.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alert {
    /// An alert begins above this, 1 ms..10 s.
    #[serde(deserialize_with = "span::<_, { MS }, { 10 * S }>")]
    pub drift_threshold: Nanos,
    /// It ends below this, 100 µs..10 s and less than the threshold.
    #[serde(deserialize_with = "span::<_, { 100 * US }, { 10 * S }>")]
    pub clear_below: Nanos,
    /// A second, louder alert above this, 1 ms..1 min and more than the threshold.
    #[serde(deserialize_with = "span::<_, { MS }, { 60 * S }>")]
    pub severe: Nanos,
}

/// `[lock]`: how long the clock may be held still.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lock {
    /// Length of `lock` without `--for`, 1 min..24 h.
    #[serde(deserialize_with = "span::<_, { MIN }, { 24 * H }>")]
    pub default_length: Nanos,
    /// A running string holds the clock still.
    pub during_strings: bool,
    /// A string's lock ends so long after STOP, 0..1 min.
    #[serde(deserialize_with = "span::<_, 0, { MIN }>")]
    pub string_after_stop: Nanos,
    /// A string's lock ends at the latest after this, 1 min..1 h.
    #[serde(deserialize_with = "span::<_, { MIN }, { H }>")]
    pub string_longest: Nanos,
    /// A string's lock ends so long after its link was lost, 1 s..10 min.
    #[serde(deserialize_with = "span::<_, { S }, { 10 * MIN }>")]
    pub string_link_lost: Nanos,
}

/// `[state]`: what is kept on disk.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// An absolute path.
    #[serde(deserialize_with = "value::absolute_path")]
    pub directory: PathBuf,
    /// The time is saved so often for the next boot, 1 min..1 h.
    #[serde(deserialize_with = "span::<_, { MIN }, { H }>")]
    pub clock_file_interval: Nanos,
    /// The learned frequency is saved so often, 5 min..24 h.
    #[serde(deserialize_with = "span::<_, { 5 * MIN }, { 24 * H }>")]
    pub drift_file_interval: Nanos,
    /// Measurements are kept on disk for so long, 0..1 year; 0: not at all.
    #[serde(deserialize_with = "span::<_, 0, { 366 * DAY }>")]
    pub history: Nanos,
    /// Strings of the timers kept on disk, 0..10000.
    #[serde(deserialize_with = "bounded::<_, 0, 10000>")]
    pub strings: u32,
}

/// `[control]`: the socket that the commands and other programs talk to.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// An absolute path.
    #[serde(deserialize_with = "value::absolute_path")]
    pub socket: PathBuf,
    /// Members may change things; empty: only root and the daemon's own user.
    pub group: String,
}

/// `[log]`: the journal.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is written.
    pub level: Level,
}

/// How much is written to the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Only what stops the daemon from doing its work.
    Error,
    /// Also what somebody should look at.
    Warn,
    /// Also every change of state.
    #[default]
    Info,
    /// Also every measurement.
    Debug,
    /// Also every packet.
    Trace,
}

/// `[thermal]`: the thermometer whose readings predict the crystal.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thermal {
    /// It is read at all.
    pub enabled: bool,
    /// A file holding thousandths of a degree Celsius.
    #[serde(deserialize_with = "value::absolute_path")]
    pub sensor: PathBuf,
}

/// `[bluetooth]`: the link to the timers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bluetooth {
    /// Timers are looked for and listened to.
    pub enabled: bool,
    /// Name of the adapter (`hci0`); empty: any that is powered.
    pub adapter: String,
    /// A line about each connected timer so often, 0 (never)..24 h.
    #[serde(deserialize_with = "span::<_, 0, { 24 * H }>")]
    pub health_report_interval: Nanos,
    /// The signal strength of a timer not connected is read so often, 1 s..1 h.
    #[serde(deserialize_with = "span::<_, { S }, { H }>")]
    pub rssi_check_interval: Nanos,
    /// Longest wait between two attempts to connect, 1 s..10 min.
    #[serde(deserialize_with = "span::<_, { S }, { 10 * MIN }>")]
    pub reconnect_at_most: Nanos,
    /// After so long without a word the subscription is made anew, 1 s..24 h.
    #[serde(deserialize_with = "span::<_, { S }, { 24 * H }>")]
    pub silence: Nanos,
}

/// `[[timer]]`: one shot timer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timer {
    /// The bay, as it appears in events.
    #[serde(deserialize_with = "length::<_, 1, 64>")]
    pub name: String,
    /// It is used.
    pub enabled: bool,
    /// Who made it.
    pub vendor: Vendor,
    /// Its Bluetooth address in capitals (`60:09:C3:00:00:01`); empty: found by `match`.
    #[serde(deserialize_with = "value::bluetooth_address")]
    pub address: String,
    /// How its advertised name begins, whatever the case; empty: as all timers of the vendor.
    #[serde(deserialize_with = "length::<_, 0, 64>")]
    pub r#match: String,
    /// Least delay between a shot and its frame being ready, −500..500 ms.
    #[serde(deserialize_with = "span::<_, { -500 * MS }, { 500 * MS }>")]
    pub d0_min: Nanos,
    /// Greatest such delay, −500..500 ms.
    #[serde(deserialize_with = "span::<_, { -500 * MS }, { 500 * MS }>")]
    pub d0_max: Nanos,
    /// The calibrated delay, between the two; `None` while not calibrated.
    #[serde(deserialize_with = "value::optional_span::<_, { -500 * MS }, { 500 * MS }>")]
    pub d0: Option<Nanos>,
    /// 95 % bound of the calibrated delay, 0..100 ms.
    #[serde(deserialize_with = "span::<_, 0, { 100 * MS }>")]
    pub d0_bound: Nanos,
}

/// Makers of timers whose frames are understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vendor {
    /// AMG Labs, Lab Commander.
    #[default]
    AmgLabs,
}

/// `[simulation]`: the shooter of `run --simulate`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simulation {
    /// What is shot.
    pub mode: Mode,
    /// Shots of a string, 1..150.
    #[serde(deserialize_with = "bounded::<_, 1, 150>")]
    pub num_shots: u32,
    /// Time between two shots, 50 ms..1 min.
    #[serde(deserialize_with = "span::<_, { 50 * MS }, { MIN }>")]
    pub shot_interval: Nanos,
    /// Time from the button to the beep, 0..1 min.
    #[serde(deserialize_with = "span::<_, 0, { MIN }>")]
    pub start_delay: Nanos,
    /// Intervals vary.
    pub random_timing: bool,
    /// By so much each way, 0..10 s.
    #[serde(deserialize_with = "span::<_, 0, { 10 * S }>")]
    pub timing_variance: Nanos,
    /// Times since the beep of mode `custom_sequence`, rising.
    #[serde(deserialize_with = "value::spans")]
    pub custom_sequence: Vec<Nanos>,
    /// Time between two strings, 5 s..1 h.
    #[serde(deserialize_with = "span::<_, { 5 * S }, { H }>")]
    pub string_interval: Nanos,
}

/// What the simulated shooter does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// `num_shots` at `shot_interval`.
    #[default]
    MultiShot,
    /// One.
    SingleShot,
    /// `num_shots`, an eighth of `shot_interval` apart, not below 150 ms.
    RapidFire,
    /// `num_shots`, five times `shot_interval` apart.
    PrecisionMatch,
    /// At the times of `custom_sequence`.
    CustomSequence,
}

/// `[gps]`: a receiver of its own, through gpsd.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gps {
    /// The socket that gpsd writes to, an absolute path; empty: none.
    #[serde(deserialize_with = "value::optional_path")]
    pub sock: PathBuf,
    /// What its seconds are worth, 1 µs..1 s.
    #[serde(deserialize_with = "span::<_, { US }, { S }>")]
    pub uncertainty: Nanos,
    /// Its word alone makes the time *verified*.
    pub trust: bool,
}

/// `[serve]`: serving time to the range.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serve {
    /// Requests are answered.
    pub enabled: bool,
    /// Address and port; ports below 1024 need the socket unit.
    pub listen: std::net::SocketAddr,
    /// Networks that are answered.
    pub allow: Vec<Network>,
    /// Requests answered per address and minute, 1..6000.
    #[serde(deserialize_with = "bounded::<_, 1, 6000>")]
    pub per_minute: u32,
    /// Also serve, at stratum 10, a time that no server has confirmed.
    pub local: bool,
}

/// `[web]`: the page.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Web {
    /// The page is served.
    pub enabled: bool,
    /// Address and port.
    pub listen: std::net::SocketAddr,
    /// Whoever sees the page may start the timeline with the phone's time, while no server has.
    pub phone_time: bool,
}

/// `[mqtt]`: publishing to a broker.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// Events are published.
    pub enabled: bool,
    /// The broker; port 1883 if none is named.
    pub broker: Endpoint<1883>,
    /// Topics begin with this.
    #[serde(deserialize_with = "length::<_, 1, 128>")]
    pub prefix: String,
    /// Name at the broker; empty: none.
    pub user: String,
    /// File holding the password; empty: none.
    pub password_file: PathBuf,
}

impl Default for Ntp {
    fn default() -> Self {
        Self {
            enabled: true,
            servers: ["pool.ntp.org", "time.nist.gov", "time.google.com", "time.cloudflare.com"]
                .map(|name| ServerEntry::named(name).expect("a default server is well formed"))
                .to_vec(),
            sync_interval: Nanos::new(5 * MIN),
            timeout: Nanos::new(10 * S),
            max_retries: 3,
            min_agreeing: 2,
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            steer: true,
            step_above: Nanos::new(20 * MS),
            max_slew_ppm: Ppm::new(500.0),
            late_step_above: Nanos::new(S),
            late_step_insist: Nanos::new(5 * MIN),
            step_budget: Nanos::new(H),
            lock_frequency_ppm: Ppm::new(1.0),
        }
    }
}

impl Default for Alert {
    fn default() -> Self {
        Self {
            drift_threshold: Nanos::new(20 * MS),
            clear_below: Nanos::new(15 * MS),
            severe: Nanos::new(50 * MS),
        }
    }
}

impl Default for Lock {
    fn default() -> Self {
        Self {
            default_length: Nanos::new(4 * H),
            during_strings: true,
            string_after_stop: Nanos::new(2 * S),
            string_longest: Nanos::new(11 * MIN),
            string_link_lost: Nanos::new(60 * S),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            directory: "/var/lib/leadville/timesync".into(),
            clock_file_interval: Nanos::new(5 * MIN),
            drift_file_interval: Nanos::new(H),
            history: Nanos::new(30 * DAY),
            strings: 500,
        }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { socket: "/run/leadville/timesync.sock".into(), group: "leadville".into() }
    }
}

impl Default for Thermal {
    fn default() -> Self {
        Self { enabled: true, sensor: "/sys/class/thermal/thermal_zone0/temp".into() }
    }
}

impl Default for Bluetooth {
    fn default() -> Self {
        Self {
            enabled: false,
            adapter: String::new(),
            health_report_interval: Nanos::new(60 * S),
            rssi_check_interval: Nanos::new(30 * S),
            reconnect_at_most: Nanos::new(30 * S),
            silence: Nanos::new(16 * MIN),
        }
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self {
            name: "timer".into(),
            enabled: true,
            vendor: Vendor::AmgLabs,
            address: String::new(),
            r#match: String::new(),
            d0_min: Nanos::ZERO,
            d0_max: Nanos::new(60 * MS),
            d0: None,
            d0_bound: Nanos::new(5 * MS),
        }
    }
}

impl Default for Simulation {
    fn default() -> Self {
        Self {
            mode: Mode::MultiShot,
            num_shots: 5,
            shot_interval: Nanos::new(2 * S),
            start_delay: Nanos::new(3 * S),
            random_timing: false,
            timing_variance: Nanos::new(500 * MS),
            custom_sequence: Vec::new(),
            string_interval: Nanos::new(30 * S),
        }
    }
}

impl Default for Gps {
    fn default() -> Self {
        Self { sock: PathBuf::new(), uncertainty: Nanos::new(MS), trust: false }
    }
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: std::net::SocketAddr::from(([0, 0, 0, 0], 123)),
            allow: ["192.168.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "fe80::/10", "fc00::/7"]
                .map(|network| network.parse().expect("a default network is well formed"))
                .to_vec(),
            per_minute: 60,
            local: false,
        }
    }
}

impl Default for Web {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 8460)),
            phone_time: false,
        }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            enabled: false,
            broker: "127.0.0.1:1883".parse().expect("the default broker is well formed"),
            prefix: "leadville".into(),
            user: String::new(),
            password_file: PathBuf::new(),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Says what could not be read, or where in the file what is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = std::fs::read(path).map_err(|e| ConfigError::unreadable(path, &e))?;
        let name = path.display().to_string();
        match str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, &name),
            Err(e) => Err(ConfigError::not_utf8(&name, &bytes, e.valid_up_to())),
        }
    }

    /// Reads and checks a text; `name` is what errors call it. A byte order mark and line ends of
    /// either kind are fine.
    ///
    /// # Errors
    /// Says where in the text what is wrong.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let config: Self = toml::from_str(text).map_err(|e| error::of_toml(name, text, &e))?;
        match config.contradiction() {
            None => Ok(config),
            Some((key, sentence)) => Err(error::at_key(name, text, &key, &sentence)),
        }
    }
}
