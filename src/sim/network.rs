//! The way of a packet: base delay, queues, loss, outages, power save, routes that change.
use super::random::Random;

/// What a queue adds to the base delay.
#[derive(Clone, Copy, Debug)]
pub enum Jitter {
    /// Exponential with this mean, in seconds.
    Exponential(f64),
    /// Normal with this standard deviation around the base delay; never below a tenth of it.
    Normal(f64),
    /// Gamma of shape 2: two exponential queues of this mean in a row.
    Gamma(f64),
    /// Mostly exponential with this mean, one in twenty packets ten times as late.
    Heavy(f64),
}

/// One direction.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Delay of an empty way, seconds.
    pub base: f64,
    /// What the queues add.
    pub jitter: Jitter,
    /// Probability that a packet is lost.
    pub loss: f64,
}

/// Something that lasts for a while. Seconds of true time.
#[derive(Clone, Copy, Debug)]
pub enum Weather {
    /// Nothing passes.
    Outage,
    /// The way out takes longer by so many seconds.
    LongerOut(f64),
    /// The radio sleeps: half the replies wait for 5 to 300 ms more.
    PowerSave,
}

/// Both ways to a server.
#[derive(Clone, Debug)]
pub struct Network {
    /// To the server.
    pub out: Way,
    /// Back to us.
    pub home: Way,
    /// From, until, what.
    pub weather: Vec<(f64, f64, Weather)>,
}

impl Network {
    /// The same way there and back, without loss.
    #[must_use]
    pub const fn even(base: f64, jitter: Jitter) -> Self {
        let way = Way { base, jitter, loss: 0.0 };
        Self { out: way, home: way, weather: Vec::new() }
    }
    /// The same, with something that lasts from a second until another.
    #[must_use]
    pub fn with(mut self, from: f64, until: f64, weather: Weather) -> Self {
        self.weather.push((from, until, weather));
        self
    }
    /// How long a packet sent at second `t` takes, `None` when it is lost.
    pub fn travel(&self, t: f64, homeward: bool, chance: &mut Random) -> Option<f64> {
        let way = if homeward { &self.home } else { &self.out };
        let lost = chance.chance(way.loss);
        let mut takes = match way.jitter {
            Jitter::Exponential(mean) => way.base + chance.exponential(mean),
            Jitter::Normal(sd) => (way.base + sd * chance.normal()).max(way.base * 0.1),
            Jitter::Gamma(mean) => way.base + chance.exponential(mean) + chance.exponential(mean),
            Jitter::Heavy(mean) => {
                let long = if chance.chance(0.05) { 10.0 } else { 1.0 };
                way.base + chance.exponential(mean * long)
            }
        };
        let mut passes = !lost;
        for &(_, _, weather) in self.weather.iter().filter(|w| (w.0..w.1).contains(&t)) {
            match weather {
                Weather::Outage => passes = false,
                Weather::LongerOut(more) if !homeward => takes += more,
                Weather::PowerSave if homeward && chance.chance(0.5) => {
                    takes += 0.005 + 0.295 * chance.uniform();
                }
                _ => {}
            }
        }
        passes.then_some(takes)
    }
}
