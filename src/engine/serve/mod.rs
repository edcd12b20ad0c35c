//! Serving time: what is said, to which request, how often. The socket is elsewhere.
//!
//! Whoever asks gets 48 bytes for 48 bytes, or silence: nothing is sent that was not asked for
//! in client mode, and while there is no time there is no answer, since the simplest clients
//! believe whatever comes.
mod limiter;
mod name;
mod offer;

pub use limiter::Limiter;
pub use name::reference_id;
pub(super) use offer::Lineage;
pub use offer::{Offer, Reference};

use super::packet::{LEN, Leap, ntp};
use crate::units::{Nanos, Ppm, RawTime, UtcTime};

/// A time that no server has confirmed is served from this stratum on.
pub const LOCAL_STRATUM: u8 = 10;
/// What is known of a clock of which nothing is known (RFC 5905's MAXDISP).
pub const UNKNOWN: Nanos = Nanos::from_secs(16);
/// Two readings of the clock differ by about 2⁻²³ s.
const PRECISION: i8 = -23;

/// What is served from one instant on: the time, and what it is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Service {
    /// The instant.
    pub at: RawTime,
    /// True − raw then …
    pub truth: Nanos,
    /// … and how it grows.
    pub frequency: Ppm,
    /// 1..15.
    pub stratum: u8,
    /// Leap second at the end of today.
    pub leap: Leap,
    /// Round trip to the reference.
    pub root_delay: Nanos,
    /// Dispersion at the instant …
    pub root_dispersion: Nanos,
    /// … and how it grows.
    pub growth: Ppm,
    /// Whom the time is from.
    pub reference_id: [u8; 4],
    /// When it was last heard.
    pub reference: RawTime,
}

/// Whether the bytes are a request that is answered: 48 of them, in client mode, of version 3 or 4.
#[must_use]
pub fn is_request(datagram: &[u8]) -> bool {
    datagram.len() == LEN && datagram[0] & 7 == 3 && (3..=4).contains(&(datagram[0] >> 3 & 7))
}

impl Service {
    /// UTC at a raw instant.
    #[must_use]
    pub fn utc(&self, raw: RawTime) -> UtcTime {
        let truth = self.truth + self.frequency.over(raw - self.at);
        UtcTime::from_nanos(raw.as_nanos().saturating_add(truth.get()))
    }

    /// The answer to a request that came at one raw instant and is answered at another; `None` for
    /// what is no request.
    #[must_use]
    pub fn answer(
        &self,
        datagram: &[u8],
        received: RawTime,
        answered: RawTime,
    ) -> Option<[u8; LEN]> {
        if !is_request(datagram) {
            return None;
        }
        let leap = match self.leap {
            Leap::None => 0,
            Leap::Insert => 1,
            Leap::Delete => 2,
        };
        let age = (answered - self.at).abs();
        let dispersion = self.root_dispersion + self.growth.over(age).abs();
        let mut reply = [0; LEN];
        reply[0] = leap << 6 | (datagram[0] & 0b00_111_000) | 4;
        reply[1] = self.stratum;
        reply[2] = datagram[2];
        reply[3] = PRECISION.cast_unsigned();
        reply[4..8].copy_from_slice(&short(self.root_delay));
        reply[8..12].copy_from_slice(&short(dispersion));
        reply[12..16].copy_from_slice(&self.reference_id);
        reply[16..24].copy_from_slice(&ntp(self.utc(self.reference)).to_be_bytes());
        reply[24..32].copy_from_slice(&datagram[40..48]);
        reply[32..40].copy_from_slice(&ntp(self.utc(received)).to_be_bytes());
        reply[40..48].copy_from_slice(&ntp(self.utc(answered.max(received))).to_be_bytes());
        Some(reply)
    }
}

/// NTP short format, 16.16 seconds, rounded up: an uncertainty is never made smaller.
fn short(span: Nanos) -> [u8; 4] {
    let ns = i128::from(span.get().max(0));
    let units = ((ns << 16) + 999_999_999) / 1_000_000_000;
    (units.min(0x7fff_ffff) as u32).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::packet::parse;
    use super::*;

    const NOW: i64 = 1_800_000_000_000_000_000;

    fn service() -> Service {
        Service {
            at: RawTime::from_nanos(1_000_000_000),
            truth: Nanos::new(NOW),
            frequency: Ppm::new(10.0),
            stratum: 3,
            leap: Leap::Insert,
            root_delay: Nanos::from_millis(20),
            root_dispersion: Nanos::from_millis(5),
            growth: Ppm::new(15.0),
            reference_id: [192, 0, 2, 1],
            reference: RawTime::from_nanos(500_000_000),
        }
    }

    fn request() -> [u8; LEN] {
        super::super::packet::request(0x0123_4567_89ab_cdef)
    }

    #[test]
    fn an_answer_says_what_the_clock_is_worth() {
        let came = RawTime::from_nanos(101_000_000_000);
        let went = came + Nanos::new(30_000);
        let reply = service().answer(&request(), came, went).unwrap();
        assert_eq!(reply[24..32], 0x0123_4567_89ab_cdef_u64.to_be_bytes());
        let read = parse(&reply, UtcTime::from_nanos(NOW)).unwrap();
        assert_eq!((read.stratum, read.leap), (3, Leap::Insert));
        assert_eq!(read.reference_id, [192, 0, 2, 1]);
        let there = NOW + 101_000_000_000 + 1_000_000;
        assert!((read.t2.as_nanos() - there).abs() < 3, "{}", read.t2.as_nanos() - there);
        assert!((read.t3 - read.t2 - Nanos::new(30_000)).abs() < Nanos::new(3));
        // 5 ms, and 15 ppm of 100 s.
        let more = read.root_dispersion - Nanos::new(6_500_000);
        assert!((Nanos::ZERO..Nanos::new(16_000)).contains(&more), "{more}: never less");
        assert!(read.root_delay >= Nanos::from_millis(20));
    }

    #[test]
    fn what_is_no_client_request_of_48_bytes_is_met_with_silence() {
        let (service, now) = (service(), RawTime::from_nanos(0));
        for length in (0..LEN).chain(LEN + 1..LEN + 200).chain([65_507]) {
            let mut bytes = vec![0; length];
            if let Some(first) = bytes.first_mut() {
                *first = 0x23;
            }
            assert_eq!(service.answer(&bytes, now, now), None, "{length} bytes");
        }
        for first in 0..=255_u8 {
            let mut bytes = request();
            bytes[0] = first;
            let (version, mode) = (first >> 3 & 7, first & 7);
            let right = mode == 3 && (version == 3 || version == 4);
            let answer = service.answer(&bytes, now, now);
            assert_eq!(answer.is_some(), right, "version {version} mode {mode}");
            if let Some(reply) = answer {
                assert_eq!((reply[0] & 7, reply[0] >> 3 & 7), (4, version));
            }
        }
    }

    #[test]
    fn whatever_else_a_request_holds_only_its_transmit_time_comes_back() {
        let mut bytes = [0xff; LEN];
        bytes[0] = 0xe3; // leap 3, version 4, client
        let now = RawTime::from_nanos(0);
        let reply = service().answer(&bytes, now, now).unwrap();
        assert_eq!(reply[24..32], [0xff; 8]);
        assert!(parse(&reply, UtcTime::from_nanos(NOW)).is_ok());
    }

    #[test]
    fn a_dispersion_beyond_the_format_does_not_wrap() {
        let far = Service { root_dispersion: Nanos::from_secs(1 << 30), ..service() };
        let now = RawTime::from_nanos(0);
        let reply = far.answer(&request(), now, now).unwrap();
        assert_eq!(reply[8..12], [0x7f, 0xff, 0xff, 0xff]);
    }
}
