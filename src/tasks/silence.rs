//! Which silence is worth a line: a network that is gone is one fact, not one per server.
use crate::engine::ServerId;
use crate::units::{Nanos, RawTime};

/// After the first answer the others get so long before they are named.
const PATIENCE: Nanos = Nanos::from_secs(120);

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// This server does not answer, and others do.
    One(ServerId, String),
    /// None does.
    All(String),
    /// This server answers again.
    Again(ServerId),
}

/// A server that fell silent: when, and why.
#[derive(Debug)]
struct Fallen {
    id: ServerId,
    at: RawTime,
    why: String,
}

/// What is known of the servers' silence and was not said, or was said of all together.
#[derive(Debug, Default)]
pub struct Silence {
    held: Vec<Fallen>,
    together: Vec<Fallen>,
    back: Option<RawTime>,
}

impl Silence {
    /// A server fell silent; `all`: it was the last one that had not.
    pub fn fell(&mut self, now: RawTime, id: ServerId, why: String, all: bool) -> Option<Line> {
        let told = self.together.iter().any(|f| f.id == id) && self.back.is_none();
        if told {
            return None;
        }
        self.held.retain(|f| f.id != id);
        self.held.push(Fallen { id, at: now, why: why.clone() });
        if !all {
            return None;
        }
        self.together.append(&mut self.held);
        self.back = None;
        Some(Line::All(why))
    }

    /// A server that was silent is heard.
    pub fn heard(&mut self, now: RawTime, id: ServerId) -> Option<Line> {
        let held = self.held.len();
        self.held.retain(|f| f.id != id);
        if self.held.len() < held {
            return None;
        }
        let together = self.together.len();
        self.together.retain(|f| f.id != id);
        if self.together.len() < together {
            let first = self.back.is_none();
            self.back.get_or_insert(now);
            return first.then_some(Line::Again(id));
        }
        Some(Line::Again(id))
    }

    /// Those that are silent while others answer; `since`: did one answer after that moment,
    /// `silent`: is that one silent still?
    pub fn due(
        &mut self,
        now: RawTime,
        since: impl Fn(RawTime) -> bool,
        silent: impl Fn(ServerId) -> bool,
    ) -> Vec<Line> {
        let mut due: Vec<Fallen> = self.held.extract_if(.., |f| since(f.at)).collect();
        if self.back.is_some_and(|t| now - t >= PATIENCE) {
            due.append(&mut self.together);
        }
        due.retain(|f| silent(f.id));
        due.into_iter().map(|f| Line::One(f.id, f.why)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> RawTime {
        RawTime::from_nanos(s * 1_000_000_000)
    }

    fn why() -> String {
        "no way there".to_owned()
    }

    #[test]
    fn a_network_that_is_gone_is_one_line_and_its_return_another() {
        let mut s = Silence::default();
        for id in 0..3 {
            assert_eq!(s.fell(at(10), id, why(), false), None);
        }
        assert_eq!(s.fell(at(11), 3, why(), true), Some(Line::All(why())));
        assert_eq!(s.fell(at(40), 1, why(), true), None, "it was said");
        assert_eq!(s.heard(at(60), 2), Some(Line::Again(2)));
        assert_eq!(s.heard(at(61), 0), None);
        assert!(s.due(at(62), |_| true, |_| true).is_empty());
        assert_eq!(s.heard(at(63), 1), None);
        // The fourth stays away: that is said, later.
        assert!(s.due(at(179), |_| true, |_| true).is_empty());
        assert_eq!(s.due(at(181), |_| true, |_| true), [Line::One(3, why())]);
        assert!(s.due(at(400), |_| true, |_| true).is_empty());
        assert_eq!(s.heard(at(500), 3), Some(Line::Again(3)));
    }

    #[test]
    fn one_server_that_fails_is_named_as_soon_as_another_is_known_to_answer() {
        let mut s = Silence::default();
        assert_eq!(s.fell(at(10), 1, why(), false), None);
        assert!(s.due(at(11), |t| t < at(10), |_| true).is_empty());
        assert_eq!(s.due(at(12), |t| t < at(12), |_| true), [Line::One(1, why())]);
        assert_eq!(s.heard(at(90), 1), Some(Line::Again(1)));
        // Back before anything was said: nothing is said.
        assert_eq!(s.fell(at(100), 1, why(), false), None);
        assert_eq!(s.heard(at(101), 1), None);
        assert!(s.due(at(102), |_| true, |_| false).is_empty());
    }
}
