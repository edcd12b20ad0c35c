//! A server: mostly right, and it speaks NTP.
use crate::engine::packet;
use crate::units::{Nanos, UtcTime};

/// How a server's clock is wrong.
#[derive(Clone, Copy, Debug)]
pub enum Truth {
    /// It is right.
    Honest,
    /// Wrong by so many seconds all the time.
    Wrong(f64),
    /// Right until this second, then wrong by so many seconds.
    Turns(f64, f64),
    /// Shows whole multiples of this many seconds only.
    Coarse(f64),
}

/// A server and what it says of itself.
#[derive(Clone, Debug)]
pub struct SimServer {
    /// How its clock is wrong.
    pub truth: Truth,
    /// Stratum it claims.
    pub stratum: u8,
    /// Reference id it claims.
    pub reference: [u8; 4],
    /// Log2 seconds of its clock's resolution.
    pub precision: i8,
    /// Root delay and root dispersion, seconds.
    pub root: (f64, f64),
}

impl SimServer {
    /// The n-th of some good servers of stratum 2.
    #[must_use]
    pub const fn good(n: u8) -> Self {
        Self {
            truth: Truth::Honest,
            stratum: 2,
            reference: [192, 0, 2, n + 1],
            precision: -23,
            root: (0.002, 0.001),
        }
    }
    /// The same with another kind of truth.
    #[must_use]
    pub const fn but(mut self, truth: Truth) -> Self {
        self.truth = truth;
        self
    }
    /// What it takes for UTC, `t` seconds after the world's start.
    #[must_use]
    pub fn clock(&self, utc: UtcTime, t: f64) -> UtcTime {
        match self.truth {
            Truth::Honest => utc,
            Truth::Wrong(by) => utc + Nanos::from_secs_f64(by),
            Truth::Turns(at, by) if t >= at => utc + Nanos::from_secs_f64(by),
            Truth::Coarse(step) => {
                let ns = ((step * 1e9) as i64).max(1);
                UtcTime::from_nanos(utc.as_nanos().div_euclid(ns) * ns)
            }
            Truth::Turns(..) => utc,
        }
    }
    /// Its reply to a request with this nonce, received and sent at these instants of its clock.
    #[must_use]
    pub fn reply(&self, nonce: u64, t2: UtcTime, t3: UtcTime) -> [u8; packet::LEN] {
        let short = |s: f64| ((s * 65_536.0) as u32).to_be_bytes();
        let mut bytes = [0; packet::LEN];
        bytes[0] = 0b00_100_100;
        bytes[1] = self.stratum;
        bytes[2] = 6;
        bytes[3] = self.precision.to_be_bytes()[0];
        bytes[4..8].copy_from_slice(&short(self.root.0));
        bytes[8..12].copy_from_slice(&short(self.root.1));
        bytes[12..16].copy_from_slice(&self.reference);
        let updated = UtcTime::from_nanos(t2.as_nanos() / 64_000_000_000 * 64_000_000_000);
        bytes[16..24].copy_from_slice(&packet::ntp(updated).to_be_bytes());
        bytes[24..32].copy_from_slice(&nonce.to_be_bytes());
        bytes[32..40].copy_from_slice(&packet::ntp(t2).to_be_bytes());
        bytes[40..48].copy_from_slice(&packet::ntp(t3).to_be_bytes());
        bytes
    }
}
