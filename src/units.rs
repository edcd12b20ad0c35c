//! The four quantities of the program, each its own type.
//!
//! Sign convention, stated here once: an *offset* is true time minus ours, so a
//! positive offset means our clock is behind and must be moved forward.
use std::fmt;
use std::ops::{Add, Neg, Sub};

/// A signed span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(i64);

/// An instant of `CLOCK_MONOTONIC_RAW`, the oscillator nobody steers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawTime(i64);

/// An instant of `CLOCK_REALTIME`, the clock we steer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UtcTime(i64);

/// A rate, in parts per million. Positive runs faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Ppm(f64);

impl Nanos {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// A span of whole nanoseconds.
    #[must_use]
    pub const fn new(ns: i64) -> Self {
        Self(ns)
    }
    /// A span of whole milliseconds.
    #[must_use]
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms * 1_000_000)
    }
    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(s: i64) -> Self {
        Self(s * 1_000_000_000)
    }
    /// Whole nanoseconds.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
    /// Seconds, for statistics only.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 * 1e-9
    }
    /// The span from seconds, rounded to a nanosecond.
    #[must_use]
    pub fn from_secs_f64(s: f64) -> Self {
        Self((s * 1e9).round() as i64)
    }
    /// The same span, positive.
    #[must_use]
    pub const fn abs(self) -> Self {
        Self(self.0.abs())
    }
    /// Half of the span.
    #[must_use]
    pub const fn half(self) -> Self {
        Self(self.0 / 2)
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0.unsigned_abs() {
            0..1_000 => return write!(f, "{:+} ns", self.0),
            1_000..1_000_000 => (1e-3, "µs"),
            1_000_000..1_000_000_000 => (1e-6, "ms"),
            _ => (1e-9, "s"),
        };
        write!(f, "{:+.3} {unit}", self.0 as f64 * value)
    }
}

impl Ppm {
    /// What `clock_adjtime` accepts in `ADJ_FREQUENCY`.
    pub const KERNEL_LIMIT: Self = Self(500.0);
    /// A rate in parts per million.
    #[must_use]
    pub const fn new(ppm: f64) -> Self {
        Self(ppm)
    }
    /// The rate of a dimensionless slope (seconds per second).
    #[must_use]
    pub fn from_slope(slope: f64) -> Self {
        Self(slope * 1e6)
    }
    /// Parts per million.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
    /// What this rate gains over `span`.
    #[must_use]
    pub fn over(self, span: Nanos) -> Nanos {
        Nanos((span.0 as f64 * self.0 * 1e-6).round() as i64)
    }
    /// The rate that gains `gain` over `span`.
    #[must_use]
    pub fn gaining(gain: Nanos, span: Nanos) -> Self {
        Self(gain.0 as f64 / span.0 as f64 * 1e6)
    }
    /// The nearest rate the kernel accepts.
    #[must_use]
    pub fn clamped(self) -> Self {
        Self(self.0.clamp(-Self::KERNEL_LIMIT.0, Self::KERNEL_LIMIT.0))
    }
    /// `struct timex.freq`: 2^-16 ppm.
    #[must_use]
    pub fn to_timex(self) -> i64 {
        (self.0 * 65_536.0).round() as i64
    }
}

impl fmt::Display for Ppm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+.3} ppm", self.0)
    }
}

macro_rules! instant {
    ($($t:ident),*) => {$(
        impl $t {
            /// The instant so many nanoseconds after this clock's epoch.
            #[must_use]
            pub const fn from_nanos(ns: i64) -> Self { Self(ns) }
            /// Nanoseconds since this clock's epoch.
            #[must_use]
            pub const fn as_nanos(self) -> i64 { self.0 }
        }
        impl Sub for $t { type Output = Nanos; fn sub(self, o: Self) -> Nanos { Nanos(self.0 - o.0) } }
        impl Add<Nanos> for $t { type Output = Self; fn add(self, d: Nanos) -> Self { Self(self.0 + d.0) } }
        impl Sub<Nanos> for $t { type Output = Self; fn sub(self, d: Nanos) -> Self { Self(self.0 - d.0) } }
    )*};
}
instant!(RawTime, UtcTime);

impl Add for Nanos {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        Self(self.0 + o.0)
    }
}
impl Sub for Nanos {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        Self(self.0 - o.0)
    }
}
impl Neg for Nanos {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}
impl Add for Ppm {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        Self(self.0 + o.0)
    }
}
impl Sub for Ppm {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        Self(self.0 - o.0)
    }
}

/// Both clocks, read back to back.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The unsteered clock.
    pub raw: RawTime,
    /// The steered clock.
    pub utc: UtcTime,
}

impl UtcTime {
    /// How far this instant stands from a raw one; the only bridge between the clocks.
    #[must_use]
    pub const fn minus_raw(self, raw: RawTime) -> Nanos {
        Nanos(self.0 - raw.0)
    }
}

impl Reading {
    /// How far the steered clock stands from the raw one.
    #[must_use]
    pub const fn utc_minus_raw(self) -> Nanos {
        self.utc.minus_raw(self.raw)
    }
    /// The raw instant of a kernel timestamp just taken.
    ///
    /// `None` when the stamp is not recent, as one from before a step is not.
    #[must_use]
    pub fn raw_at(self, stamp: UtcTime) -> Option<RawTime> {
        let age = self.utc - stamp;
        (Nanos::ZERO..Nanos::from_millis(250)).contains(&age).then(|| self.raw - age)
    }
}
