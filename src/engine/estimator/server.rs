//! What is known of a server's paths: how long its queues are, and how sharp their edge is.
use super::ServerId;
pub(super) use super::member::SLOTS;
use super::site::Queue;

/// One server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    pub id: Option<ServerId>,
    /// Samples heard so far.
    pub heard: u32,
    /// When the last one was.
    pub last: f64,
    /// Shortest round trip so far, s.
    shortest: f64,
    /// Mean queue, out and home, s.
    mean: [f64; 2],
    /// A slow mean of it, and how many samples it is worth.
    slow: f64,
    worth: f64,
    precision: f64,
}

/// Time stamps themselves are not better than this, s.
const STAMP: f64 = 1e-6;

impl Server {
    pub(super) const NONE: Self = Self {
        id: None,
        heard: 0,
        last: 0.0,
        shortest: 0.0,
        mean: [1e-3; 2],
        slow: 1e-3,
        worth: 2.0,
        precision: 0.0,
    };

    /// Hears a sample, whether it counts or not.
    pub(super) fn hear(&mut self, t: f64, most: &[f64; 2], precision: f64) {
        let delay = (most[0] + most[1]).max(0.0);
        self.heard += 1;
        self.last = t;
        self.precision = precision;
        if self.heard == 1 {
            self.shortest = delay;
            self.slow = (0.12 * delay).max(STAMP);
            self.mean = [self.slow; 2];
        }
        self.shortest = self.shortest.min(delay);
    }

    /// What is believed of the base delay (one way) before anything is learned: mean, variance.
    pub(super) fn first_base(&self) -> (f64, f64) {
        let half = self.shortest / 2.0;
        (half - self.slow, (half * half / 4.0).max(1e-10))
    }

    /// The queues, out and home.
    pub(super) fn queues(&self) -> [Queue; 2] {
        let soft = STAMP * STAMP + self.precision * self.precision / 3.0;
        self.mean.map(|mean| Queue { mean, soft: soft + (0.02 * mean) * (0.02 * mean) })
    }

    /// Variance the base delay gains per second.
    pub(super) fn base_walk(&self) -> f64 {
        let per_hour = 0.004 * (self.mean[0] + self.mean[1]) / 2.0;
        per_hour * per_hour / 3600.0
    }

    /// Learns the queues from what the window shows: sum and number of packets, each way.
    pub(super) fn queue(&mut self, sums: &[(f64, f64); 2]) {
        let n = sums[0].1 + sums[1].1;
        if n < 1.0 {
            return;
        }
        let common = (self.worth * self.slow + sums[0].0 + sums[1].0) / (self.worth + n);
        for (mean, sum) in self.mean.iter_mut().zip(sums) {
            *mean = ((4.0 * common + sum.0) / (4.0 + sum.1)).max(STAMP);
        }
        self.slow += (common - self.slow) / 64.0;
        self.worth = (self.worth + 0.1).min(16.0);
    }
}
