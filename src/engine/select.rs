//! Which servers agree (RFC 5905 §11.2.1): the largest crowd whose intervals share a point.
//!
//! Two sieves. The wide one holds what each server *guarantees* (offset ± root distance); a
//! server outside the majority's intersection is a falseticker. The narrow one holds what
//! each server *usually* achieves (its quickest exchange); it finds the server that is 20 ms
//! wrong while its guarantee still reaches the truth.
use super::ServerId;
use crate::units::Nanos;

/// What one server says of the present: true − raw lies within `centre` ± `half`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Whose it is.
    pub server: ServerId,
    /// Its best guess.
    pub centre: Nanos,
    /// What it guarantees: half the delay, root distance, drift since.
    pub half: Nanos,
    /// What it usually achieves.
    pub narrow: Nanos,
    /// Believed without a second opinion.
    pub trusted: bool,
}

impl Interval {
    fn low(&self, narrow: bool) -> Nanos {
        self.centre - if narrow { self.narrow } else { self.half }
    }
    fn high(&self, narrow: bool) -> Nanos {
        self.centre + if narrow { self.narrow } else { self.half }
    }
}

/// The result of a vote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vote {
    /// Those who agree; empty when no majority does.
    pub truechimers: Vec<ServerId>,
    /// Outvoted, and by how much their centre misses the majority's.
    pub falsetickers: Vec<(ServerId, Nanos)>,
    /// The majority's intersection.
    pub low: Nanos,
    /// Its other end.
    pub high: Nanos,
}

impl Vote {
    /// Middle of the intersection.
    #[must_use]
    pub fn middle(&self) -> Nanos {
        self.low + (self.high - self.low).half()
    }
}

/// The largest crowd sharing a point: how many, and where.
fn crowd(intervals: &[Interval], narrow: bool) -> (usize, Nanos, Nanos) {
    let mut best = (0, Nanos::ZERO, Nanos::ZERO);
    for i in intervals {
        // The largest crowd is always met at somebody's lower end.
        let point = i.low(narrow);
        let holding = |j: &&Interval| j.low(narrow) <= point && point <= j.high(narrow);
        let count = intervals.iter().filter(holding).count();
        if count > best.0 {
            let high = intervals.iter().filter(holding).map(|j| j.high(narrow)).min();
            best = (count, point, high.unwrap_or(point));
        }
    }
    best
}

/// Votes. `None` when there are voters but no majority of them shares a point.
///
/// If any voter is trusted, the trusted alone decide, and the others are used when they agree.
#[must_use]
pub fn vote(intervals: &[Interval]) -> Option<Vote> {
    let trusted: Vec<Interval> = intervals.iter().copied().filter(|i| i.trusted).collect();
    let voters = if trusted.is_empty() { intervals } else { &trusted };
    let (count, low, high) = crowd(voters, false);
    if count * 2 <= voters.len() {
        return None;
    }
    let inside = |i: &&Interval| i.low(false) <= high && i.high(false) >= low;
    let mut agreeing: Vec<Interval> = intervals.iter().filter(inside).copied().collect();
    // The narrow sieve needs three opinions and a majority of its own, else it says nothing.
    if agreeing.len() >= 3 {
        let judges: Vec<Interval> = agreeing.iter().copied().filter(|i| i.trusted).collect();
        let judges = if judges.is_empty() { &agreeing } else { &judges };
        let (count, low, high) = crowd(judges, true);
        if count >= 2 && count * 2 > judges.len() {
            agreeing.retain(|i| i.low(true) <= high && i.high(true) >= low);
        }
    }
    let middle = centre_of(&agreeing);
    let falsetickers = intervals
        .iter()
        .filter(|i| !agreeing.iter().any(|a| a.server == i.server))
        .map(|i| (i.server, i.centre - middle));
    Some(Vote {
        falsetickers: falsetickers.collect(),
        truechimers: agreeing.iter().map(|a| a.server).collect(),
        low,
        high,
    })
}

/// What the guarantees of all these servers have in common; `None` when that is nothing.
#[must_use]
pub fn shared(intervals: &[Interval], of: &[ServerId]) -> Option<(Nanos, Nanos)> {
    let used = || intervals.iter().filter(|i| of.contains(&i.server));
    let low = used().map(|i| i.low(false)).max()?;
    let high = used().map(|i| i.high(false)).min()?;
    (low <= high).then_some((low, high))
}

/// The centre of the most precise of a crowd.
fn centre_of(crowd: &[Interval]) -> Nanos {
    crowd.iter().min_by_key(|i| i.narrow).map_or(Nanos::ZERO, |i| i.centre)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(server: ServerId, centre_ms: i64, half_ms: i64) -> Interval {
        let half = Nanos::from_millis(half_ms);
        let centre = Nanos::from_millis(centre_ms);
        Interval { server, centre, half, narrow: half.half().half(), trusted: false }
    }

    #[test]
    fn a_liar_among_four_is_outvoted() {
        let v = vote(&[at(0, 0, 15), at(1, 2, 15), at(2, 500, 15), at(3, -1, 15)]).unwrap();
        assert_eq!(v.truechimers, [0, 1, 3]);
        assert_eq!(v.falsetickers[0].0, 2);
    }

    #[test]
    fn a_server_wrong_by_less_than_its_guarantee_is_found_by_the_narrow_sieve() {
        let v = vote(&[at(0, 0, 15), at(1, 1, 15), at(2, 20, 15), at(3, -1, 15)]).unwrap();
        assert_eq!(v.truechimers, [0, 1, 3]);
    }

    #[test]
    fn two_camps_of_equal_size_are_no_majority() {
        assert_eq!(vote(&[at(0, 0, 5), at(1, 1, 5), at(2, 300, 5), at(3, 301, 5)]), None);
        assert_eq!(vote(&[at(0, 0, 5), at(1, 300, 5)]), None);
    }

    #[test]
    fn three_liars_of_five_who_agree_win_for_numbers_are_all_we_have() {
        let liars = [at(0, 0, 5), at(1, 1, 5), at(2, 300, 5), at(3, 301, 5), at(4, 302, 5)];
        assert_eq!(vote(&liars).unwrap().truechimers, [2, 3, 4]);
    }

    #[test]
    fn a_trusted_server_outweighs_any_number() {
        let mut crowd = [at(0, 0, 5), at(1, 300, 5), at(2, 301, 5)];
        crowd[0].trusted = true;
        assert_eq!(vote(&crowd).unwrap().truechimers, [0]);
    }

    #[test]
    fn what_is_shared_is_the_narrowest_or_nothing() {
        let all = [at(0, 0, 1), at(1, 20, 21), at(2, 500, 15)];
        let ms = Nanos::from_millis;
        assert_eq!(shared(&all, &[0, 1]), Some((ms(-1), ms(1))));
        assert_eq!(shared(&all, &[0, 2]), None);
        assert_eq!(shared(&all, &[]), None);
    }

    #[test]
    fn one_alone_is_its_own_majority() {
        assert_eq!(vote(&[at(7, 3, 5)]).unwrap().truechimers, [7]);
    }
}
