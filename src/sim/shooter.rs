//! A shooter, a timer and the radio between it and the host. Pure and seeded.
//!
//! The timer has the real one's manners: the start frame goes out at the beep with the last
//! string's leftovers in it, times are cut to hundredths, the stop repeats the last shot 0.8-5.3 s
//! later, and everything waits for the next connection event, again for each retry.
use super::random::Random;
use crate::units::{Nanos, RawTime};

/// What is shot, as the original's simulation mode knew it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Course {
    /// `num_shots`, one each `shot_interval`.
    #[default]
    MultiShot,
    /// One.
    SingleShot,
    /// `num_shots`, an eighth of the interval apart, not below 150 ms.
    RapidFire,
    /// `num_shots`, five intervals apart.
    PrecisionMatch,
    /// At these times since the beep.
    CustomSequence(Vec<Nanos>),
}

/// How it is shot.
#[derive(Clone, Debug, PartialEq)]
pub struct Habit {
    /// What.
    pub course: Course,
    /// Shots of a string, 1..150.
    pub num_shots: u32,
    /// Between two shots.
    pub shot_interval: Nanos,
    /// From the button to the beep.
    pub start_delay: Nanos,
    /// Times vary.
    pub random_timing: bool,
    /// By so much each way.
    pub timing_variance: Nanos,
}

impl Default for Habit {
    /// The original's values.
    fn default() -> Self {
        Self {
            course: Course::MultiShot,
            num_shots: 5,
            shot_interval: Nanos::from_secs(2),
            start_delay: Nanos::from_secs(3),
            random_timing: false,
            timing_variance: Nanos::from_millis(500),
        }
    }
}

/// The radio between timer and host.
#[derive(Clone, Debug, PartialEq)]
pub struct Radio {
    /// Connection interval, ms.
    pub interval_ms: f64,
    /// The radio's crystal against the host's, ppm.
    pub rate_ppm: f64,
    /// Chance that a frame waits for one more event, outside a burst.
    pub retry: f64,
    /// Chance per frame that a burst of trouble (Wi-Fi on the same antenna) begins.
    pub burst: f64,
    /// Chance of a retry within a burst.
    pub burst_retry: f64,
    /// Chance that a frame is never heard.
    pub loss: f64,
    /// Chance that a frame is heard twice.
    pub twice: f64,
    /// Scatter of the host's stamp, ms (sd).
    pub jitter_ms: f64,
    /// How much later than that a busy host stamps in the mean, ms (exponential).
    pub busy_ms: f64,
    /// Fixed delay of START frames.
    pub start_delay: Nanos,
    /// Fixed delay of SHOT frames: d0.
    pub shot_delay: Nanos,
}

impl Default for Radio {
    /// As measured on a Pi: 48.75 ms, 15 % retries, SHOT frames 40 ms behind START frames.
    fn default() -> Self {
        Self {
            interval_ms: 48.75,
            rate_ppm: 8.0,
            retry: 0.15,
            burst: 0.0,
            burst_retry: 0.6,
            loss: 0.0,
            twice: 0.0,
            jitter_ms: 0.4,
            busy_ms: 0.0,
            start_delay: Nanos::ZERO,
            shot_delay: Nanos::from_millis(40),
        }
    }
}

/// A frame as the host hears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When.
    pub at: RawTime,
    /// What.
    pub bytes: Vec<u8>,
}

/// What really happened, and what was heard of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// The timer's number for the string.
    pub number: u16,
    /// The beep.
    pub beep: RawTime,
    /// The shots.
    pub shots: Vec<RawTime>,
    /// In the order heard.
    pub heard: Vec<Heard>,
    /// The stop frame was sent at that instant.
    pub stopped: RawTime,
}

/// A shooter at a timer.
#[derive(Clone, Debug)]
pub struct Shooter {
    habit: Habit,
    radio: Radio,
    random: Random,
    /// One connection event, ms on the raw clock.
    phase_ms: f64,
    bursting: bool,
    last_event_ms: f64,
    last_stamp_ms: f64,
    number: u16,
    left_over: [u8; 12],
    times: Vec<u16>,
}

impl Shooter {
    /// The same seed shoots the same.
    #[must_use]
    pub fn new(habit: Habit, radio: Radio, seed: u64) -> Self {
        let mut random = Random::new(seed, 0x5007);
        let phase_ms = random.uniform() * radio.interval_ms;
        Self {
            habit,
            radio,
            random,
            phase_ms,
            bursting: false,
            last_event_ms: f64::NEG_INFINITY,
            last_stamp_ms: f64::NEG_INFINITY,
            number: 0,
            left_over: [0; 12],
            times: Vec::new(),
        }
    }

    /// From the next string on it is shot like this.
    pub fn shoots(&mut self, habit: Habit) {
        self.habit = habit;
    }

    /// The link is new: another phase.
    pub fn reconnected(&mut self) {
        self.phase_ms = self.random.uniform() * self.radio.interval_ms;
        self.last_event_ms = f64::NEG_INFINITY;
    }

    /// The button is pressed; the whole string follows.
    pub fn fire(&mut self, button: RawTime) -> Fired {
        self.number = self.number.wrapping_add(1);
        let beep = button + self.habit.start_delay;
        let mut heard = Vec::new();
        let mut start = self.left_over;
        start[..3].copy_from_slice(&[1, 5, 0]);
        start[4..8].fill(0);
        self.send(beep + self.radio.start_delay, &start, &mut heard);
        let mut shots = Vec::new();
        self.times.clear();
        for since in self.plan() {
            shots.push(beep + since);
            // Cut, not rounded, to hundredths.
            self.times.push((since.get() / 10_000_000) as u16);
            let body = self.body(3);
            self.send(beep + since + self.radio.shot_delay, &body, &mut heard);
        }
        let wait = Nanos::from_secs_f64(0.8 + 4.5 * self.random.uniform());
        let stopped = shots.last().copied().unwrap_or(beep) + wait;
        let stop = self.body(8);
        self.left_over = stop;
        self.send(stopped, &stop, &mut heard);
        heard.sort_by_key(|h| h.at);
        Fired { number: self.number, beep, shots, heard, stopped }
    }

    /// The reply to `REQ STRING HEX` asked for at `at`.
    pub fn list(&mut self, at: RawTime) -> Vec<Heard> {
        let mut heard = Vec::new();
        let times = self.times.clone();
        let chunks: Vec<&[u16]> =
            if times.is_empty() { vec![&[]] } else { times.chunks(9).collect() };
        for (code, chunk) in (0x0A_u8..).zip(chunks) {
            let mut bytes = vec![code, chunk.len() as u8];
            bytes.extend(chunk.iter().flat_map(|t| t.to_be_bytes()));
            if let Some(arrival) = self.arrival(at) {
                heard.push(Heard { at: arrival, bytes });
            }
        }
        heard
    }

    /// Times since the beep.
    fn plan(&mut self) -> Vec<Nanos> {
        let habit = self.habit.clone();
        let longest = Nanos::from_secs(600);
        let (count, apart) = match habit.course {
            Course::CustomSequence(times) => {
                return times.into_iter().filter(|t| (Nanos::ZERO..longest).contains(t)).collect();
            }
            Course::MultiShot => (habit.num_shots, habit.shot_interval),
            Course::SingleShot => (1, habit.shot_interval),
            Course::RapidFire => {
                let eighth = Nanos::new(habit.shot_interval.get() / 8);
                (habit.num_shots, eighth.max(Nanos::from_millis(150)))
            }
            Course::PrecisionMatch => {
                (habit.num_shots, Nanos::new(habit.shot_interval.get().saturating_mul(5)))
            }
        };
        let mut at = Nanos::ZERO;
        let mut times = Vec::new();
        for _ in 0..count.min(150) {
            let mut step = apart;
            if habit.random_timing {
                let by = habit.timing_variance.as_secs_f64() * (2.0 * self.random.uniform() - 1.0);
                // Nobody shoots faster than 80 ms.
                step = (step + Nanos::from_secs_f64(by)).max(Nanos::from_millis(80));
            }
            at = at + step;
            if at >= longest {
                break;
            }
            times.push(at);
        }
        times
    }

    fn body(&self, state: u8) -> [u8; 12] {
        let mut body = [0; 12];
        body[..2].copy_from_slice(&[1, state]);
        let count = self.times.len();
        if let (Some(first), Some(last)) = (self.times.first(), self.times.last()) {
            let before = count.checked_sub(2).map_or(0, |i| self.times[i]);
            body[2..4].fill(count as u8);
            for (i, v) in [*last, last - before, *first, *last].into_iter().enumerate() {
                body[4 + 2 * i..6 + 2 * i].copy_from_slice(&v.to_be_bytes());
            }
        }
        body
    }

    fn send(&mut self, ready: RawTime, body: &[u8; 12], heard: &mut Vec<Heard>) {
        let mut bytes = body.to_vec();
        bytes.extend(self.number.to_be_bytes());
        let Some(at) = self.arrival(ready) else { return };
        if self.random.chance(self.radio.twice) {
            let later = at + Nanos::from_secs_f64(self.radio.interval_ms * 1e-3);
            heard.push(Heard { at: later, bytes: bytes.clone() });
        }
        heard.push(Heard { at, bytes });
    }

    /// The stamp of a frame that was ready at `ready`; `None` if it is lost.
    fn arrival(&mut self, ready: RawTime) -> Option<RawTime> {
        let interval = self.radio.interval_ms * (1.0 + self.radio.rate_ppm * 1e-6);
        let ready = ready.as_nanos() as f64 * 1e-6;
        let mut event = self.phase_ms + ((ready - self.phase_ms) / interval).ceil() * interval;
        if self.bursting || self.random.chance(self.radio.burst) {
            self.bursting = self.random.chance(0.7);
            while self.random.chance(self.radio.burst_retry) {
                event += interval;
            }
        } else {
            while self.random.chance(self.radio.retry) {
                event += interval;
            }
        }
        // Frames do not overtake one another.
        event = event.max(self.last_event_ms);
        self.last_event_ms = event;
        let mut stamp = event + self.radio.jitter_ms * self.random.normal();
        if self.radio.busy_ms > 0.0 {
            stamp += self.random.exponential(self.radio.busy_ms);
        }
        // A frame is read after the one before it.
        stamp = stamp.max(self.last_stamp_ms);
        let lost = self.random.chance(self.radio.loss);
        if lost {
            return None;
        }
        self.last_stamp_ms = stamp;
        Some(RawTime::from_nanos((stamp * 1e6).round() as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::bay::Bay;
    use crate::timer::epoch::Delay;
    use crate::timer::record::End;
    use crate::timer::string::Happening;

    fn second(s: i64) -> RawTime {
        RawTime::from_nanos(s * 1_000_000_000)
    }

    #[test]
    fn the_modes_shoot_what_they_say() {
        let fire = |course| {
            let mut shooter =
                Shooter::new(Habit { course, ..Habit::default() }, Radio::default(), 1);
            let fired = shooter.fire(second(10));
            fired.shots.iter().map(|s| (*s - fired.beep).get() / 1_000_000).collect::<Vec<_>>()
        };
        assert_eq!(fire(Course::MultiShot), [2000, 4000, 6000, 8000, 10_000]);
        assert_eq!(fire(Course::SingleShot), [2000]);
        assert_eq!(fire(Course::RapidFire), [250, 500, 750, 1000, 1250]);
        assert_eq!(fire(Course::PrecisionMatch), [10_000, 20_000, 30_000, 40_000, 50_000]);
        let custom = vec![Nanos::from_millis(1230), Nanos::from_millis(1510)];
        assert_eq!(fire(Course::CustomSequence(custom)), [1230, 1510]);
    }

    #[test]
    fn the_frames_are_those_of_the_real_timer() {
        let mut shooter = Shooter::new(Habit::default(), Radio::default(), 1);
        let first = shooter.fire(second(10));
        let second = shooter.fire(second(60));
        let hex = |h: &Heard| crate::timer::frame::hex(&h.bytes);
        assert_eq!(hex(&first.heard[0]), "0105000000000000000000000001");
        assert_eq!(hex(&first.heard[2]), "01030202019000c800c801900001");
        assert_eq!(hex(&first.heard[6]), "0108050503e800c800c803e80001");
        // The new number with the old string's total, first and last.
        assert_eq!(hex(&second.heard[0]), "010500050000000000c803e80002");
        assert_eq!(first.beep, RawTime::from_nanos(13_000_000_000));
    }

    #[test]
    fn a_bay_hears_every_string_however_bad_the_radio() {
        let radio = Radio { loss: 0.1, twice: 0.1, burst: 0.05, ..Radio::default() };
        let mut shooter = Shooter::new(Habit::default(), radio, 7);
        let mut bay = Bay::new(Delay::default());
        bay.link_up();
        let (mut whole, mut known) = (0, 0);
        for n in 0..100 {
            let fired = shooter.fire(second(100 + 40 * n));
            let mut said = Vec::new();
            for h in &fired.heard {
                said.extend(bay.hear(h.at, &h.bytes));
            }
            if said.iter().any(|h| matches!(h, Happening::WantList { .. })) {
                bay.list_asked(fired.stopped);
                for h in shooter.list(fired.stopped + Nanos::from_millis(300)) {
                    said.extend(bay.hear(h.at, &h.bytes));
                }
            }
            let Some(string) = bay.dated(fired.number) else { continue };
            known += 1;
            whole += usize::from(string.shots.len() == 5 || string.end != End::Stopped);
        }
        assert!(known >= 99 && whole >= 90, "{known} {whole}");
    }
}
