//! How often one address is answered, in memory that does not grow.
use crate::units::{Nanos, RawTime};
use std::net::IpAddr;

/// Addresses remembered: sets of four, in which the longest unheard gives way.
const SETS: usize = 256;
const WAYS: usize = 4;
/// A client that begins may ask so many times at once (chrony's and ntpdate's bursts).
const BURST: u32 = 8;
const MINUTE: i64 = 60_000_000_000;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: u64,
    /// When its credit was counted last, raw ns.
    at: i64,
    /// Answers it may still have, in parts of a minute's nanoseconds.
    credit: i64,
}

/// Who was answered how often.
#[derive(Debug)]
pub struct Limiter {
    slots: Box<[Slot]>,
    secret: u64,
    per_minute: i64,
}

impl Limiter {
    /// So many answers per address and minute; `secret` keeps others from aiming at a set.
    #[must_use]
    pub fn new(per_minute: u32, secret: u64) -> Self {
        let slots = vec![Slot::default(); SETS * WAYS].into_boxed_slice();
        Self { slots, secret, per_minute: i64::from(per_minute.max(1)) }
    }

    /// Whether this address is answered once more.
    pub fn allows(&mut self, address: IpAddr, now: RawTime) -> bool {
        let key = self.key(address);
        let set = (key >> 8) as usize % SETS * WAYS;
        let slots = &mut self.slots[set..set + WAYS];
        let now = now.as_nanos();
        let most = MINUTE * self.per_minute;
        let slot = match slots.iter().position(|s| s.key == key) {
            Some(known) => &mut slots[known],
            None => {
                let first = i64::from(BURST).min(self.per_minute);
                let oldest = (0..WAYS).min_by_key(|&i| slots[i].at).unwrap_or(0);
                slots[oldest] = Slot { key, at: now, credit: first * MINUTE };
                &mut slots[oldest]
            }
        };
        // Each nanosecond brings `per_minute` parts; an answer costs a minute's worth.
        let passed = (now - slot.at).clamp(0, MINUTE);
        slot.credit = (slot.credit + passed * self.per_minute).min(most);
        slot.at = now;
        if slot.credit < MINUTE {
            return false;
        }
        slot.credit -= MINUTE;
        true
    }

    /// The address, mixed; of IPv6 the network's half, since a host has the other half to itself.
    fn key(&self, address: IpAddr) -> u64 {
        let bits = match address.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()) | 1 << 32,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => v6.to_bits() as u64,
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        super::super::splitmix(bits ^ self.secret).max(1)
    }

    /// Bytes held, whatever happens.
    #[must_use]
    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(&*self.slots)
    }

    /// Time after which an address that was refused is answered again.
    #[must_use]
    pub fn pause(&self) -> Nanos {
        Nanos::new(MINUTE / self.per_minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> RawTime {
        RawTime::from_nanos(1_000_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_burst_is_answered_and_then_only_so_many_a_minute() {
        let mut limiter = Limiter::new(60, 7);
        let who: IpAddr = "192.168.4.9".parse().unwrap();
        let answered = (0..100).filter(|_| limiter.allows(who, at(0))).count();
        assert_eq!(answered, 8);
        // Ten requests a second for ten minutes.
        let answered = (0..6_000).filter(|n| limiter.allows(who, at(100 * n))).count();
        assert!((595..=605).contains(&answered), "{answered}");
    }

    #[test]
    fn one_that_asks_too_much_takes_nothing_from_others() {
        let mut limiter = Limiter::new(6, 7);
        let (greedy, other): (IpAddr, IpAddr) =
            ("192.168.4.9".parse().unwrap(), "fd00::1".parse().unwrap());
        for n in 0..60 {
            for _ in 0..1_000 {
                let _ = limiter.allows(greedy, at(n * 10_000));
            }
            assert!(limiter.allows(other, at(n * 10_000)));
        }
    }

    #[test]
    fn a_million_addresses_need_no_more_memory_than_one() {
        let mut limiter = Limiter::new(60, 7);
        let before = limiter.bytes();
        for n in 0..1_000_000_u32 {
            let _ = limiter.allows(IpAddr::V4(n.into()), at(i64::from(n / 1000)));
        }
        assert_eq!(limiter.bytes(), before);
        assert!(before <= 32 << 10, "{before} bytes");
    }

    #[test]
    fn an_address_written_as_ipv6_is_the_same_and_a_host_has_one_network() {
        let mut limiter = Limiter::new(1, 7);
        let [v4, mapped, a, b] =
            ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "fd00::2"].map(|t| t.parse().unwrap());
        assert!(limiter.allows(v4, at(0)) && !limiter.allows(mapped, at(1)));
        assert!(limiter.allows(a, at(0)) && !limiter.allows(b, at(1)));
        assert!(limiter.allows(a, at(61_000)));
    }
}
