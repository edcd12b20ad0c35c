//! What the kernel is asked to do, and when it may be asked: the table of states and steps.
//!
//! | | before settled | after settled | under a lock (a slew under way is stopped) |
//! |---|---|---|---|
//! | over 20 ms | step | slew at 500 ppm; over 1 s one step if a verified majority insists for 5 min | frequency within ±1 ppm only |
//! | up to 20 ms | slew | slew | frequency within ±1 ppm only |
//! | foreign step | judged by servers | undone once servers confirm; three in an hour freeze | later |
use super::Output;
use super::estimator::Estimate;
pub use super::packet::Leap;
use crate::units::{Nanos, Ppm, RawTime, Reading};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The kernel's `adjtime` works an offset off at this rate.
const KERNEL_SLEW: Ppm = Ppm::new(500.0);
/// Around a leap second nothing is measured and nothing corrected: clocks and servers are not of
/// one mind.
pub const LEAP_CALM: Nanos = Nanos::from_secs(2);
/// A jump of (realtime − raw) beyond this is somebody's doing.
const FOREIGN: Nanos = Nanos::from_millis(8);
/// Between samples a smaller offset is not worth a system call.
const FOLLOWED: Nanos = Nanos::new(20_000);
const HOUR: Nanos = Nanos::from_secs(3600);
const DAY_SECONDS: i64 = 86_400;

/// What the kernel is asked to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Correction {
    /// Jump by this much. Never repeated.
    Step(Nanos),
    /// Work this much off at 500 ppm; replaces what is pending.
    Slew(Nanos),
    /// Run at this rate from now on; absolute, may be repeated.
    Frequency(Ppm),
}

/// What the kernel tells others about its clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelStatus {
    /// Clears or sets STA_UNSYNC.
    pub synchronised: bool,
    /// `maxerror`.
    pub max_error: Nanos,
    /// `esterror`.
    pub est_error: Nanos,
    /// Leap second armed for the end of today.
    pub leap: Leap,
}

/// The operator's bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Above this, before settled: step.
    pub step_above: Nanos,
    /// Above this, after settled: only a verified majority that insists may step.
    pub step_after: Nanos,
    /// How long it must insist.
    pub insist: Nanos,
    /// Steps allowed in 24 h after the first.
    pub budget: Nanos,
    /// Frequency changes allowed under a lock.
    pub lock_frequency: Ppm,
    /// Largest frequency ever told to the kernel.
    pub max_frequency: Ppm,
    /// So many operators must agree for the time to be verified.
    pub min_agreeing: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            step_above: Nanos::from_millis(20),
            step_after: Nanos::from_secs(1),
            insist: Nanos::from_secs(300),
            budget: HOUR,
            lock_frequency: Ppm::new(1.0),
            max_frequency: Ppm::new(6_000.0), // a crystal 0.5 % slow wants 5 025
            min_agreeing: 2,
        }
    }
}

/// A step that still counts against the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// When, s since 1970.
    pub at_s: i64,
    /// How much, ns, positive.
    pub span_ns: i64,
}

/// Somebody holds the clock still. A lease: it ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Who.
    pub name: String,
    /// When it ends.
    pub until: RawTime,
}

/// Why a correction that is wanted is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A second or more, and no two operators agree on it.
    Unverified(Nanos),
    /// A verified majority wants it by this much, and has not insisted for as long as this.
    Waiting(Nanos, Nanos),
    /// More than the budget of a day.
    Budget(Nanos),
    /// Somebody keeps setting the clock.
    Foreign,
    /// Every server that answers gives a date outside what is possible.
    Date(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unverified(by) => write!(
                f,
                "the time jumped by {by} and no second operator confirms it; not followed"
            ),
            Self::Waiting(by, insist) => write!(
                f,
                "the servers jumped by {by}; followed only if they insist for {:.0} min",
                insist.as_secs_f64() / 60.0
            ),
            Self::Budget(by) => {
                write!(f, "a step of {by} is more than the steps allowed in a day; not followed")
            }
            Self::Date(date) => write!(
                f,
                "every server that answers says it is {date}, which cannot be; not followed"
            ),
            Self::Foreign => f.write_str(
                "another program set the clock three times within an hour; steering stopped, \
                 find and stop that program",
            ),
        }
    }
}

/// The kernel clock as we left it, and what may be done to it.
#[derive(Clone, Debug)]
pub struct Discipline {
    /// The operator's bounds.
    pub limits: Limits,
    /// First synchronisation of this boot is done.
    pub settled: bool,
    /// Who holds the clock still.
    pub locks: Vec<Lock>,
    /// The frequency last told to the kernel.
    pub told: Ppm,
    /// Sum of corrections.
    pub corrected: Nanos,
    /// Steps made.
    pub steps: u64,
    /// Steps that still count.
    pub spent: Vec<Spent>,
    /// Since when the majority wants to leave the timeline, and by how much.
    pub insisted: Option<(RawTime, Nanos)>,
    /// The kernel is to make a leap second at this instant, and the clock jumps by so much then.
    pub leap: Option<(RawTime, Nanos)>,
    locked_at: Ppm,
    ledger: Option<Ledger>,
    foreign: Vec<(RawTime, Nanos)>,
    undo: Option<Nanos>,
    allowed: Option<(RawTime, Permit)>,
}

/// Why a settled clock may be stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// The operator wants it.
    Order,
    /// A verified majority left the timeline by more than this.
    Insistence(Nanos),
}

/// Where (realtime − raw) must stand if nobody but us touched the clock.
#[derive(Clone, Copy, Debug)]
struct Ledger {
    at: RawTime,
    utc_minus_raw: Nanos,
    slew: Nanos,
}

impl Ledger {
    /// Expected (realtime − raw) at `now`, and the part of the slew still pending.
    fn expect(&self, now: RawTime, told: Ppm) -> (Nanos, Nanos) {
        let span = now - self.at;
        let most = KERNEL_SLEW.over(span).get().max(0);
        let done = Nanos::new(self.slew.get().clamp(-most, most));
        (self.utc_minus_raw + told.over(span) + done, self.slew - done)
    }
}

impl Discipline {
    /// Nothing held, nothing done.
    #[must_use]
    pub fn new(limits: Limits, settled: bool) -> Self {
        Self {
            limits,
            settled,
            locks: Vec::new(),
            told: Ppm::new(0.0),
            corrected: Nanos::ZERO,
            steps: 0,
            spent: Vec::new(),
            insisted: None,
            leap: None,
            locked_at: Ppm::new(0.0),
            ledger: None,
            foreign: Vec::new(),
            undo: None,
            allowed: None,
        }
    }

    /// Whether somebody holds the clock still.
    #[must_use]
    pub fn locked(&self) -> bool {
        !self.locks.is_empty()
    }

    /// Begins or renews a lock.
    pub fn lock(&mut self, name: &str, until: RawTime) {
        if self.locks.is_empty() {
            self.locked_at = self.told;
        }
        match self.locks.iter_mut().find(|l| l.name == name) {
            Some(l) => l.until = until,
            None => self.locks.push(Lock { name: name.to_owned(), until }),
        }
    }

    /// Stops the slew that is under way: under a lock the clock is held still. What is left of it
    /// is corrected afterwards.
    pub fn hold(&mut self, now: Reading, out: &mut Vec<Output>) {
        let Some(ledger) = &mut self.ledger else { return };
        if ledger.slew != Nanos::ZERO {
            self.corrected = self.corrected - ledger.slew;
            *ledger = Ledger { at: now.raw, utc_minus_raw: now.utc_minus_raw(), slew: Nanos::ZERO };
            out.push(Output::Steer(Correction::Slew(Nanos::ZERO)));
        }
    }

    /// Ends a lock; whether there was one.
    pub fn unlock(&mut self, name: &str) -> bool {
        let before = self.locks.len();
        self.locks.retain(|l| l.name != name);
        before != self.locks.len()
    }

    /// Drops the locks whose time is over, by name.
    pub fn expire(&mut self, now: RawTime) -> Vec<String> {
        let over = |l: &&Lock| l.until <= now;
        let names = self.locks.iter().filter(over).map(|l| l.name.clone()).collect();
        self.locks.retain(|l| l.until > now);
        names
    }

    /// Compares the clock with where we left it; a jump is somebody else's.
    pub fn observe(&mut self, now: Reading, steering: bool) -> Option<Nanos> {
        let here = now.utc_minus_raw();
        let told = if steering { self.told } else { Ppm::new(0.0) };
        let Some(ledger) = self.ledger else {
            self.ledger = Some(Ledger { at: now.raw, utc_minus_raw: here, slew: Nanos::ZERO });
            return None;
        };
        let (expected, slew) = ledger.expect(now.raw, told);
        let span = now.raw - ledger.at;
        // Without the right to steer somebody else may; its slewing is not a jump.
        let slack = FOREIGN + Ppm::new(if steering { 50.0 } else { 1_000.0 }).over(span);
        let mut jump = here - expected;
        if let Some((at, by)) = self.leap
            && now.raw + LEAP_CALM > at
            && ledger.at < at + LEAP_CALM
            && (jump - by).abs() <= slack
        {
            jump = jump - by;
            self.leap = None;
        }
        self.ledger = Some(Ledger { at: now.raw, utc_minus_raw: here, slew });
        if jump.abs() <= slack {
            return None;
        }
        if self.settled {
            self.foreign.retain(|(at, _)| now.raw - *at < HOUR);
            self.foreign.push((now.raw, jump));
            self.undo = Some(self.undo.unwrap_or(Nanos::ZERO) + jump);
        }
        Some(jump)
    }

    /// The raw clock missed a sleep: expectations are void, and the boot is unsettled again.
    pub fn slept(&mut self, now: Reading) {
        self.ledger =
            Some(Ledger { at: now.raw, utc_minus_raw: now.utc_minus_raw(), slew: Nanos::ZERO });
        self.settled = false;
        self.undo = None;
    }

    /// Sums and counters from zero.
    pub fn reset_totals(&mut self) {
        self.corrected = Nanos::ZERO;
    }

    /// The operator takes responsibility: foreign steps are forgiven, the budget is fresh.
    pub fn pardon(&mut self) {
        self.foreign.clear();
        self.undo = None;
        self.spent.clear();
    }

    /// Nobody has set the clock without it being judged yet.
    #[must_use]
    pub fn undisturbed(&self) -> bool {
        self.undo.is_none()
    }

    /// The reading as it is after what has been ordered at this moment: a step changed it.
    #[must_use]
    pub fn ordered(&self, now: Reading) -> Reading {
        match self.ledger.filter(|l| l.at == now.raw) {
            Some(l) => Reading { utc: now.utc + (l.utc_minus_raw - now.utc_minus_raw()), ..now },
            None => now,
        }
    }

    /// The next correction may be a step.
    pub fn allow_step(&mut self, now: RawTime, permit: Permit) {
        self.allowed = Some((now, permit));
    }

    /// Whether a verified majority that wants to leave the timeline by `by` may do so now.
    ///
    /// # Errors
    /// Why not, or not yet.
    pub fn insist(
        &mut self,
        now: Reading,
        by: Nanos,
        step: Nanos,
        verified: bool,
    ) -> Result<(), Refusal> {
        if !verified {
            self.insisted = None;
            return Err(Refusal::Unverified(by.rounded()));
        }
        if !self.affordable(now, step) {
            return Err(Refusal::Budget(by.rounded()));
        }
        let since = match self.insisted {
            Some((since, before)) if (before - by).abs() < self.limits.step_after => since,
            _ => {
                self.insisted = Some((now.raw, by));
                now.raw
            }
        };
        if now.raw - since < self.limits.insist {
            return Err(Refusal::Waiting(by.rounded(), self.limits.insist));
        }
        self.insisted = None;
        Ok(())
    }

    fn affordable(&mut self, now: Reading, step: Nanos) -> bool {
        let today = now.utc.as_nanos().div_euclid(1_000_000_000);
        self.spent.retain(|s| (today - s.at_s).abs() < DAY_SECONDS);
        let spent: i64 = self.spent.iter().map(|s| s.span_ns).fold(0, i64::saturating_add);
        spent.saturating_add(step.abs().get()) <= self.limits.budget.get()
    }

    /// The corrections for `estimate` at `now`; a refusal when one is wanted and not allowed.
    pub fn decide(
        &mut self,
        now: Reading,
        estimate: &Estimate,
        offset: Nanos,
        verified: bool,
        out: &mut Vec<Output>,
    ) -> Option<Refusal> {
        let wanted = self.allowed_frequency(estimate);
        if self.locked() {
            self.tune(wanted, out);
            return None;
        }
        if self.foreign.len() >= 3 && self.foreign.iter().all(|(at, _)| now.raw - *at < HOUR) {
            return Some(Refusal::Foreign);
        }
        let undo = self.undo.take();
        let allowed = self.allowed.take();
        let allowed =
            allowed.filter(|(at, _)| now.raw - *at < Nanos::from_secs(60)).map(|(_, p)| p);
        let step = if !self.settled {
            offset.abs() > self.limits.step_above
        } else if let Some(jump) = undo.filter(|j| j.abs() > self.limits.step_above) {
            // Servers confirm: the offset is what the stranger's jump made of it.
            (offset + jump).abs() < self.limits.step_above + Nanos::new(jump.abs().get() / 8)
                && offset.abs() > self.limits.step_above
        } else {
            let above = |permit| match permit {
                Permit::Order => self.limits.step_above,
                Permit::Insistence(above) => above,
            };
            allowed.is_some_and(|permit| offset.abs() > above(permit))
        };
        // A leap second that a lock kept from the kernel is slewed.
        if self.settled && !step && offset.abs() > self.limits.step_after + self.limits.step_above {
            // Left for the caller: only insistence moves the clock this far.
            return match self.insist(now, offset, offset, verified) {
                Ok(()) => {
                    self.step(now, offset, true, "correcting a jump", out);
                    self.tune(wanted, out);
                    None
                }
                Err(refusal) => Some(refusal),
            };
        }
        self.insisted = None;
        let charged = self.settled && undo.is_none();
        // What was insisted on may be a little more by now; the operator's order is not counted.
        let insisted = matches!(allowed, Some(Permit::Insistence(_)));
        if step && charged && insisted && !self.affordable(now, offset) {
            return Some(Refusal::Budget(offset.rounded()));
        }
        self.tune(wanted, out);
        if step {
            let why = if self.settled { "correcting a jump" } else { "first synchronisation" };
            self.step(now, offset, charged, why, out);
        } else {
            self.slew(now, offset, out);
        }
        self.settled = true;
        None
    }

    /// Keeps the clock on an estimate that moves without a new sample: the crystal got warmer. What
    /// is more than that waits for the servers.
    pub fn follow(
        &mut self,
        now: Reading,
        estimate: &Estimate,
        offset: Nanos,
        out: &mut Vec<Output>,
    ) {
        let wanted = self.allowed_frequency(estimate);
        let quiet = (wanted - self.told.get()).abs() < 0.005 && offset.abs() < FOLLOWED;
        if quiet || !self.settled || self.undo.is_some() || offset.abs() > self.limits.step_above {
            return;
        }
        self.tune(wanted, out);
        if !self.locked() {
            self.slew(now, offset, out);
        }
    }

    /// The estimate's frequency as far as the limits, and a lock, allow it; ppm.
    fn allowed_frequency(&self, estimate: &Estimate) -> f64 {
        let limit = self.limits.max_frequency.get();
        let wanted = estimate.frequency.get().clamp(-limit, limit);
        if !self.locked() {
            return wanted;
        }
        let (at, by) = (self.locked_at.get(), self.limits.lock_frequency.get());
        wanted.clamp(at - by, at + by)
    }

    fn tune(&mut self, ppm: f64, out: &mut Vec<Output>) {
        let frequency = Ppm::new(ppm);
        // The kernel counts in 2⁻¹⁶ ppm.
        if (ppm - self.told.get()).abs() > 2e-5 {
            self.told = frequency;
            out.push(Output::Steer(Correction::Frequency(frequency)));
        }
    }

    /// Sets a clock that is not settled yet to what somebody said; it stays unsettled.
    pub fn set_by_hand(&mut self, now: Reading, offset: Nanos, out: &mut Vec<Output>) {
        if offset.abs() > self.limits.step_above {
            self.step(now, offset, false, "set by hand", out);
        } else if !self.locked() {
            self.slew(now, offset, out);
        }
    }

    /// Somebody set the clock to a time that is past for certain: it goes on as it was.
    pub fn put_back(&mut self, now: Reading, offset: Nanos, out: &mut Vec<Output>) {
        if !self.locked() {
            self.step(now, offset, false, "it was set to a time that is past", out);
        }
    }

    fn step(
        &mut self,
        now: Reading,
        offset: Nanos,
        charged: bool,
        why: &'static str,
        out: &mut Vec<Output>,
    ) {
        if charged {
            let at_s = now.utc.as_nanos().div_euclid(1_000_000_000);
            self.spent.push(Spent { at_s, span_ns: offset.abs().get() });
        }
        self.steps += 1;
        self.corrected = self.corrected + offset;
        let there = now.utc_minus_raw() + offset;
        self.ledger = Some(Ledger { at: now.raw, utc_minus_raw: there, slew: Nanos::ZERO });
        out.push(Output::Steer(Correction::Slew(Nanos::ZERO)));
        out.push(Output::Steer(Correction::Step(offset)));
        out.push(Output::Tell(super::Event::Stepped(offset, why)));
    }

    fn slew(&mut self, now: Reading, offset: Nanos, out: &mut Vec<Output>) {
        // The kernel counts microseconds; half of one is not worth a system call.
        let pending = self.ledger.map_or(Nanos::ZERO, |l| l.slew);
        if offset.abs() < Nanos::new(500) && pending == Nanos::ZERO {
            return;
        }
        // One moment, one correction: what is under way is neither ordered nor told again.
        if self.ledger.is_some_and(|l| l.at == now.raw && l.slew == offset) {
            return;
        }
        self.corrected = self.corrected + offset - pending;
        let here = now.utc_minus_raw();
        self.ledger = Some(Ledger { at: now.raw, utc_minus_raw: here, slew: offset });
        out.push(Output::Steer(Correction::Slew(offset)));
    }
}
