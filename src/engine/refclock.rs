//! A clock beside us (GPS through gpsd): samples of chrony's SOCK protocol, gathered and judged.
//!
//! gpsd sends, for each second, when it was by our clock and by how much our clock is behind. One
//! such sample shakes with the kernel's and gpsd's delays: the median of several is kept, with the
//! uncertainty that the configuration gives such a receiver, which no statistics can see.
use super::estimator::Sample;
use super::packet::{Leap, Rejected, Reply, Why};
use super::source::Standing;
use super::{DAY, Engine, Event, ServerId};
use crate::units::{Nanos, Ppm, RawTime, Reading, UtcTime};

/// The size of a sample on a 64-bit machine.
pub const LEN: usize = 40;
const MAGIC: i32 = 0x534f_434b;
/// So many samples are gathered to begin with, and so many once there were some.
const FEW: usize = 4;
const MANY: usize = 16;
/// Groups before the longer gathering.
const EAGER: u32 = 4;
/// A receiver alone that leaves the timeline by more is not followed.
pub(super) const NO_JUMP: Nanos = Nanos::from_millis(500);
/// Older samples do not belong to a group.
const GROUP: Nanos = Nanos::from_secs(64);

/// One sample as gpsd sends it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Second {
    /// Our clock's time of it.
    pub at: UtcTime,
    /// True − ours.
    pub offset: Nanos,
    /// Only the beginning of a second is known, not which.
    pub pulse: bool,
    /// Leap second at the end of today.
    pub leap: Leap,
}

/// Reads a datagram: `struct timeval`, the offset as a double in seconds, then pulse, leap, four
/// bytes of padding and a magic number, in the machine's own order.
///
/// # Errors
/// Why it is no sample.
pub fn parse(datagram: &[u8]) -> Result<Second, Rejected> {
    let datagram: &[u8; LEN] = datagram.try_into().map_err(|_| Rejected::Length)?;
    let wide = |at: usize| i64::from_ne_bytes(std::array::from_fn(|i| datagram[at + i]));
    let short = |at: usize| i32::from_ne_bytes(std::array::from_fn(|i| datagram[at + i]));
    if short(36) != MAGIC {
        return Err(Rejected::Version);
    }
    let offset = f64::from_bits(wide(16).cast_unsigned());
    let (seconds, micros) = (wide(0), wide(8));
    let sound = (0..1_000_000).contains(&micros)
        && (0..4_102_444_800).contains(&seconds)
        && offset.is_finite()
        && offset.abs() < 3e9;
    if !sound {
        return Err(Rejected::NoTime);
    }
    let leap = match short(28) {
        0 => Leap::None,
        1 => Leap::Insert,
        2 => Leap::Delete,
        _ => return Err(Rejected::Unsynchronised),
    };
    Ok(Second {
        at: UtcTime::from_nanos(seconds * 1_000_000_000 + micros * 1_000),
        offset: Nanos::from_secs_f64(offset),
        pulse: short(24) != 0,
        leap,
    })
}

/// What a group of samples says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reference {
    /// The raw instant of it.
    pub at: RawTime,
    /// True − raw.
    pub truth: Nanos,
    /// How far the samples lie apart (half of them are within).
    pub spread: Nanos,
    /// What the receiver is worth.
    pub uncertainty: Nanos,
    /// Leap second at the end of today.
    pub leap: Leap,
}

/// Gathers samples into groups.
#[derive(Debug)]
pub struct Gatherer {
    uncertainty: Nanos,
    group: Vec<(RawTime, Nanos)>,
    groups: u32,
}

impl Gatherer {
    /// For a receiver whose seconds are worth this much.
    #[must_use]
    pub fn new(uncertainty: Nanos) -> Self {
        Self { uncertainty, group: Vec::with_capacity(MANY), groups: 0 }
    }

    /// Takes a sample; a group, when it completes one. `offset` is what is known of our clock
    /// (true − ours), which a bare pulse needs; `frequency` is what the raw clock is corrected by.
    pub fn take(
        &mut self,
        now: Reading,
        second: &Second,
        offset: Option<Nanos>,
        frequency: Ppm,
    ) -> Option<Reference> {
        // By our clock, and recent: else it was set meanwhile.
        let age = now.utc - second.at;
        if !(Nanos::from_secs(-1)..Nanos::from_secs(3)).contains(&age) {
            return None;
        }
        let at = now.raw - age;
        let mut behind = second.offset;
        if second.pulse {
            let around = offset?.get();
            let s = 1_000_000_000;
            behind = Nanos::new(around + (behind.get() - around + s / 2).rem_euclid(s) - s / 2);
        }
        let truth = second.at.minus_raw(at) + behind;
        self.group.retain(|(t, _)| at - *t < GROUP && *t <= at);
        self.group.push((at, truth));
        let wanted = if self.groups < EAGER { FEW } else { MANY };
        if self.group.len() < wanted {
            return None;
        }
        let mut truths: Vec<i64> =
            self.group.iter().map(|(t, x)| (*x + frequency.over(at - *t)).get()).collect();
        truths.sort_unstable();
        let n = truths.len();
        self.group.clear();
        self.groups = self.groups.saturating_add(1);
        Some(Reference {
            at,
            truth: Nanos::new(truths[n / 2]),
            spread: Nanos::new(truths[n * 3 / 4] - truths[n / 4]),
            uncertainty: self.uncertainty,
            leap: second.leap,
        })
    }
}

impl Engine {
    /// A clock beside us has said what time it is.
    pub(super) fn refer(&mut self, now: Reading, id: ServerId, heard: &Reference) {
        self.sources[id].spoke(now.raw);
        if self.leaping(now.raw) {
            return;
        }
        let utc = UtcTime::from_nanos(heard.at.as_nanos().saturating_add(heard.truth.get()));
        let (earliest, latest) = self.settings.dates();
        let early = self.settings.mark.is_some_and(|m| utc < m - DAY);
        if utc < earliest || utc > latest || early {
            // A receiver whose weeks have rolled over is 19.6 years wrong.
            let why = if early { Rejected::BeforeMark } else { Rejected::Date };
            let source = &mut self.sources[id];
            source.void();
            source.misdated = Some((heard.at, heard.truth));
            source.refuse(why, now.raw);
            self.tell(Event::Dropped(id, why));
            self.despair_of_dates(now, id);
            return;
        }
        self.sources[id].misdated = None;
        let distance = heard.uncertainty + heard.spread;
        let reply = Reply {
            t2: utc,
            t3: utc,
            leap: heard.leap,
            stratum: 0,
            precision: -20,
            root_delay: Nanos::ZERO,
            root_dispersion: distance,
            reference_id: *b"GPS\0",
            reference_time: 0,
        };
        let jitter = heard.spread.max(Nanos::new(1_000));
        let sample = Sample {
            outward: heard.truth + jitter,
            homeward: heard.truth - jitter,
            sent: heard.at,
            received: heard.at,
            root_distance: distance,
            precision: Nanos::new(1_000),
        };
        self.sources[id].last = Some((now.raw, reply));
        if self.unconfirmed.is_some() {
            self.give_way(now);
        }
        let (f, fb) = self.frequency(now.raw);
        let silent = matches!(self.sources[id].standing, Standing::Unreachable(Why::Mute));
        self.sources[id].keep(sample, f, fb);
        if silent {
            self.tell(Event::Heard(id));
        }
        self.judge(now, id, &sample);
    }

    /// Sees who should have spoken by itself and has not.
    pub(super) fn listen(&mut self, now: Reading) {
        for id in 0..self.sources.len() {
            if !self.sources[id].falls_silent(now.raw) {
                continue;
            }
            self.tell(Event::Silent(id, Why::Mute));
            let alone = self.sources.iter().all(|s| s.retired || s.spec.passive);
            if alone && !self.fixed() {
                self.at_a_loss(format!("{}: {}", self.sources[id].spec.name, Why::Mute));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;
    const NOW: i64 = 1_800_000_000 * S;

    /// The documented layout, field by field.
    fn datagram(at_ns: i64, offset_s: f64, pulse: i32, leap: i32, magic: i32) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0..8].copy_from_slice(&(at_ns / S).to_ne_bytes());
        bytes[8..16].copy_from_slice(&(at_ns % S / 1_000).to_ne_bytes());
        bytes[16..24].copy_from_slice(&offset_s.to_ne_bytes());
        bytes[24..28].copy_from_slice(&pulse.to_ne_bytes());
        bytes[28..32].copy_from_slice(&leap.to_ne_bytes());
        bytes[36..40].copy_from_slice(&magic.to_ne_bytes());
        bytes
    }

    fn reading(ns: i64) -> Reading {
        Reading { raw: RawTime::from_nanos(ns), utc: UtcTime::from_nanos(NOW + ns) }
    }

    #[test]
    fn a_sample_is_read_as_it_is_documented() {
        let read = parse(&datagram(NOW + 250_000_000, -0.5, 1, 1, MAGIC)).unwrap();
        assert_eq!(read.at, UtcTime::from_nanos(NOW + 250_000_000));
        assert_eq!(read.offset, Nanos::from_millis(-500));
        assert!(read.pulse && read.leap == Leap::Insert);
    }

    #[test]
    fn what_is_no_sample_is_not_read() {
        let good = datagram(NOW, 0.1, 0, 0, MAGIC);
        assert!(parse(&good).is_ok());
        // 32 bytes: gpsd of a machine with 32-bit time.
        for short in [&good[..39], &good[..32], &[]] {
            assert_eq!(parse(short), Err(Rejected::Length));
        }
        for (bad, why) in [
            (datagram(NOW, 0.1, 0, 0, MAGIC + 1), Rejected::Version),
            (datagram(NOW, 0.1, 0, 3, MAGIC), Rejected::Unsynchronised),
            (datagram(NOW, 0.1, 0, -1, MAGIC), Rejected::Unsynchronised),
            (datagram(NOW, f64::NAN, 0, 0, MAGIC), Rejected::NoTime),
            (datagram(NOW, f64::INFINITY, 0, 0, MAGIC), Rejected::NoTime),
            (datagram(NOW, 1e300, 0, 0, MAGIC), Rejected::NoTime),
            (datagram(-5 * S, 0.1, 0, 0, MAGIC), Rejected::NoTime),
        ] {
            assert_eq!(parse(&bad), Err(why));
        }
    }

    #[test]
    fn the_median_of_a_group_counts_and_one_wild_second_does_not() {
        let mut gatherer = Gatherer::new(Nanos::from_millis(1));
        let mut out = None;
        for n in 0..4 {
            let wild = if n == 1 { 0.4 } else { 0.0 };
            let at = NOW + n * S;
            let second = parse(&datagram(at, 0.020 + wild, 0, 0, MAGIC)).unwrap();
            out = gatherer.take(reading(n * S + 3_000_000), &second, None, Ppm::new(0.0));
        }
        let out = out.unwrap();
        assert!((out.truth.get() - NOW - 20_000_000).abs() < 2_000, "{:?}", out.truth.get() - NOW);
        assert_eq!(out.uncertainty, Nanos::from_millis(1));
    }

    #[test]
    fn a_bare_pulse_says_nothing_until_the_second_is_known_and_then_the_nearest() {
        let mut gatherer = Gatherer::new(Nanos::from_millis(1));
        let second = |n: i64| parse(&datagram(NOW + n * S, 0.25, 1, 0, MAGIC)).unwrap();
        for n in 0..10 {
            assert_eq!(gatherer.take(reading(n * S), &second(n), None, Ppm::new(0.0)), None);
        }
        let known = Some(Nanos::from_millis(7_200));
        let out = (10..14)
            .find_map(|n| gatherer.take(reading(n * S), &second(n), known, Ppm::new(0.0)))
            .unwrap();
        assert_eq!(out.truth.get() - NOW, 7_250_000_000);
    }
}
