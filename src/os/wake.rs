//! The one alarm clock of the program.
//!
//! A single timer of the kernel, on the steered clock because the raw one cannot arm any, and
//! told when somebody sets it. Plain sleeping where the kernel has no such timer.
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::os::clock;
use crate::units::{Nanos, RawTime};

/// Why the wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The time has come.
    Due,
    /// The clock was set, or the machine woke up from a suspend.
    ClockSet,
}

/// A timer of the kernel as tokio wants to see it.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The alarm clock.
#[derive(Debug)]
pub struct Wake {
    timer: Option<AsyncFd<Timer>>,
}

impl Default for Wake {
    fn default() -> Self {
        Self::new()
    }
}

impl Wake {
    /// The kernel's timer, or plain sleeping where there is none. Must be called within the
    /// runtime.
    #[must_use]
    pub fn new() -> Self {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags).ok();
        // SAFETY: `Timer` owns its descriptor and always shows the same one.
        #[allow(unsafe_code, reason = "tokio trusts AsRawFd to show an open descriptor")]
        let timer = timer.and_then(|t| unsafe {
            AsyncFd::register_with_interest(Timer(t), Interest::READABLE).ok()
        });
        Self { timer }
    }

    /// Waits until the raw clock shows `when` (for ever without one), or the clock is set. May be
    /// dropped and called again: a setting in between is still told.
    pub async fn until(&mut self, when: Option<RawTime>) -> Woken {
        while let Some(timer) = &self.timer {
            match wait(timer, when).await {
                Ok(woken) => return woken,
                // Armed on a clock that is slewed forward: early by its share.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.timer = None,
            }
        }
        match when {
            None => std::future::pending().await,
            Some(when) => loop {
                let left = left_until(when);
                if left == Duration::ZERO {
                    return Woken::Due;
                }
                tokio::time::sleep(left).await;
            },
        }
    }
}

fn left_until(when: RawTime) -> Duration {
    let left = when.as_nanos().saturating_sub(clock::raw_now().as_nanos());
    Duration::from_nanos(u64::try_from(left).unwrap_or(0))
}

/// `Err(Interrupted)` when it fired too early.
async fn wait(timer: &AsyncFd<Timer>, when: Option<RawTime>) -> io::Result<Woken> {
    let now = clock::read();
    // Without a time the timer is armed all the same, for only an armed one tells of a set clock.
    let span = when.map_or(Nanos::from_secs(3_000_000_000), |w| w - now.raw);
    if span <= Nanos::ZERO {
        return Ok(Woken::Due);
    }
    let at = now.utc.as_nanos().saturating_add(span.get()).max(1);
    let at = TimeSpec::new(at.div_euclid(1_000_000_000), at.rem_euclid(1_000_000_000));
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    match timer.get_ref().0.set(Expiration::OneShot(at), flags) {
        // Set since it was armed last; it is armed again nevertheless.
        Err(nix::Error::ECANCELED) => return Ok(Woken::ClockSet),
        other => other?,
    }
    let mut expirations = [0; 8];
    let fired = loop {
        let mut ready = timer.readable().await?;
        if let Ok(fired) =
            ready.try_io(|t| Ok(nix::unistd::read(&t.get_ref().0, &mut expirations)?))
        {
            // Read empty: nothing comes before it is armed again.
            ready.clear_ready();
            break fired;
        }
    };
    match fired {
        Ok(_) if when.is_some_and(|w| left_until(w) > Duration::ZERO) => {
            Err(io::ErrorKind::Interrupted.into())
        }
        Ok(_) => Ok(Woken::Due),
        Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => Ok(Woken::ClockSet),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_runtime<F: Future>(test: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    async fn wakes_on_time(wake: &mut Wake) {
        for span in [Nanos::from_millis(30), Nanos::from_millis(2), Nanos::from_secs(-5)] {
            let when = clock::raw_now() + span;
            assert_eq!(wake.until(Some(when)).await, Woken::Due);
            let late = clock::raw_now() - when;
            assert!(late >= Nanos::ZERO, "{late} early");
            assert!(late < Nanos::from_secs(3) || span < Nanos::ZERO, "{late} late");
        }
    }

    #[test]
    fn it_wakes_when_the_time_has_come_with_a_kernel_timer() {
        on_runtime(async {
            let mut wake = Wake::new();
            assert!(wake.timer.is_some());
            wakes_on_time(&mut wake).await;
        });
    }

    #[test]
    fn it_wakes_when_the_time_has_come_without_a_kernel_timer() {
        on_runtime(wakes_on_time(&mut Wake { timer: None }));
    }

    #[test]
    fn without_a_time_it_sleeps_on_and_can_be_dropped_and_armed_again() {
        for sleeping in [false, true] {
            on_runtime(async {
                let mut wake = if sleeping { Wake { timer: None } } else { Wake::new() };
                let short = Duration::from_millis(30);
                assert!(tokio::time::timeout(short, wake.until(None)).await.is_err());
                let far = clock::raw_now() + Nanos::from_secs(1_000);
                assert!(tokio::time::timeout(short, wake.until(Some(far))).await.is_err());
                wakes_on_time(&mut wake).await;
            });
        }
    }
}
