//! Who is connected. A place is kept for those who come next: whoever only holds a connection goes
//! first, and nobody has more than a share.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use tokio::sync::Notify;

/// Connections at a time.
const MOST: usize = 160;
/// Of one address at a time, of one network in IPv6.
const SHARE: usize = 64;

/// All who are connected, oldest first.
#[derive(Debug, Default)]
pub struct Crowd(RefCell<VecDeque<Rc<Place>>>);

#[derive(Debug)]
struct Place {
    from: u64,
    /// Watches what happens; others come and go.
    stays: Cell<bool>,
    leave: Notify,
}

/// One who is connected, until dropped.
#[derive(Debug)]
pub struct Guest {
    place: Rc<Place>,
    crowd: Rc<Crowd>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.crowd.0.borrow_mut().retain(|place| !Rc::ptr_eq(place, &self.place));
    }
}

fn network(from: IpAddr) -> u64 {
    match from.to_canonical() {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => (a.to_bits() >> 64) as u64,
    }
}

impl Crowd {
    /// A place for somebody from there, if need be that of the one who has used his the longest ago.
    #[must_use]
    pub fn enter(crowd: &Rc<Self>, from: IpAddr) -> Option<Guest> {
        let from = network(from);
        let mut all = crowd.0.borrow_mut();
        let full = all.len() >= MOST;
        let much = all.iter().filter(|place| place.from == from).count() >= SHARE;
        if full || much {
            let goes = |place: &Rc<Place>| !place.stays.get() && (!much || place.from == from);
            let first = all.iter().position(goes)?;
            if let Some(place) = all.remove(first) {
                place.leave.notify_one();
            }
        }
        let place = Rc::new(Place { from, stays: Cell::new(false), leave: Notify::new() });
        all.push_back(Rc::clone(&place));
        Some(Guest { place, crowd: Rc::clone(crowd) })
    }
}

impl Guest {
    /// Has asked something: others go first now.
    pub fn answered(&self) {
        let mut all = self.crowd.0.borrow_mut();
        if let Some(at) = all.iter().position(|place| Rc::ptr_eq(place, &self.place)) {
            all.remove(at);
            all.push_back(Rc::clone(&self.place));
        }
    }

    /// Watches from now on, and keeps the place.
    pub fn stays(&self) {
        self.place.stays.set(true);
    }

    /// Ends when the place is wanted for another.
    pub async fn asked_to_leave(&self) {
        self.place.leave.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn come(crowd: &Rc<Crowd>, from: &str, n: usize) -> Vec<Guest> {
        (0..n).filter_map(|_| Crowd::enter(crowd, from.parse().unwrap())).collect()
    }

    #[test]
    fn who_only_holds_connections_makes_room_for_those_who_come() {
        let crowd = Rc::new(Crowd::default());
        let held = come(&crowd, "10.0.0.1", 200);
        assert_eq!((held.len(), crowd.0.borrow().len()), (200, SHARE), "the oldest must leave");
        drop(held);
        assert!(crowd.0.borrow().is_empty());
    }

    #[test]
    fn who_watches_keeps_the_place_and_no_address_has_all_of_them() {
        let crowd = Rc::new(Crowd::default());
        let watching = come(&crowd, "10.0.0.1", SHARE);
        watching.iter().for_each(Guest::stays);
        assert_eq!(come(&crowd, "10.0.0.1", 1).len(), 0, "more than a share");
        let other = come(&crowd, "fe80::1", SHARE);
        other.iter().for_each(Guest::stays);
        assert_eq!(come(&crowd, "fe80::2", 1).len(), 0, "the same network");
        assert_eq!(come(&crowd, "10.0.0.2", 40).len(), 40);
        assert_eq!(crowd.0.borrow().len(), 2 * SHARE, "the places are free again");
    }

    #[test]
    fn who_asks_is_not_the_next_to_go() {
        let crowd = Rc::new(Crowd::default());
        let guests = come(&crowd, "10.0.0.1", SHARE);
        guests[0].answered();
        let _next = Crowd::enter(&crowd, "10.0.0.1".parse().unwrap());
        let inside = |g: &Guest| crowd.0.borrow().iter().any(|place| Rc::ptr_eq(place, &g.place));
        assert!(inside(&guests[0]) && !inside(&guests[1]));
    }
}
