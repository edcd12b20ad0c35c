//! What the engine has to offer to others, and which of the others' offers it takes.
//!
//! Where nobody has UTC, one computer of the range leads and the others follow, without talk
//! about it: a time that no server has confirmed is offered at stratum 10 or more, and taken
//! only by who has nothing better. Better is the smaller root distance; of two that know
//! nothing, the smaller identifier. So two never follow each other.
use super::super::byhand::{ByHand, How};
use super::super::estimator::Sample;
use super::super::packet::{self, Rejected, Reply};
use super::super::source::Standing;
use super::super::{Engine, PHI, Phase, ServerId, timeline};
use super::{LOCAL_STRATUM, Service, UNKNOWN};
use crate::units::{Nanos, Ppm, RawTime, Reading};

/// How a clock without a server begins its name.
const OWN_CLOCK: [u8; 2] = [127, 127];
/// Who starts listens for so long before it leads.
const ALONE: Nanos = Nanos::from_secs(20);
/// So many requests in a row without an answer, and a neighbour is not followed any more.
const LOST: u32 = 3;
/// How long neighbours may still name one who has started again.
const REBORN: Nanos = Nanos::from_secs(1_200);
/// Servers ask at least every 2¹⁰ s: who has heard nobody for longer carries its time on.
const UNHEARD: Nanos = Nanos::from_secs(1_200);
/// Two whose words differ by no more than this factor know the same; then the name decides.
const ALIKE: f64 = 1.1;

/// Whom the offered time is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A server that we follow.
    Server(ServerId),
    /// Nobody at the moment: our own clock carries it.
    Own([u8; 4]),
}

/// A time to serve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// What is said; its reference identifier is still to be filled in.
    pub service: Service,
    /// Whom it is from.
    pub reference: Reference,
}

/// Where the timeline came from, for those behind us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Lineage {
    pub server: ServerId,
    pub stratum: u8,
    pub root_delay: Nanos,
    /// Its identifier, when it was its own reference.
    pub reference_id: [u8; 4],
    /// When UTC was last heard further up, if the server only carries it on.
    pub heard: Option<RawTime>,
}

/// Whether a reply names no server: the clock of who answers is the reference. Stratum 1 under such a
/// name is a server that has been told to be one.
fn by_its_own_clock(reply: &Reply) -> bool {
    reply.reference_id[..2] == OWN_CLOCK && reply.stratum > 1
}

/// How long ago UTC was heard by who answers, or by those before it: its reference time, which
/// whoever follows one that only carries its time passes on as it is.
fn unheard(reply: &Reply) -> Nanos {
    match reply.reference_time {
        0 => Nanos::ZERO,
        at => (reply.t3 - packet::utc(at, reply.t3)).max(Nanos::ZERO),
    }
}

impl Engine {
    /// Offer a time that no server has confirmed, too.
    pub fn serve_local(&mut self, yes: bool) {
        self.local = yes;
    }

    /// How we call ourselves where our own clock is the reference: 127.127 as clocks without
    /// servers do, then two bytes of chance.
    fn own_name(&self) -> [u8; 4] {
        let [.., a, b] = self.settings.seed.to_be_bytes();
        [OWN_CLOCK[0], OWN_CLOCK[1], a, b]
    }

    /// What may be served now, if anything.
    #[must_use]
    pub fn offer(&self, now: Reading) -> Option<Offer> {
        let own = Reference::Own(self.own_name());
        let service = Service {
            at: now.raw,
            truth: now.utc_minus_raw(),
            frequency: self.discipline.told,
            stratum: LOCAL_STRATUM,
            leap: self.leap,
            root_delay: Nanos::ZERO,
            root_dispersion: UNKNOWN,
            growth: PHI,
            reference_id: self.own_name(),
            reference: now.raw,
        };
        let Some(estimate) = self.estimate(now.raw) else {
            // Our clock runs and nobody knows better: agreement is worth something too.
            let free = self.runs_free(now.raw);
            return free.then_some(Offer { service, reference: own });
        };
        let (truth, frequency) = (estimate.truth, estimate.frequency);
        let growth = Ppm::new(estimate.frequency_bound.get().max(PHI.get()));
        let error = self.max_error_at(now.raw, &estimate).unwrap_or(estimate.bound);
        let service = Service { truth, frequency, growth, ..service };
        let Some(lineage) = self.lineage.filter(|_| self.fixed()) else {
            let said = self.by_hand.filter(|_| self.local)?;
            let service = Service { root_dispersion: error, reference: said.at, ..service };
            return Some(Offer { service, reference: own });
        };
        let following = self.following();
        // Strata must not climb each time that two take turns in leading.
        let stratum = match (self.unconfirmed, following) {
            (None, _) => (lineage.stratum + 1).min(LOCAL_STRATUM - 1),
            (Some(_), None) => LOCAL_STRATUM + 1,
            (Some(_), Some(_)) => lineage.stratum.saturating_add(1).min(15),
        };
        if stratum >= LOCAL_STRATUM && !self.local {
            return None;
        }
        Some(Offer {
            service: Service {
                stratum,
                root_delay: lineage.root_delay,
                root_dispersion: (error - lineage.root_delay.half()).max(estimate.bound),
                reference: lineage.heard.or(self.last_used).unwrap_or(now.raw),
                ..service
            },
            reference: match following {
                Some(id) if self.sources[id].spec.passive => Reference::Own(*b"GPS\0"),
                Some(id) => Reference::Server(id),
                None => own,
            },
        })
    }

    /// Nothing known, nobody heard after patience, and yet asked to lead.
    fn runs_free(&self, now: RawTime) -> bool {
        let alone = self.first_asked.is_none_or(|t| now - t > ALONE);
        self.local && alone && !self.fixed() && self.by_hand.is_none()
    }

    /// Whether a source's time can be from us. Who has just started has given time to nobody: a
    /// neighbour that names us has it from before, and carries it on. It names us until it has
    /// missed us; and it would see for itself if it took its time back from us.
    /// A server of the wide world that names us is a loop whenever it does.
    pub(in crate::engine) fn gave_time(&self, id: ServerId, now: RawTime) -> bool {
        if !self.sources[id].spec.nearby {
            true
        } else if self.fixed() {
            !self.reborn.is_some_and(|(from, at)| from == id && now - at < REBORN)
        } else {
            self.by_hand.is_some() || self.runs_free(now)
        }
    }

    /// Notes at the first fix that it is from one who had its time from us, before we started.
    pub(in crate::engine) fn note_birth(&mut self, now: RawTime) {
        let ours = self.lineage.filter(|l| self.own.contains(&l.reference_id));
        self.reborn = ours.map(|l| (l.server, now));
    }

    /// What a source said does not count any more: its time is our own.
    pub(in crate::engine) fn drop_echo(&mut self, id: ServerId) {
        self.sources[id].void();
        if self.selected.len() > 1 && self.selected.contains(&id) {
            self.selected.retain(|&s| s != id);
            self.estimator.forget(id);
        }
    }

    /// Whether a source says of itself that no server has confirmed its time.
    pub(in crate::engine) fn is_local(&self, id: ServerId) -> bool {
        self.sources[id].last.is_some_and(|(_, r)| r.stratum >= LOCAL_STRATUM)
    }

    /// Whether a source is a neighbour whose timeline is its own: nobody further up is followed.
    pub(in crate::engine) fn leads_the_range(&self, id: ServerId) -> bool {
        let s = &self.sources[id];
        s.spec.nearby && (s.last.is_some_and(|(_, r)| by_its_own_clock(&r)) || self.is_local(id))
    }

    /// A time that no server has confirmed is taken only by who has nothing better.
    pub(in crate::engine) fn declines(&self, now: Reading, id: ServerId, reply: &Reply) -> bool {
        // A neighbour who had UTC and follows nobody now: as good as our own holdover.
        let carried = self.sources[id].spec.nearby && reply.reference_id[..2] == OWN_CLOCK;
        let confirmed = reply.stratum < LOCAL_STRATUM;
        if confirmed && !(carried && self.fixed()) {
            return false;
        }
        let theirs = reply.root_distance();
        if self.fixed() {
            if self.unconfirmed.is_none() != confirmed {
                return !confirmed;
            }
            // The one we follow, as long as it is the same timeline: at stratum 10 another name
            // is another start.
            let same = |l: Lineage| {
                self.following() == Some(id)
                    && (reply.stratum != LOCAL_STRATUM || l.reference_id == reply.reference_id)
            };
            if self.lineage.is_some_and(same) {
                return false;
            }
        } else if self.by_hand.is_none_or(|said| said.how == How::Neighbour) {
            // They follow, or followed, somebody: an older timeline than ours.
            let older = reply.stratum > LOCAL_STRATUM || theirs < UNKNOWN;
            return self.runs_free(now.raw) && !older && reply.reference_id >= self.own_name();
        }
        // Judged the same way from the other side, so that never both follow or both lead.
        let said = |o: Offer| o.service.root_delay.half() + o.service.root_dispersion;
        let estimated = || self.estimate(now.raw).map_or(UNKNOWN, |e| e.bound);
        let ours = self.offer(now).map_or_else(estimated, said).as_secs_f64();
        let ratio = theirs.as_secs_f64() / ours.max(1e-9);
        let follows = self.following().is_some();
        let smaller = !follows && reply.reference_id < self.own_name();
        !(ratio < 1.0 / ALIKE || (ratio <= ALIKE && smaller))
    }

    /// The source whose time we pass on, if it is heard.
    fn following(&self) -> Option<ServerId> {
        let first = self.lineage?.server;
        let heard = |&i: &ServerId| {
            let s = &self.sources[i];
            s.silent() < LOST && !s.retired && s.standing == Standing::Selected
        };
        (self.fixed() && self.phase == Phase::Synchronised)
            .then(|| self.selected.iter().copied().filter(heard).min_by_key(|&i| (i != first, i)))
            .flatten()
    }

    /// A neighbour whose time was set anew contradicts what it said before by more than its
    /// packet's delay explains: a new timeline begins.
    pub(in crate::engine) fn heed_new_timeline(&mut self, id: ServerId, sample: &Sample) {
        let Some(e) = self.estimator.estimate(sample.received) else { return };
        let off = (sample.offset() - e.truth).abs();
        let alone = self.sources[id].spec.nearby && self.selected == [id];
        if (self.unconfirmed.is_some() || (alone && off < self.discipline.limits.step_after))
            && off > sample.delay().half() + e.bound + Nanos::from_millis(2)
        {
            let memory = self.estimator.memory().or_else(|| self.settings.memory.clone());
            self.estimator = timeline(memory.as_ref());
            self.selected.clear();
            self.shared = None;
            self.sources[id].void();
        }
    }

    /// A neighbour far from UTC, next to one of whom better is known, only echoes: its short way
    /// makes it sharp, not right.
    pub(in crate::engine) fn echoes(&self, id: ServerId, best: Nanos) -> bool {
        let s = &self.sources[id];
        let far = |distance: Nanos| distance > best + best + Nanos::from_millis(1);
        s.spec.nearby && s.last.is_some_and(|(_, r)| far(r.root_distance()))
    }

    /// How far a neighbour says to be from UTC, if its time is carried on without a server, by
    /// itself or by those before it: its short way makes it sharp, not right.
    fn carried(&self, id: ServerId) -> Option<Nanos> {
        let (_, reply) = self.sources[id].last?;
        let carried = by_its_own_clock(&reply) || unheard(&reply) > UNHEARD;
        (self.sources[id].spec.nearby && carried).then_some(reply.root_dispersion)
    }

    /// What the used sources' word is worth when none of them has been confirmed by a server.
    pub(in crate::engine) fn confirm(&mut self) {
        let local = |&&i: &&ServerId| self.is_local(i);
        let all = !self.selected.is_empty()
            && self.selected.iter().filter(local).count() == self.selected.len();
        let distance = |&i: &ServerId| self.sources[i].last.map(|(_, r)| r.root_distance());
        self.unconfirmed = all.then(|| self.selected.iter().filter_map(distance).min()).flatten();
        if all {
            self.verified = false;
        }
        let passive = |&&i: &&ServerId| self.sources[i].spec.passive;
        let beside = self.selected.iter().filter(passive).filter_map(distance).min();
        let beside = beside.filter(|_| self.selected.iter().all(|i| passive(&i)));
        // None is least: one that is not carried is enough.
        let carried = self.selected.iter().map(|&i| self.carried(i)).min().flatten();
        self.doubt = self.unconfirmed.or(beside).or(carried).unwrap_or(Nanos::ZERO);
    }

    /// Notes whom the time is from.
    pub(in crate::engine) fn trace(&mut self) {
        let of = |&i: &ServerId| {
            let (at, reply) = self.sources[i].last?;
            let delay = self.sources[i].latest()?.delay();
            let root_delay = reply.root_delay + delay.max(Nanos::ZERO);
            let reference_id = reply.reference_id;
            let heard = self.carried(i).map(|_| at - unheard(&reply));
            Some(Lineage { server: i, stratum: reply.stratum, root_delay, reference_id, heard })
        };
        let heard = |i: &&ServerId| self.sources[**i].silent() == 0;
        let best = self
            .selected
            .iter()
            .filter(heard)
            .filter_map(of)
            .min_by_key(|l| (l.stratum, l.root_delay));
        self.lineage = best.or(self.lineage);
    }

    /// A server with real time is heard after all: the timeline of the range gives way to it, but
    /// carries on until there is a fix.
    pub(in crate::engine) fn give_way(&mut self, now: Reading) {
        let Some(estimate) = self.estimate(now.raw) else { return };
        let (truth, bound) = (estimate.truth, estimate.bound);
        self.by_hand = Some(ByHand { at: now.raw, truth, bound, how: How::Neighbour });
        let memory = self.memory();
        self.settings.memory.clone_from(&memory);
        self.estimator = timeline(memory.as_ref());
        for id in 0..self.sources.len() {
            if self.is_local(id) {
                self.sources[id].void();
            }
        }
        self.selected.clear();
        self.forget_fix();
        self.first_asked = Some(now.raw);
        self.enter(Phase::Holdover, Some("a server is heard; measuring".into()));
    }

    /// A source that takes its time from us is no trouble on a range: it is what we are for.
    pub(in crate::engine) fn expected(&self, id: ServerId, why: Rejected) -> bool {
        why == Rejected::Loop && self.sources[id].spec.nearby
    }
}
