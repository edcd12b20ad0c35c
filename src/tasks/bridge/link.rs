//! The way to a timer: found, connected, resolved, subscribed, and back again. Pure.
use crate::config::Timer;
use crate::os::bluez::{Device, Tree};
use crate::units::{Nanos, RawTime};

/// A link that lasted so long was good: the next failure starts from the shortest wait.
const GOOD: Nanos = Nanos::from_secs(10);
/// Services are known within this after the link is up, or the link is of no use.
const RESOLVING: Nanos = Nanos::from_secs(15);
const SHORTEST: Nanos = Nanos::from_millis(500);
/// Who was seen so lately is in sight: BlueZ forgets everybody's signal when a scan ends, and a scan
/// ends before a link is opened.
const SIGHT: Nanos = Nanos::from_secs(10);

/// Where a timer's link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not connected.
    Away,
    /// Connect was asked.
    Connecting,
    /// Connected; its services are not known since that instant.
    Resolving(RawTime),
    /// Subscribing was asked.
    Subscribing,
    /// Frames can come, since that instant.
    Listening(RawTime),
}

/// What to do next about a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    Nothing,
    /// It is not in sight: a scan would help.
    Scan,
    /// Open the link to the device at this path.
    Connect(String),
    /// Subscribe to the characteristic at this path.
    Subscribe(String),
    /// The link that we opened is of no use: end it.
    Drop(String),
}

/// One timer's link.
#[derive(Clone, Debug)]
pub struct Link {
    /// Where it stands.
    pub stage: Stage,
    /// The device's path, once found.
    pub device: Option<String>,
    /// We opened the link: we may close it.
    pub ours: bool,
    /// Links that came up.
    pub links: u64,
    /// That it is listened to was told.
    pub told: bool,
    not_before: Option<RawTime>,
    wait: Nanos,
    longest: Nanos,
    seen: Option<RawTime>,
}

/// The device is a timer of the kind that is listened to.
#[must_use]
pub fn is_timer(device: &Device) -> bool {
    let name = device.name.to_ascii_uppercase();
    name.starts_with("AMG LAB COMM") || name.starts_with("COMMANDER")
}

/// The device is this configured timer.
#[must_use]
pub fn is_this(timer: &Timer, device: &Device) -> bool {
    if !timer.address.is_empty() {
        return device.address.eq_ignore_ascii_case(&timer.address);
    }
    if !timer.r#match.is_empty() {
        let name = device.name.to_ascii_uppercase();
        return name.starts_with(&timer.r#match.to_ascii_uppercase());
    }
    is_timer(device)
}

impl Link {
    /// A link that waits at most `longest` between two attempts.
    #[must_use]
    pub fn new(longest: Nanos) -> Self {
        Self {
            stage: Stage::Away,
            device: None,
            ours: false,
            links: 0,
            told: false,
            not_before: None,
            wait: SHORTEST,
            longest,
            seen: None,
        }
    }

    /// Frames can come.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        matches!(self.stage, Stage::Listening(_))
    }

    /// When time alone makes something due; what is past was done at the last look.
    #[must_use]
    pub fn due(&self) -> Option<RawTime> {
        let useless = match self.stage {
            Stage::Away => self.seen.map(|at| at + SIGHT),
            Stage::Resolving(since) if self.ours => Some(since + RESOLVING),
            Stage::Resolving(_) => None,
            _ => return None,
        };
        [self.not_before, useless].into_iter().flatten().min()
    }

    /// Looks at what BlueZ knows. `found` is the timer's device, if it is known on an adapter in
    /// use. `true`: the link was lost.
    pub fn look(&mut self, tree: &Tree, found: Option<&str>, now: RawTime) -> bool {
        let device = found.and_then(|path| tree.devices.get(path));
        self.device = found.map(str::to_owned);
        let up = device.is_some_and(|d| d.connected);
        self.not_before = self.not_before.filter(|at| now < *at);
        self.seen = self.seen.filter(|at| now - *at < SIGHT && device.is_some());
        if device.is_some_and(|d| d.rssi.is_some()) {
            if self.seen.is_none() && self.stage == Stage::Away {
                // It has just come (back): no reason to wait.
                self.not_before = None;
                self.wait = SHORTEST;
            }
            self.seen = Some(now);
        }
        match (self.stage, up) {
            (Stage::Away | Stage::Connecting, true) => {
                // Another program may have opened it meanwhile.
                self.ours = self.stage == Stage::Connecting;
                self.links += 1;
                self.stage = Stage::Resolving(now);
                false
            }
            (Stage::Resolving(_) | Stage::Subscribing | Stage::Listening(_), false) => {
                self.lost(now);
                true
            }
            // bluetoothd reads the services again; the subscription is made again after.
            (Stage::Listening(_), true) if device.is_some_and(|d| !d.resolved) => {
                self.stage = Stage::Resolving(now);
                false
            }
            _ => false,
        }
    }

    fn lost(&mut self, now: RawTime) {
        let good = matches!(self.stage, Stage::Listening(since) if now - since >= GOOD);
        self.stage = Stage::Away;
        self.ours = false;
        self.told = false;
        self.seen = None;
        if good {
            self.wait = SHORTEST;
        }
        self.put_off(now);
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: RawTime) {
        match self.stage {
            Stage::Connecting => self.stage = Stage::Away,
            Stage::Subscribing => self.stage = Stage::Resolving(now),
            _ => return,
        }
        self.put_off(now);
    }

    fn put_off(&mut self, now: RawTime) {
        self.not_before = Some(now + self.wait);
        self.wait = Nanos::new(self.wait.get() * 2).min(self.longest);
    }

    /// Subscribed.
    pub fn subscribed(&mut self, now: RawTime) {
        if self.stage == Stage::Subscribing {
            self.stage = Stage::Listening(now);
        }
    }

    /// Nobody is subscribed any more though the link is up: subscribe again.
    pub fn unsubscribed(&mut self, now: RawTime) {
        if self.is_listening() {
            self.stage = Stage::Resolving(now);
        }
    }

    /// A link of no use could not be ended: it is tried once more later.
    pub fn not_dropped(&mut self, now: RawTime) {
        if matches!(self.stage, Stage::Resolving(_)) {
            self.ours = true;
            self.stage = Stage::Resolving(now);
        }
    }

    /// A frame came: the link is good.
    pub fn heard(&mut self) {
        self.wait = SHORTEST;
    }

    /// BlueZ has left: everything begins anew. `true`: a link was lost.
    pub fn reset(&mut self) -> bool {
        let lost =
            matches!(self.stage, Stage::Resolving(_) | Stage::Subscribing | Stage::Listening(_));
        *self = Self { links: self.links, ..Self::new(self.longest) };
        lost
    }

    /// What to do next.
    #[must_use]
    pub fn wish(&self, tree: &Tree, now: RawTime) -> Wish {
        let Some(path) = &self.device else {
            return if self.stage == Stage::Away { Wish::Scan } else { Wish::Nothing };
        };
        let waiting = self.not_before.is_some_and(|at| now < at);
        match self.stage {
            Stage::Away if self.seen.is_none() => Wish::Scan,
            Stage::Away if waiting => Wish::Nothing,
            Stage::Away => Wish::Connect(path.clone()),
            Stage::Resolving(since) => {
                let resolved = tree.devices.get(path).is_some_and(|d| d.resolved);
                match tree.characteristic(path, true) {
                    Some(_) if waiting => Wish::Nothing,
                    Some(characteristic) if resolved => Wish::Subscribe(characteristic.to_owned()),
                    _ if now - since >= RESOLVING && self.ours => Wish::Drop(path.clone()),
                    _ => Wish::Nothing,
                }
            }
            Stage::Connecting | Stage::Subscribing | Stage::Listening(_) => Wish::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/org/bluez/hci0/dev_1";

    fn at(ms: i64) -> RawTime {
        RawTime::from_nanos(ms * 1_000_000)
    }
    fn tree(connected: bool, seen: bool) -> Tree {
        let device = Device {
            adapter: "/org/bluez/hci0".into(),
            address: "60:09:C3:00:DC:1A".into(),
            name: "AMG Lab COMM DC1A".into(),
            connected,
            rssi: seen.then_some(-60),
            ..Device::default()
        };
        let mut tree = Tree::default();
        tree.devices.insert(PATH.into(), device);
        tree
    }

    #[test]
    fn a_timer_is_known_by_address_or_by_the_beginning_of_its_name() {
        let tree = tree(false, true);
        let device = &tree.devices[PATH];
        let timer = |address: &str, name: &str| Timer {
            address: address.into(),
            r#match: name.into(),
            ..Timer::default()
        };
        assert!(is_this(&timer("", ""), device));
        assert!(is_this(&timer("60:09:c3:00:dc:1a", ""), device));
        assert!(is_this(&timer("", "amg lab comm dc"), device));
        assert!(!is_this(&timer("60:09:C3:00:00:01", ""), device));
        assert!(!is_this(&timer("", "SG"), device));
    }

    #[test]
    fn a_timer_out_of_sight_is_scanned_for_and_then_connected() {
        let mut link = Link::new(Nanos::from_secs(30));
        assert_eq!(link.wish(&Tree::default(), at(0)), Wish::Scan);
        let unseen = tree(false, false);
        link.look(&unseen, Some(PATH), at(0));
        assert_eq!(link.wish(&unseen, at(0)), Wish::Scan);
        let seen = tree(false, true);
        link.look(&seen, Some(PATH), at(10));
        assert_eq!(link.wish(&seen, at(10)), Wish::Connect(PATH.into()));
    }

    #[test]
    fn a_timer_stays_in_sight_when_the_scan_ends_for_its_sake() {
        let mut link = Link::new(Nanos::from_secs(30));
        link.look(&tree(false, true), Some(PATH), at(0));
        // With the scan bluetoothd ends the signal strength, often before it answers.
        let ended = tree(false, false);
        link.look(&ended, Some(PATH), at(20));
        assert_eq!(link.wish(&ended, at(20)), Wish::Connect(PATH.into()));
        link.look(&ended, Some(PATH), at(10_000));
        assert_eq!(link.wish(&ended, at(10_000)), Wish::Scan);
        // bluetoothd forgets the device itself.
        link.look(&tree(false, true), Some(PATH), at(11_000));
        link.look(&Tree::default(), None, at(11_010));
        assert_eq!(link.wish(&Tree::default(), at(11_010)), Wish::Scan);
    }

    #[test]
    fn nothing_is_due_in_the_past() {
        let look = |link: &mut Link, tree: &Tree, ms: i64| {
            link.look(tree, Some(PATH), at(ms));
            assert!(link.due().is_none_or(|due| due > at(ms)), "{link:?} at {ms} ms");
        };
        // Lost, and out of sight for long; then another program's link that is of no use.
        let mut link = Link::new(Nanos::from_secs(30));
        link.stage = Stage::Listening(at(0));
        for ms in [60_000, 60_400, 61_000, 100_000] {
            look(&mut link, &tree(false, false), ms);
        }
        for ms in [200_000, 214_000, 215_000, 300_000] {
            look(&mut link, &tree(true, false), ms);
        }
        // In sight, and every attempt fails.
        let mut link = Link::new(Nanos::from_secs(30));
        look(&mut link, &tree(false, true), 0);
        link.stage = Stage::Connecting;
        link.failed(at(0));
        for ms in [499, 500, 9_999, 10_000, 20_000] {
            look(&mut link, &tree(false, false), ms);
        }
        // A subscription that was refused is asked for again half a second later.
        link.stage = Stage::Subscribing;
        link.failed(at(30_000));
        assert!(link.due().is_some_and(|due| due < at(32_000)), "{link:?}");
    }

    #[test]
    fn failures_wait_longer_and_longer_but_never_longer_than_told() {
        let mut link = Link::new(Nanos::from_secs(4));
        let seen = tree(false, true);
        link.look(&seen, Some(PATH), at(0));
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..6 {
            link.look(&seen, Some(PATH), at(now));
            link.stage = Stage::Connecting;
            link.failed(at(now));
            let due = link.due().unwrap();
            waits.push((due - at(now)).get() / 1_000_000);
            assert_eq!(link.wish(&seen, due - Nanos::new(1)), Wish::Nothing);
            now = due.as_nanos() / 1_000_000;
            assert_eq!(link.wish(&seen, due), Wish::Connect(PATH.into()));
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 4000, 4000]);
        // It goes out of sight and comes back: no wait.
        now += 10_000;
        link.look(&tree(false, false), Some(PATH), at(now));
        assert_eq!(link.wish(&tree(false, false), at(now)), Wish::Scan);
        link.look(&seen, Some(PATH), at(now));
        assert_eq!(link.wish(&seen, at(now)), Wish::Connect(PATH.into()));
    }

    #[test]
    fn a_good_link_makes_the_next_wait_short_again_and_a_bad_one_does_not() {
        // Subscribed, and lost after so long: the wait before the next attempt, ms.
        let lost_after = |ms: i64| {
            let mut link = Link::new(Nanos::from_secs(30));
            link.look(&tree(false, true), Some(PATH), at(0));
            for _ in 0..4 {
                link.stage = Stage::Connecting;
                link.failed(at(0));
            }
            link.stage = Stage::Subscribing;
            link.subscribed(at(1000));
            assert!(link.look(&tree(false, false), Some(PATH), at(1000 + ms)));
            (link.due().unwrap() - at(1000 + ms)).get() / 1_000_000
        };
        assert_eq!((lost_after(9_000), lost_after(10_000)), (8000, 500));
        // A frame that was heard shows a good link at once.
        let mut link = Link::new(Nanos::from_secs(30));
        link.stage = Stage::Connecting;
        link.failed(at(0));
        link.stage = Stage::Listening(at(100));
        link.heard();
        link.look(&tree(false, false), Some(PATH), at(200));
        assert_eq!(link.due().unwrap(), at(700));
    }

    #[test]
    fn a_link_of_no_use_that_cannot_be_ended_is_ended_later() {
        let up = tree(true, false);
        let mut link = Link::new(Nanos::from_secs(30));
        link.stage = Stage::Connecting;
        link.look(&up, Some(PATH), at(0));
        assert_eq!(link.wish(&up, at(15_000)), Wish::Drop(PATH.into()));
        link.ours = false;
        assert_eq!(link.wish(&up, at(20_000)), Wish::Nothing);
        link.not_dropped(at(25_000));
        assert_eq!(link.wish(&up, at(39_000)), Wish::Nothing);
        assert_eq!(link.wish(&up, at(40_000)), Wish::Drop(PATH.into()));
    }

    #[test]
    fn a_link_another_program_opened_is_used_and_never_dropped() {
        let mut link = Link::new(Nanos::from_secs(30));
        let up = tree(true, false);
        assert!(!link.look(&up, Some(PATH), at(0)));
        assert!(matches!(link.stage, Stage::Resolving(_)) && !link.ours);
        assert_eq!(link.wish(&up, at(60_000)), Wish::Nothing);
        // Ours, and its services never come: dropped after fifteen seconds.
        let mut link = Link::new(Nanos::from_secs(30));
        link.stage = Stage::Connecting;
        link.look(&up, Some(PATH), at(0));
        assert_eq!(link.wish(&up, at(15_000)), Wish::Drop(PATH.into()));
    }

    #[test]
    fn a_lost_link_is_told_once() {
        let mut link = Link::new(Nanos::from_secs(30));
        link.stage = Stage::Listening(at(0));
        assert!(link.look(&tree(false, false), Some(PATH), at(60_000)));
        assert!(!link.look(&tree(false, false), Some(PATH), at(60_001)));
        assert_eq!(link.stage, Stage::Away);
    }
}
