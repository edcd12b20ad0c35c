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
    /// The span to three digits at most, for sentences that should not change at every poll.
    #[must_use]
    pub const fn rounded(self) -> Self {
        let magnitude = self.0.unsigned_abs();
        let unit = match magnitude {
            0..1_000_000 => 1_000,
            1_000_000..1_000_000_000 => 1_000_000,
            _ => 1_000_000_000,
        };
        Self((self.0 + self.0.signum() * unit / 2) / unit * unit)
    }
    /// Microseconds, for JSON and logs.
    #[must_use]
    pub fn as_micros_f64(self) -> f64 {
        self.0 as f64 * 1e-3
    }
    /// Milliseconds, for people.
    #[must_use]
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 * 1e-6
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

/// Year, month and day of a count of days since 1970 (proleptic Gregorian).
#[must_use]
pub const fn civil(days: i64) -> (i64, u8, u8) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u8;
    let month = (if mp < 10 { mp + 3 } else { mp - 9 }) as u8;
    (yoe + era * 400 + (month <= 2) as i64, month, day)
}

/// Days since 1970 of a date (proleptic Gregorian).
#[must_use]
pub const fn days_of(year: i64, month: u8, day: u8) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let m = month as i64;
    let doy = (153 * (if m > 2 { m - 3 } else { m + 9 }) + 2) / 5 + day as i64 - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

impl UtcTime {
    /// ISO 8601 with `decimals` digits of the second (0..9) and a `Z`.
    #[must_use]
    pub fn iso(self, decimals: usize) -> String {
        let (days, ns) =
            (self.0.div_euclid(86_400_000_000_000), self.0.rem_euclid(86_400_000_000_000));
        let (year, month, day) = civil(days);
        let s = ns / 1_000_000_000;
        let mut text = format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            s / 3600,
            s / 60 % 60,
            s % 60
        );
        let decimals = decimals.min(9);
        if decimals > 0 {
            let fraction = format!("{:09}", ns % 1_000_000_000);
            text.push('.');
            text.push_str(&fraction[..decimals]);
        }
        text.push('Z');
        text
    }

    /// Reads ISO 8601 in UTC: `2026-11-22T09:00:05Z`, a blank for the `T`, fractions to ns, the `Z` optional.
    ///
    /// `None` when it is not such a date, or one that does not exist.
    #[must_use]
    pub fn from_iso(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")).unwrap_or(text);
        let (date, time) = text.split_once(['T', ' '])?;
        let mut date = date.split('-');
        let (year, month, day) = (date.next()?, date.next()?, date.next()?);
        let mut clock = time.split(':');
        let (hour, minute, second) = (clock.next()?, clock.next()?, clock.next().unwrap_or("0"));
        if date.next().is_some() || clock.next().is_some() || year.len() != 4 {
            return None;
        }
        let number = |t: &str, max: i64| {
            (!t.is_empty() && t.len() <= 4 && t.bytes().all(|b| b.is_ascii_digit()))
                .then(|| t.parse::<i64>().ok())
                .flatten()
                .filter(|n| *n <= max)
        };
        let (whole, fraction) = second.split_once('.').unwrap_or((second, "0"));
        if fraction.is_empty()
            || fraction.len() > 9
            || !fraction.bytes().all(|b| b.is_ascii_digit())
        {
            return None;
        }
        let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
        let (year, month, day) = (number(year, 2261)?, number(month, 12)?, number(day, 31)?);
        let days = days_of(year, month as u8, day as u8);
        if civil(days) != (year, month as u8, day as u8) || year < 1678 {
            return None;
        }
        let s = number(hour, 23)? * 3600 + number(minute, 59)? * 60 + number(whole, 59)?;
        Some(Self((days * 86_400 + s) * 1_000_000_000 + nanos))
    }

    /// Whether a leap second may end this day: the last of June or December.
    #[must_use]
    pub fn is_leap_day(self) -> bool {
        let (_, month, day) = civil(self.0.div_euclid(86_400_000_000_000));
        (month, day) == (6, 30) || (month, day) == (12, 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_and_read_back() {
        let t = UtcTime::from_nanos(1_795_344_000_123_456_789);
        assert_eq!(t.iso(9), "2026-11-22T10:40:00.123456789Z");
        assert_eq!(t.iso(0), "2026-11-22T10:40:00Z");
        assert_eq!(UtcTime::from_iso("2026-11-22T10:40:00.123456789Z"), Some(t));
        assert_eq!(UtcTime::from_iso("2026-11-22 10:40:00"), Some(t - Nanos::new(123_456_789)));
        for days in [-200_000, -1, 0, 59, 60, 11_016, 20_000, 60_000] {
            let (y, m, d) = civil(days);
            assert_eq!(days_of(y, m, d), days);
        }
    }

    #[test]
    fn what_is_not_a_date_is_not_read() {
        for bad in [
            "",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "x",
            "2026-11-22",
            "2026-11-22T24:00:00",
            "20261-1-1T0:0:0",
            "2026-11-22T10:40:00.Z",
        ] {
            assert_eq!(UtcTime::from_iso(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_the_last_of_june_and_december_can_end_with_a_leap_second() {
        let day = |t: &str| UtcTime::from_iso(t).unwrap().is_leap_day();
        assert!(day("2026-06-30T12:00:00Z") && day("2026-12-31T23:59:59Z"));
        assert!(!day("2026-07-01T00:00:00Z") && !day("2026-11-25T00:00:00Z"));
    }
}
