//! What is known of a server's paths: how long its queues are, how sharp their edge is, and
//! whether its packets still fit.
use super::ServerId;
pub(super) use super::member::SLOTS;
use super::site::{Queue, Seen};

/// One server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    pub id: Option<ServerId>,
    /// Samples heard so far.
    pub heard: u32,
    /// When the last one was.
    pub last: f64,
    /// Packets in a row that broke the edge, and by how much (s).
    pub broken: u32,
    pub doubt: f64,
    /// Packets in a row that were suspiciously late.
    pub late: u32,
    /// How common late packets are, and how common they were when the present row began.
    usual: f64,
    usual_before: f64,
    /// Packets faster than the base delays allow, fading; and how many have come since the first.
    fast: f64,
    pub since_fast: u32,
    /// A change of route that was not the same both ways: taken off the way out, put on the way home, s.
    pub skew: f64,
    /// How uncertain that is (s, one standard deviation).
    pub skew_sd: f64,
    /// Its own view of the offset against the joint one: mean and standard deviation, s.
    pub view: (f64, f64),
    /// Shortest round trip so far, s.
    shortest: f64,
    /// Mean queue, out and home, s.
    mean: [f64; 2],
    /// Share of strays and their scatter, out and home.
    stray: [f64; 2],
    wide: [f64; 2],
    /// Variance of the soft edge beyond stamps and precision.
    soft: f64,
    /// A slow mean of the queue, and how many samples it is worth.
    pub slow: f64,
    worth: f64,
    precision: f64,
    /// Mean, variance and clipped third moment of the round trips.
    shape: (f64, f64, f64),
}

/// Time stamps themselves are not better than this, s.
const STAMP: f64 = 1e-6;
/// An edge is not sharper than this part of the mean queue.
const SHARPEST: f64 = 0.02;
/// Without evidence an edge is taken for sharp; how many packets that is worth.
const SHARP_WORTH: f64 = 6.0;
/// What is believed of the edge before anything is learned.
const FIRST_SOFT: f64 = 0.1;
/// Share of strays before anything is learned, and how many packets that is worth.
const STRAY: f64 = 0.02;
const STRAY_WORTH: f64 = 10.0;
/// How widely strays scatter, in queue means.
const WIDE: f64 = 50.0;
/// A packet later than this many slow queue means (both ways together) is late: one in four.
const LATE: f64 = 2.7;
/// The one in four.
const LATE_SHARE: f64 = 0.26;

/// What one sweep saw of a server's packets, one way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    belong: f64,
    queued: f64,
    noise: f64,
    stray: f64,
    strayed: f64,
    nearest: f64,
}

impl Tally {
    pub(super) const NONE: Self = Self {
        belong: 0.0,
        queued: 0.0,
        noise: 0.0,
        stray: 0.0,
        strayed: 0.0,
        nearest: f64::INFINITY,
    };

    pub(super) fn count(&mut self, seen: &Seen, beyond: f64) {
        self.belong += seen.belongs;
        self.queued += seen.belongs * seen.queued.max(0.0);
        self.noise += seen.belongs * seen.noise;
        if beyond > 0.0 {
            self.stray += 1.0 - seen.belongs;
            self.strayed += (1.0 - seen.belongs) * beyond;
        }
        if seen.belongs > 0.5 {
            self.nearest = self.nearest.min(beyond);
        }
    }
}

impl Server {
    pub(super) const NONE: Self = Self {
        id: None,
        heard: 0,
        last: 0.0,
        broken: 0,
        doubt: 0.0,
        late: 0,
        usual: LATE_SHARE,
        usual_before: LATE_SHARE,
        fast: 0.0,
        since_fast: 0,
        skew: 0.0,
        skew_sd: 0.0,
        view: (0.0, f64::INFINITY),
        shortest: 0.0,
        mean: [1e-3; 2],
        stray: [STRAY; 2],
        wide: [WIDE * 1e-3; 2],
        soft: 0.0,
        slow: 1e-3,
        worth: 2.0,
        precision: 0.0,
        shape: (0.0, 0.0, 0.0),
    };

    /// Hears a sample, whether it counts or not.
    pub(super) fn hear(&mut self, t: f64, most: &[f64; 2], precision: f64) {
        let delay = (most[0] + most[1]).max(0.0);
        self.heard += 1;
        self.last = t;
        self.precision = precision.clamp(0.0, 2.0);
        if self.heard == 1 {
            self.shortest = delay;
            self.slow = (0.12 * delay).max(STAMP);
            self.mean = [self.slow; 2];
            self.wide = [WIDE * self.slow; 2];
            self.soft = (FIRST_SOFT * self.slow).powi(2);
            self.shape = (delay + self.slow, self.slow * self.slow, 1.0);
        }
        let share = 1.0 / f64::from(self.heard.clamp(4, 100));
        let (mean, variance, third) = &mut self.shape;
        let off = (delay - *mean).clamp(-4.0 * variance.sqrt(), 4.0 * variance.sqrt());
        *mean += share * off;
        *variance += share * (off * off - *variance);
        let z = (off / variance.max(1e-18).sqrt()).clamp(-3.0, 3.0);
        *third += share * (z * z * z - *third);
        self.shortest = self.shortest.min(delay);
    }

    /// What is believed of the base delay (one way) before anything is learned: mean, variance.
    pub(super) fn first_base(&self) -> (f64, f64) {
        let half = self.shortest / 2.0;
        (half - self.slow, (half * half / 4.0).max(1e-10))
    }

    /// The route is another one: its shortest round trip is this.
    pub(super) fn reroute(&mut self, shortest: f64) {
        self.shortest = shortest;
        self.broken = 0;
        self.doubt = 0.0;
        self.late = 0;
        self.fast = 0.0;
        self.since_fast = 0;
    }

    /// How much the round trips look like queues behind a sharp edge (1: skewed) and not like
    /// noise around a mean (0: even).
    pub(super) fn sharpness(&self) -> f64 {
        ((self.shape.2 - 0.2) / 0.4).clamp(0.0, 1.0)
    }

    /// Resolution of its clock, s.
    pub(super) const fn precision(&self) -> f64 {
        self.precision
    }

    /// Variance of all softness of the edge.
    pub(super) fn softness(&self) -> f64 {
        STAMP * STAMP + self.precision * self.precision / 3.0 + self.soft
    }

    /// The queues, out and home.
    pub(super) fn queues(&self) -> [Queue; 2] {
        let soft = self.softness();
        [0, 1].map(|d| {
            let wide = self.wide[d] + 4.0 * soft.sqrt();
            Queue::new(self.mean[d], soft, self.stray[d], wide)
        })
    }

    /// Variance the base delay gains per second.
    pub(super) fn base_walk(&self) -> f64 {
        let per_hour = 0.004 * (self.mean[0] + self.mean[1]) / 2.0;
        per_hour * per_hour / 3600.0
    }

    /// Judges the newest packet by what was believed before it: `spare` is its round trip beyond
    /// twice the base delay, which is uncertain by `unsure`.
    pub(super) fn judge(&mut self, seen: &[Seen; 2], spare: f64, unsure: f64) {
        if seen.iter().any(Seen::breaks) {
            self.broken += 1;
            self.doubt = seen.iter().fold(0.0, |worst: f64, s| worst.max(-s.above));
        } else {
            self.broken = 0;
            self.doubt = 0.0;
        }
        if self.late == 0 {
            self.usual_before = self.usual;
        }
        let late = spare > LATE * self.slow + 2.0 * self.softness().sqrt();
        self.late = if late { self.late + 1 } else { 0 };
        self.usual +=
            (f64::from(u8::from(late)) - self.usual) / f64::from(self.heard.clamp(16, 64));
        // No queue makes a packet faster than light: two of those are believed, late ones between them or not.
        let margin = 0.5 * self.slow + 4.0 * self.softness().sqrt() + 3.0 * unsure;
        if spare < -margin {
            self.fast += 1.0;
        } else {
            self.fast *= 0.9;
        }
        self.since_fast = if self.fast > 0.3 { self.since_fast + 1 } else { 0 };
    }

    /// The round trip was shorter than it can be, more than once.
    pub(super) fn too_fast(&self) -> bool {
        self.fast > 1.5
    }

    /// So many late packets in a row are no chance.
    pub(super) fn too_late(&self) -> bool {
        let stray = self.stray[0].max(self.stray[1]);
        let chance = (LATE_SHARE * (1.0 - stray) + stray).max(self.usual_before).min(0.9);
        f64::from(self.late) > 16.0 / -libm::log(chance)
    }

    /// Learns the queues from what a sweep over the window saw, each way.
    pub(super) fn learn(&mut self, tallies: &[Tally; 2]) {
        let n = tallies[0].belong + tallies[1].belong;
        if n < 1.0 {
            return;
        }
        // late packets in a row may be another route: nothing is learned of the old one's queues
        if self.late < 4 {
            let queued = tallies[0].queued + tallies[1].queued;
            let common = (self.worth * self.slow + queued) / (self.worth + n);
            for d in 0..2 {
                let t = &tallies[d];
                self.mean[d] = ((4.0 * common + t.queued) / (4.0 + t.belong)).max(STAMP);
                self.stray[d] =
                    ((STRAY * STRAY_WORTH + t.stray) / (STRAY_WORTH + t.belong + t.stray)).min(0.6);
                let floor = 20.0 * self.mean[d];
                self.wide[d] = ((WIDE * self.slow + 2.0 * t.strayed) / (1.0 + t.stray)).max(floor);
            }
            self.slow += (common - self.slow) / 64.0;
            self.worth = (self.worth + 0.1).min(16.0);
        }
        let mean = (self.mean[0] + self.mean[1]) / 2.0;
        let all = self.softness();
        let noise = tallies[0].noise + tallies[1].noise;
        let sharp = all - self.soft + (SHARPEST * mean).powi(2);
        let worth = SHARP_WORTH * self.sharpness();
        let ratio = (noise + worth * sharp + 1.0 * all) / (n + worth + 1.0) / all;
        // expectation maximisation creeps; an over-relaxed step does not
        let grown = all * (ratio * ratio * ratio).clamp(0.5, 2.0);
        let least = (SHARPEST * mean).powi(2);
        let most = (self.shortest * self.shortest).max(least);
        self.soft = (grown - (all - self.soft)).clamp(least, most);
        // the nearest packets of both ways touch the edges: their middle is the server's own view
        let nearest =
            [0, 1].map(|d| tallies[d].nearest - self.mean[d] / tallies[d].belong.max(1.0));
        if nearest.iter().all(|v| v.is_finite()) {
            let share = n / 2.0;
            self.view = (
                (nearest[0] - nearest[1]) / 2.0,
                mean / share.max(1.0) + (self.softness() / share.max(1.0)).sqrt(),
            );
        }
    }
}
