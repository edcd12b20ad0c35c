//! The scenarios every figure of ours is measured on. A new one states only what differs.
use super::crystal::{Climate, CrystalPlan};
use super::network::{Jitter, Network, Way, Weather};
use super::server::{SimServer, Truth};
use crate::units::{Nanos, UtcTime};

/// A world to run in.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What happens, in a line.
    pub about: &'static str,
    /// How long it lasts, hours.
    pub hours: f64,
    /// True UTC when it starts.
    pub start: UtcTime,
    /// True time minus our clock at the start.
    pub behind: Nanos,
    /// The oscillator.
    pub crystal: CrystalPlan,
    /// The servers and the ways to them.
    pub servers: Vec<(SimServer, Network)>,
    /// The board's thermometer can be read.
    pub thermometer: bool,
    /// Somebody else sets the clock: first at this second, then every so many, by so much.
    pub foreign_steps: Option<(f64, f64, Nanos)>,
    /// The power fails at this second and is back after so many.
    pub power_cuts: Vec<(f64, f64)>,
    /// Errors are judged from this second on.
    pub judged_from: f64,
}

/// All scenarios, by name.
pub const NAMES: [&str; 31] = [
    "S1",
    "S2",
    "S3",
    "S4",
    "S4t",
    "S5",
    "S6a",
    "S6b",
    "S7",
    "S8",
    "S9",
    "S9t",
    "S9d",
    "shade",
    "heat",
    "heat-t",
    "route",
    "powersave",
    "coarse",
    "fast",
    "slow",
    "foreign",
    "era",
    "restarts",
    "ramp",
    "normal",
    "gamma",
    "heavy",
    "calm",
    "turncoat",
    "misfortunes",
];

/// 1 May 2027, 08:00 UTC.
const MAY: i64 = 1_809_158_400;
const HOUR: f64 = 3600.0;

fn wifi() -> Network {
    Network::even(0.015, Jitter::Exponential(0.005))
}

fn quiet(constant_ppm: f64) -> CrystalPlan {
    CrystalPlan { constant_ppm, walk: 1e-9, ..CrystalPlan::default() }
}

/// A box whose crystal has 0.2 ppm/K.
const fn climate() -> Climate {
    Climate {
        ambient: 30.0,
        swing: None,
        step: None,
        load: false,
        slope: 0.2,
        cubic: 2e-4,
        lag: 240.0,
    }
}

fn four(network: impl Fn(u8) -> Network) -> Vec<(SimServer, Network)> {
    (0..4).map(|n| (SimServer::good(n), network(n))).collect()
}

/// Four of which one is wrong.
fn four_but(
    which: usize,
    truth: Truth,
    network: impl Fn(u8) -> Network,
) -> Vec<(SimServer, Network)> {
    let mut servers = four(network);
    servers[which].0.truth = truth;
    servers
}

fn hotspot(up: f64, down: f64) -> Network {
    let way = |base| Way { base, jitter: Jitter::Exponential(0.020), loss: 0.1 };
    Network { out: way(up), home: way(down), weather: Vec::new() }
}

/// Four servers behind a hotspot: seven minutes of it from that second on, then nothing for the
/// rest of eight hours. Hidden asymmetry: 0, 5, 10 and 2.5 ms.
fn match_day(from: f64) -> Vec<(SimServer, Network)> {
    four(|n| {
        let hidden = [0.0, 0.010, 0.020, 0.005][usize::from(n & 3)];
        hotspot(0.030 + hidden, 0.030).with(from, from + 420.0, Weather::PowerSave).with(
            from + 420.0,
            from + 8.0 * HOUR,
            Weather::Outage,
        )
    })
}

/// The scenario of this name.
#[must_use]
pub fn scenario(name: &str) -> Option<Scenario> {
    let name = NAMES.iter().find(|n| n.eq_ignore_ascii_case(name))?;
    let base = Scenario {
        name,
        about: "Wi-Fi, internet",
        hours: 24.0,
        start: UtcTime::from_nanos(MAY * 1_000_000_000),
        behind: Nanos::from_millis(50),
        crystal: quiet(-12.0),
        servers: vec![(SimServer::good(0), wifi())],
        thermometer: false,
        foreign_steps: None,
        power_cuts: Vec::new(),
        judged_from: HOUR,
    };
    let only = |network| vec![(SimServer::good(0), network)];
    Some(match *name {
        "S1" => Scenario {
            about: "wired LAN",
            servers: only(Network::even(0.0003, Jitter::Exponential(50e-6))),
            ..base
        },
        "S3" => Scenario {
            about: "hotspot: 60 ms up, 30 ms down (15 ms nobody can see), 10 % loss each way",
            servers: only(hotspot(0.060, 0.030)),
            ..base
        },
        "S4" => Scenario {
            about: "sun on the box: ±2 ppm every hour",
            crystal: CrystalPlan { sine: Some((2.0, 3600.0)), ..quiet(-12.0) },
            ..base
        },
        "S4t" => Scenario {
            about: "sun on the box: ±2 ppm every hour, with a thermometer",
            crystal: CrystalPlan {
                climate: Some(Climate {
                    ambient: 40.0,
                    swing: Some((10.8, 3600.0)),
                    cubic: 0.0,
                    ..climate()
                }),
                ..quiet(-12.0)
            },
            thermometer: true,
            ..base
        },
        "S5" => Scenario {
            about: "four servers: one 500 ms wrong, one loses half the packets",
            servers: four_but(2, Truth::Wrong(0.5), |n| {
                let mut network = wifi();
                if n == 3 {
                    // "50 % loss" of exchanges, half of it each way
                    network.out.loss = 0.293;
                    network.home.loss = 0.293;
                }
                network
            }),
            ..base
        },
        "S6a" => Scenario {
            about: "cold boot, three days wrong, −40 ppm",
            hours: 12.0,
            behind: Nanos::from_secs(3 * 86_400),
            crystal: quiet(-40.0),
            ..base
        },
        "S6b" => Scenario {
            about: "cold boot, 300 ms wrong, −40 ppm",
            hours: 12.0,
            behind: Nanos::from_millis(300),
            crystal: quiet(-40.0),
            ..base
        },
        "S7" => Scenario {
            about: "two hours of Wi-Fi, then four hours of nothing",
            hours: 6.0,
            servers: only(wifi().with(2.0 * HOUR, 7.0 * HOUR, Weather::Outage)),
            ..base
        },
        "S8" => Scenario { about: "four good servers", servers: four(|_| wifi()), ..base },
        "S9" | "S9t" => Scenario {
            about: "match day: cold boot, hotspot for seven minutes, 8 h blind, power cut, sync again",
            hours: 9.0,
            behind: Nanos::from_secs(40_000),
            thermometer: *name == "S9t",
            crystal: CrystalPlan {
                warming: Some((4.0, 200.0)),
                climate: Some(Climate { load: true, ..climate() }),
                ..quiet(-14.0)
            },
            servers: match_day(0.0),
            power_cuts: vec![(3.0 * HOUR, 60.0)],
            judged_from: 600.0,
            ..base
        },
        "S9d" => {
            let day = scenario("S9")?;
            let out = 20.0 * HOUR;
            Scenario {
                name,
                about: "12 h on a hotspot, a night without power, seven minutes of hotspot, eight hours blind",
                hours: 28.0,
                servers: match_day(out),
                power_cuts: vec![(12.0 * HOUR, 8.0 * HOUR)],
                judged_from: out + 600.0,
                ..day
            }
        }
        "shade" => Scenario {
            about: "S4's crystal in the shade: 12 h of Wi-Fi, a night without power, a quarter of an hour of Wi-Fi, 7 h blind",
            hours: 27.4,
            crystal: CrystalPlan {
                sine: Some((0.2, 3600.0)),
                warming: Some((4.0, 200.0)),
                ..quiet(-14.0)
            },
            servers: only(wifi().with(20.25 * HOUR, 28.0 * HOUR, Weather::Outage)),
            power_cuts: vec![(12.0 * HOUR, 8.0 * HOUR)],
            judged_from: 20.25 * HOUR,
            ..base
        },
        "heat" | "heat-t" => Scenario {
            about: "12 h of swinging warmth and load, then 4 h blind with a step of 15 K after one",
            hours: 16.0,
            thermometer: *name == "heat-t",
            crystal: CrystalPlan {
                climate: Some(Climate {
                    swing: Some((4.0, 4.0 * HOUR)),
                    step: Some((13.0 * HOUR, 15.0)),
                    load: true,
                    ..climate()
                }),
                ..quiet(-12.0)
            },
            servers: only(wifi().with(12.0 * HOUR, 17.0 * HOUR, Weather::Outage)),
            judged_from: 12.0 * HOUR,
            ..base
        },
        "route" => Scenario {
            about: "the way out takes 20 ms longer for an hour",
            servers: only(wifi().with(6.0 * HOUR, 7.0 * HOUR, Weather::LongerOut(0.020))),
            ..base
        },
        "powersave" => Scenario {
            about: "Wi-Fi that sleeps: half the replies wait 5 to 300 ms",
            servers: only(wifi().with(0.0, 25.0 * HOUR, Weather::PowerSave)),
            ..base
        },
        "coarse" => Scenario {
            about: "a server whose clock shows whole seconds",
            servers: vec![(
                SimServer { precision: 0, ..SimServer::good(0).but(Truth::Coarse(1.0)) },
                wifi(),
            )],
            ..base
        },
        "fast" => Scenario { about: "crystal 0.5 % fast", crystal: quiet(5000.0), ..base },
        "slow" => Scenario { about: "crystal 0.5 % slow", crystal: quiet(-5000.0), ..base },
        "foreign" => Scenario {
            about: "somebody steps the clock by a second every half hour",
            foreign_steps: Some((2.0 * HOUR, 1800.0, Nanos::from_secs(1))),
            servers: four(|_| wifi()),
            ..base
        },
        "era" => Scenario {
            about: "over the end of NTP era 0",
            hours: 12.0,
            start: UtcTime::from_nanos((2_085_978_496 - 6 * 3600) * 1_000_000_000),
            ..base
        },
        "restarts" => Scenario {
            about: "fifty restarts",
            hours: 26.0,
            power_cuts: (0..50).map(|n| (1800.0 * f64::from(n + 1), 20.0)).collect(),
            ..base
        },
        "ramp" => Scenario {
            about: "the frequency climbs 4 ppm within three hours",
            crystal: CrystalPlan { ramp: Some((4.0, 6.0 * HOUR, 3.0 * HOUR)), ..quiet(-12.0) },
            ..base
        },
        "normal" => Scenario {
            about: "normal jitter of 5 ms around 40 ms",
            servers: only(Network::even(0.040, Jitter::Normal(0.005))),
            ..base
        },
        "gamma" => Scenario {
            about: "two exponential queues in a row, each way",
            servers: only(Network::even(0.015, Jitter::Gamma(0.0035))),
            ..base
        },
        "heavy" => Scenario {
            about: "one packet in twenty ten times as late",
            servers: only(Network::even(0.015, Jitter::Heavy(0.004))),
            ..base
        },
        "calm" => Scenario {
            about: "a crystal that does not wander",
            crystal: CrystalPlan { constant_ppm: -12.0, ..CrystalPlan::default() },
            ..base
        },
        "turncoat" => Scenario {
            about: "the only server is suddenly 200 ms wrong after eight hours",
            servers: vec![(SimServer::good(0).but(Truth::Turns(8.0 * HOUR, 0.2)), wifi())],
            ..base
        },
        "misfortunes" => Scenario {
            about: "servers die in turn, one lies after ten minutes, somebody sets the clock",
            foreign_steps: Some((400.0, 900.0, Nanos::from_millis(300))),
            servers: four_but(3, Truth::Turns(600.0, 0.3), |n| {
                let rounds = (0..135).map(|round| 640.0 * f64::from(round));
                rounds.fold(wifi(), |way, from| {
                    let alone = from + 160.0 * f64::from(n) + 60.0;
                    // … and all of them once in a round.
                    let all = from + 620.0;
                    way.with(alone, alone + 80.0, Weather::Outage).with(
                        all,
                        all + 20.0,
                        Weather::Outage,
                    )
                })
            }),
            ..base
        },
        _ => base, // S2
    })
}
