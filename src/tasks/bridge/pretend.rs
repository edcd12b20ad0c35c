//! `run --simulate`: a shooter at a timer instead of a radio.
use super::Bridge;
use crate::config::{Mode, Simulation};
use crate::sim::shooter::{Course, Fired, Habit, Heard, Radio, Shooter};
use crate::timer::command::REQ_STRING;
use crate::units::{Nanos, RawTime};
use std::collections::VecDeque;

/// How long the link is up and down by turns, if misfortunes are wanted.
const UP: Nanos = Nanos::from_secs(240);
const DOWN: Nanos = Nanos::from_secs(20);

/// The shooter, and what of the current string is still to be heard.
pub struct Pretend {
    shooter: Shooter,
    pause: Nanos,
    next: Option<RawTime>,
    coming: VecDeque<Heard>,
    /// When the link drops or is up again; never, without misfortunes.
    link_due: Option<RawTime>,
    faults: bool,
}

impl Pretend {
    pub(super) fn new(simulation: &Simulation, seed: u64, faults: bool) -> Self {
        let course = match simulation.mode {
            Mode::MultiShot => Course::MultiShot,
            Mode::SingleShot => Course::SingleShot,
            Mode::RapidFire => Course::RapidFire,
            Mode::PrecisionMatch => Course::PrecisionMatch,
            Mode::CustomSequence => Course::CustomSequence(simulation.custom_sequence.clone()),
        };
        let habit = Habit {
            course,
            num_shots: simulation.num_shots,
            shot_interval: simulation.shot_interval,
            start_delay: simulation.start_delay,
            random_timing: simulation.random_timing,
            timing_variance: simulation.timing_variance,
        };
        let radio = Radio { burst: 0.02, loss: 0.01, ..Radio::default() };
        Self {
            shooter: Shooter::new(habit, radio, seed),
            pause: simulation.string_interval,
            next: None,
            coming: VecDeque::new(),
            link_due: None,
            faults,
        }
    }

    /// When it does something next.
    pub(super) fn due(&self) -> RawTime {
        let never = RawTime::from_nanos(i64::MAX / 2);
        let said = self.coming.front().map(|h| h.at).or(self.next).unwrap_or(never);
        self.link_due.map_or(said, |at| at.min(said))
    }
}

impl Bridge {
    /// What the shooter has done since.
    pub(super) async fn pretended(&mut self, now: RawTime) {
        if self.pretend.is_none() {
            return;
        }
        if self.ahead == Nanos::ZERO {
            // The simulated crystal's raw clock began elsewhere; arrivals are on that one.
            let ahead = self.shared.read(|s| {
                let clock = s.clock.as_ref()?;
                let since = crate::os::clock::monotonic_now() - clock.monotonic_ns;
                Some(clock.reading.raw + Nanos::new(since) - crate::os::clock::raw_now())
            });
            let Some(ahead) = ahead else {
                if let Some(pretend) = &mut self.pretend {
                    pretend.next = Some(now + Nanos::from_secs(1));
                }
                return;
            };
            self.ahead = ahead;
            let now = self.now();
            if let Some(pretend) = &mut self.pretend {
                pretend.next = Some(now + Nanos::from_secs(5));
                pretend.link_due = pretend.faults.then(|| now + UP);
            }
            self.watched[0].link.stage = super::Stage::Listening(now);
            self.watched[0].bay.link_up();
            return;
        }
        self.drop_or_raise(now).await;
        let up = self.watched[0].link.is_listening();
        while let Some(heard) = self.pretend.as_mut().and_then(|p| {
            p.coming.front().is_some_and(|h| h.at <= now).then(|| p.coming.pop_front()).flatten()
        }) {
            if up {
                self.heard(0, heard.at, &heard.bytes).await;
            }
        }
        let Some(pretend) = &mut self.pretend else { return };
        if pretend.coming.is_empty() && pretend.next.is_some_and(|at| now >= at) {
            let Fired { heard, stopped, .. } = pretend.shooter.fire(now);
            pretend.coming.extend(heard);
            pretend.next = Some(stopped + pretend.pause);
        }
    }

    /// The simulated link drops and comes back.
    async fn drop_or_raise(&mut self, now: RawTime) {
        let Some(pretend) = &mut self.pretend else { return };
        if pretend.link_due.is_none_or(|at| now < at) {
            return;
        }
        let up = self.watched[0].link.is_listening();
        pretend.link_due = Some(now + if up { DOWN } else { UP });
        if !up {
            self.watched[0].link.stage = super::Stage::Subscribing;
            self.up(0, now);
        } else if self.watched[0].link.reset() {
            self.lost(0, now).await;
        }
    }

    /// The simulated timer is told something.
    pub(super) fn pretend_told(&mut self, text: &str, now: RawTime) {
        let Some(pretend) = &mut self.pretend else { return };
        match text {
            REQ_STRING => pretend.coming.extend(pretend.shooter.list(now)),
            "COM START" => pretend.next = pretend.next.map(|_| now),
            _ => {}
        }
    }
}
