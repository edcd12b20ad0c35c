//! The kernel's clocks: read by everybody, steered by one.
//!
//! Every call goes through libc, so that whatever stands in for the C library (a clock
//! simulator loaded before it) is seen by the whole program.
use std::io;

use crate::engine::discipline::{Correction, KernelStatus};
use crate::engine::packet::Leap;
use crate::units::{Nanos, Ppm, RawTime, Reading, UtcTime};

/// A reading this tight (ns between its two raw halves) is not worth another attempt.
const TIGHT_NS: i64 = 250;
/// `struct timex.tick` of an unsteered kernel, µs per 1/100 s; one more is 100 ppm faster.
const NOMINAL_TICK: i64 = 10_000;
/// How far the kernel lets `tick` go from nominal.
const TICK_RANGE: i64 = 1_000;
/// Where the kernel itself stops counting `maxerror`, µs.
const MAX_ERROR_US: i64 = 16_000_000;
/// Bit of `CAP_SYS_TIME` in a capability set.
const CAP_SYS_TIME: u32 = 25;

fn gettime(clock: libc::clockid_t) -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the whole call.
    #[allow(unsafe_code, reason = "clock_gettime fills the timespec given")]
    let done = unsafe { libc::clock_gettime(clock, &raw mut now) };
    debug_assert_eq!(done, 0, "every Linux since 2.6.39 has these clocks");
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Now on `CLOCK_MONOTONIC_RAW`, which nobody steers.
#[must_use]
pub fn raw_now() -> RawTime {
    RawTime::from_nanos(gettime(libc::CLOCK_MONOTONIC_RAW))
}

/// Now on `CLOCK_MONOTONIC` in ns: what Python's `time.monotonic_ns()` gives.
#[must_use]
pub fn monotonic_now() -> i64 {
    gettime(libc::CLOCK_MONOTONIC)
}

/// How long the machine has been suspended since boot. The raw clock stands still meanwhile, so a
/// growth of this explains an equal jump of UTC against it.
#[must_use]
pub fn suspended() -> Nanos {
    let awake = gettime(libc::CLOCK_MONOTONIC);
    let asleep = Nanos::new(gettime(libc::CLOCK_BOOTTIME) - awake);
    // The two are read one after the other: a few microseconds are no suspend.
    if asleep < Nanos::from_millis(10) { Nanos::ZERO } else { asleep }
}

/// Both clocks, the UTC one between two raw ones: the tightest of at most five attempts.
#[must_use]
pub fn read() -> Reading {
    let mut best = (i64::MAX, Reading { raw: raw_now(), utc: UtcTime::from_nanos(0) });
    for _ in 0..5 {
        let before = gettime(libc::CLOCK_MONOTONIC_RAW);
        let utc = gettime(libc::CLOCK_REALTIME);
        let width = gettime(libc::CLOCK_MONOTONIC_RAW) - before;
        if width < best.0 {
            let raw = RawTime::from_nanos(before + width / 2);
            best = (width, Reading { raw, utc: UtcTime::from_nanos(utc) });
        }
        if width <= TIGHT_NS {
            break;
        }
    }
    best.1
}

/// What the kernel holds at this moment, read without changing anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelState {
    /// Steering rate, tick included.
    pub frequency: Ppm,
    /// `STA_UNSYNC` is clear.
    pub synchronised: bool,
    /// The kernel's own loop runs: some other program's doing, never ours.
    pub foreign_loop: bool,
    /// `maxerror`.
    pub max_error: Nanos,
    /// The leap second that is armed.
    pub leap: Leap,
}

/// The kernel clock as something to steer. Where steering is not allowed or not wanted, no call
/// is ever made that could change it.
#[derive(Debug)]
pub struct KernelClock {
    steer: bool,
    /// Written again after each step, which makes the kernel forget it.
    published: Option<KernelStatus>,
}

impl KernelClock {
    /// Opens the clock. With `steer` false, or without `CAP_SYS_TIME`, it is only watched, and the
    /// sentence says why.
    #[must_use]
    pub fn open(steer: bool) -> (Self, Option<String>) {
        let why = if !steer {
            Some("the configuration says steer = false".to_owned())
        } else if !may_set_time(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()) {
            Some("this program may not set the clock (CAP_SYS_TIME is missing)".to_owned())
        } else {
            None
        };
        (Self { steer: why.is_none(), published: None }, why)
    }

    /// Whether corrections reach the kernel. Turns false when the kernel refuses one for lack of
    /// rights, as in a container.
    #[must_use]
    pub fn can_steer(&self) -> bool {
        self.steer
    }

    /// Takes the clock over from whoever steered it: its loop off, nothing pending, the tick
    /// nominal, the frequency ours.
    ///
    /// # Errors
    /// A sentence when the kernel refuses, or when the clock is only watched.
    pub fn take_over(&mut self, frequency: Ppm) -> io::Result<()> {
        let unsynced = self.adjust(&mut timex())?.status & libc::STA_UNSYNC;
        // What a loop has yet to give is only cancelled while that loop runs.
        let mut cancel = timex();
        cancel.modes = libc::ADJ_STATUS | libc::ADJ_OFFSET;
        cancel.status = libc::STA_PLL | unsynced;
        self.adjust(&mut cancel)?;
        let mut off = timex();
        off.modes = libc::ADJ_STATUS;
        off.status = unsynced;
        self.adjust(&mut off)?;
        self.apply(Correction::Slew(Nanos::ZERO))?;
        self.apply(Correction::Frequency(frequency))
    }

    /// Leaves the clock running by itself: nothing pending, only the learned frequency.
    ///
    /// # Errors
    /// As [`Self::take_over`].
    pub fn leave_bare(&mut self, frequency: Ppm) -> io::Result<()> {
        self.apply(Correction::Slew(Nanos::ZERO))?;
        self.apply(Correction::Frequency(frequency))
    }

    /// Corrects the clock. A frequency is absolute, within ±100 050 ppm; a slew replaces what is
    /// pending, runs at 500 ppm and knows whole microseconds; a step cancels a pending slew.
    ///
    /// # Errors
    /// A sentence when the value is out of range (nothing is written then), the kernel refuses or
    /// took another value, or the clock is only watched.
    pub fn apply(&mut self, correction: Correction) -> io::Result<()> {
        let mut t = timex();
        match correction {
            Correction::Frequency(ppm) => {
                let (tick, freq) = tick_and_freq(ppm)?;
                t.modes = libc::ADJ_FREQUENCY | libc::ADJ_TICK;
                (t.tick, t.freq) = (tick, freq);
                let now = self.adjust(&mut t)?;
                if now.tick != tick || (now.freq - freq).abs() > 1 {
                    let took = ppm_of(&now);
                    return Err(io::Error::other(format!("the kernel took {took}, not {ppm}")));
                }
            }
            Correction::Slew(offset) => {
                t.modes = libc::ADJ_OFFSET_SINGLESHOT;
                t.offset = (offset.get() + offset.get().signum() * 500) / 1_000;
                self.adjust(&mut t)?;
            }
            Correction::Step(offset) => {
                t.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
                t.time.tv_sec = offset.get().div_euclid(1_000_000_000);
                t.time.tv_usec = offset.get().rem_euclid(1_000_000_000);
                self.adjust(&mut t)?;
                if let Some(status) = self.published {
                    self.publish(&status)?;
                }
            }
        }
        Ok(())
    }

    /// Tells the kernel, and so every program that asks it, how good the clock is. Kept and
    /// written again after each step. Does nothing where the clock is only watched.
    ///
    /// # Errors
    /// A sentence when the kernel refuses.
    pub fn publish(&mut self, status: &KernelStatus) -> io::Result<()> {
        self.published = Some(*status);
        if !self.steer {
            return Ok(());
        }
        let mut t = timex();
        t.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
        t.maxerror = micros_up(status.max_error);
        t.esterror = micros_up(status.est_error);
        t.status = status_bits(status);
        self.adjust(&mut t).map(drop)
    }

    /// The steering rate in force, tick included.
    ///
    /// # Errors
    /// A sentence when the kernel does not tell.
    pub fn frequency(&self) -> io::Result<Ppm> {
        self.state().map(|s| s.frequency)
    }

    /// What the kernel holds now.
    ///
    /// # Errors
    /// A sentence when the kernel does not tell.
    #[allow(clippy::unused_self, reason = "the kernel has one clock, and this is its handle")]
    pub fn state(&self) -> io::Result<KernelState> {
        let mut t = timex();
        call(&mut t)?;
        Ok(KernelState {
            frequency: ppm_of(&t),
            synchronised: t.status & libc::STA_UNSYNC == 0,
            foreign_loop: t.status & (libc::STA_PLL | libc::STA_FLL | libc::STA_PPSFREQ) != 0,
            max_error: Nanos::new(t.maxerror * 1_000),
            leap: match t.status & (libc::STA_INS | libc::STA_DEL) {
                libc::STA_INS => Leap::Insert,
                libc::STA_DEL => Leap::Delete,
                _ => Leap::None,
            },
        })
    }

    /// What is pending of a slew, in whole microseconds, without the share (at most 500 µs) of the
    /// second that runs. Zero where the kernel does not tell.
    #[cfg(test)]
    #[allow(clippy::unused_self, reason = "the kernel has one clock, and this is its handle")]
    fn slew_left(&self) -> Nanos {
        let mut t = timex();
        t.modes = libc::ADJ_OFFSET_SS_READ;
        call(&mut t).map_or(Nanos::ZERO, |()| Nanos::new(t.offset * 1_000))
    }

    /// The one gate for everything that may change the clock.
    fn adjust(&mut self, t: &mut libc::timex) -> io::Result<libc::timex> {
        if !self.steer {
            let text = "the clock is only watched: nothing may change it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        call(t).inspect_err(|e| self.steer &= e.kind() != io::ErrorKind::PermissionDenied)?;
        Ok(*t)
    }
}

/// A request that changes nothing.
fn timex() -> libc::timex {
    // SAFETY: timex is integers and padding only.
    #[allow(unsafe_code, reason = "timex has private padding and no constructor")]
    unsafe {
        std::mem::zeroed()
    }
}

fn call(t: &mut libc::timex) -> io::Result<()> {
    // SAFETY: `t` is a valid timex for the whole call.
    #[allow(unsafe_code, reason = "clock_adjtime reads and fills the timex given")]
    let state = unsafe { libc::clock_adjtime(libc::CLOCK_REALTIME, t) };
    // 0..=5 is the state of the clock (5: not synchronised), not an error.
    if state >= 0 { Ok(()) } else { Err(sentence(io::Error::last_os_error())) }
}

/// What the kernel's refusal means.
fn sentence(e: io::Error) -> io::Error {
    let text = match e.raw_os_error() {
        Some(libc::EPERM) => "the kernel does not let this program set the clock",
        Some(libc::EINVAL) => "the kernel refused the correction as out of its range",
        Some(libc::ENOSYS) => "this kernel has no clock_adjtime, or a filter hides it",
        _ => return e,
    };
    io::Error::new(e.kind(), text)
}

/// The kernel's tick (µs) and freq (2^-16 ppm) for a rate: freq alone up to its ±500 ppm, the
/// tick in steps of 100 ppm beyond.
fn tick_and_freq(ppm: Ppm) -> io::Result<(i64, i64)> {
    let beyond = ppm.get().abs() > Ppm::KERNEL_LIMIT.get();
    let ticks = if beyond { (ppm.get() / 100.0).round() } else { 0.0 };
    if !ppm.get().is_finite() || ticks.abs() > TICK_RANGE as f64 {
        let text = format!("{ppm} is beyond what the kernel can steer");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok((NOMINAL_TICK + ticks as i64, Ppm::new(ppm.get() - ticks * 100.0).to_timex()))
}

fn ppm_of(t: &libc::timex) -> Ppm {
    Ppm::new(t.freq as f64 / 65_536.0 + (t.tick - NOMINAL_TICK) as f64 * 100.0)
}

/// Whole microseconds, never less than the span, at most what the kernel counts.
fn micros_up(span: Nanos) -> i64 {
    (span.get().max(0) / 1_000 + 1).min(MAX_ERROR_US)
}

fn status_bits(status: &KernelStatus) -> libc::c_int {
    let leap = match status.leap {
        Leap::None => 0,
        Leap::Insert => libc::STA_INS,
        Leap::Delete => libc::STA_DEL,
    };
    if status.synchronised { leap } else { leap | libc::STA_UNSYNC }
}

/// Whether `/proc/self/status` lists `CAP_SYS_TIME` in the effective set.
fn may_set_time(status: &str) -> bool {
    status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> CAP_SYS_TIME & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state others see, and what only steering changes.
    fn held() -> (Ppm, bool, bool, Leap) {
        let s = KernelClock { steer: false, published: None }.state().unwrap();
        (s.frequency, s.synchronised, s.foreign_loop, s.leap)
    }

    #[test]
    fn a_clock_that_is_only_watched_refuses_every_correction_and_changes_nothing() {
        let before = held();
        let (mut clock, why) = KernelClock::open(false);
        assert!(!clock.can_steer());
        assert!(why.unwrap().contains("steer = false"));
        for correction in [
            Correction::Step(Nanos::from_secs(1)),
            Correction::Slew(Nanos::from_millis(1)),
            Correction::Frequency(Ppm::new(3.0)),
        ] {
            let e = clock.apply(correction).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
        }
        assert!(clock.take_over(Ppm::new(1.0)).is_err());
        assert!(clock.leave_bare(Ppm::new(1.0)).is_err());
        let status = KernelStatus {
            synchronised: !before.1,
            max_error: Nanos::from_millis(1),
            est_error: Nanos::from_millis(1),
            leap: Leap::Delete,
        };
        clock.publish(&status).unwrap();
        assert_eq!(clock.published, Some(status));
        assert_eq!(held(), before);
    }

    /// Every call of the kernel's that could set a clock, made while the test of this name runs in
    /// a process without `CAP_SYS_TIME`. `None` where there is no strace.
    fn calls_of(test: &str) -> Option<Vec<String>> {
        let log = tempfile::NamedTempFile::new().unwrap();
        let done = std::process::Command::new("strace")
            .args(["-f", "-e", "trace=clock_adjtime,adjtimex,clock_settime,settimeofday", "-o"])
            .arg(log.path())
            .args(["setpriv", "--bounding-set", "-sys_time", "--inh-caps", "-sys_time"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("os::clock::tests::{test}"), "--ignored"])
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&done.stdout);
        if !done.status.success() && !said.contains("running 1 test") {
            return None;
        }
        assert!(said.contains("1 passed"), "{said}");
        let log = std::fs::read_to_string(log.path()).unwrap();
        Some(log.lines().filter(|l| l.contains('(')).map(str::to_owned).collect())
    }

    #[test]
    #[ignore = "run under strace by the next test"]
    fn everything_a_watched_clock_can_be_asked() {
        let (mut clock, why) = KernelClock::open(true);
        assert!(why.unwrap().contains("CAP_SYS_TIME"));
        assert!(!clock.can_steer());
        assert!(clock.take_over(Ppm::new(1.0)).is_err());
        assert!(clock.leave_bare(Ppm::new(1.0)).is_err());
        assert!(clock.apply(Correction::Step(Nanos::from_millis(1))).is_err());
        assert!(clock.apply(Correction::Slew(Nanos::from_millis(1))).is_err());
        assert!(clock.apply(Correction::Frequency(Ppm::new(1.0))).is_err());
        let (max_error, est_error) = (Nanos::ZERO, Nanos::ZERO);
        let status = KernelStatus { synchronised: true, max_error, est_error, leap: Leap::Insert };
        clock.publish(&status).unwrap();
        clock.state().unwrap();
        let _ = clock.slew_left();
    }

    #[test]
    fn without_the_capability_no_call_is_made_that_could_change_the_clock() {
        let Some(calls) = calls_of("everything_a_watched_clock_can_be_asked") else {
            return eprintln!("no strace or setpriv here: not tested");
        };
        let reads = |l: &&String| l.contains("modes=0,") || l.contains("ADJ_OFFSET_SS_READ");
        assert_eq!(calls.iter().filter(reads).count(), 2, "the two that ask: {calls:#?}");
        assert_eq!(calls.len(), 2, "{calls:#?}");
    }

    #[test]
    fn a_frequency_up_to_500_ppm_leaves_the_tick_alone() {
        assert_eq!(tick_and_freq(Ppm::new(-500.0)).unwrap(), (10_000, -500 * 65_536));
        assert_eq!(tick_and_freq(Ppm::new(12.5)).unwrap(), (10_000, 819_200));
    }

    #[test]
    fn a_frequency_beyond_500_ppm_uses_the_tick_and_reads_back_as_itself() {
        for ppm in [500.1, 549.0, 951.0, 1_000.0, -777.7, -99_999.0, 100_000.0] {
            let mut t = timex();
            (t.tick, t.freq) = tick_and_freq(Ppm::new(ppm)).unwrap();
            assert!(t.freq.abs() <= 50 * 65_536 && t.tick != 10_000, "{ppm}: {}", t.freq);
            assert!((ppm_of(&t).get() - ppm).abs() < 2e-5, "{ppm}: {}", ppm_of(&t));
        }
    }

    #[test]
    fn a_frequency_no_kernel_takes_is_refused_before_writing() {
        for ppm in [100_051.0, -2e5, 1e300, f64::NAN, f64::INFINITY] {
            let e = tick_and_freq(Ppm::new(ppm)).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::InvalidInput, "{ppm}");
        }
    }

    #[test]
    fn errors_are_published_in_whole_microseconds_rounded_up_and_capped() {
        assert_eq!(micros_up(Nanos::new(1)), 1);
        assert_eq!(micros_up(Nanos::new(-5)), 1);
        assert_eq!(micros_up(Nanos::from_secs(99)), 16_000_000);
    }

    #[test]
    fn the_leap_second_and_the_lack_of_synchronisation_become_status_bits() {
        let status = |synchronised, leap| {
            status_bits(&KernelStatus {
                synchronised,
                max_error: Nanos::ZERO,
                est_error: Nanos::ZERO,
                leap,
            })
        };
        assert_eq!(status(true, Leap::None), 0);
        assert_eq!(status(false, Leap::Insert), libc::STA_UNSYNC | libc::STA_INS);
        assert_eq!(status(true, Leap::Delete), libc::STA_DEL);
    }

    #[test]
    fn the_capability_is_found_in_the_effective_set_only() {
        assert!(may_set_time("CapPrm:\t0000000000000000\nCapEff:\t0000000002000000\n"));
        assert!(!may_set_time("CapPrm:\t0000000002000000\nCapEff:\t000001fffdffffff\n"));
        assert!(!may_set_time("CapEff:\tnonsense\n") && !may_set_time(""));
    }

    #[test]
    fn a_refusal_is_a_sentence() {
        for (errno, word) in [(libc::EPERM, "let"), (libc::EINVAL, "range"), (libc::ENOSYS, "no")] {
            let e = sentence(io::Error::from_raw_os_error(errno));
            assert!(e.to_string().contains(word) && !e.to_string().contains("os error"), "{e}");
        }
    }

    #[test]
    fn readings_follow_each_other_and_are_tight() {
        let widest = (0..200)
            .map(|_| {
                let (a, b) = (read(), read());
                assert!(b.raw > a.raw);
                (b.utc_minus_raw() - a.utc_minus_raw()).abs()
            })
            .min()
            .unwrap();
        assert!(widest < Nanos::new(5_000), "two readings disagree by {widest}");
    }
}

#[cfg(test)]
mod steering;
