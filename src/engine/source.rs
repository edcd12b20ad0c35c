//! One server: when to ask it, what it said, what became of it.
use super::ServerId;
use super::estimator::Sample;
use super::packet::{self, Bogus, Exchange, Kiss, Leap, Rejected, Reply, Why};
use super::select::Interval;
use crate::units::{Nanos, Ppm, RawTime, UtcTime};
use std::collections::VecDeque;

/// Samples remembered for the vote.
const RECENT: usize = 8;
/// NIST's rule: never ask one address more often.
pub const SPACING: Nanos = Nanos::from_secs(4);
/// On our own machine and network the rule is ours.
pub const SPACING_NEARBY: Nanos = Nanos::from_secs(1);
/// A neighbour without UTC says so by its root distance: up to RFC 5905's MAXDISP, as it grew in
/// weeks.
const MAX_ROOT_DISTANCE_NEARBY: Nanos = Nanos::from_secs(100);
/// A server may keep a request this long, and its way is still known to be the shorter.
const CREDIT: Nanos = Nanos::from_millis(1);
/// Who speaks by itself, and has not for so long, is silent.
const MUTE: Nanos = Nanos::from_secs(90);
/// Requests at this spacing until the first fix.
const EAGER_REQUESTS: u32 = 4;

/// What is known of a server before it is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSpec {
    /// As written in the configuration.
    pub name: String,
    /// Who runs it; servers of one operator are one vote for *verified*.
    pub operator: String,
    /// Believed without a second opinion.
    pub trust: bool,
    /// Spreads leap seconds over a day.
    pub smeared: bool,
    /// On this machine or its own network, and written as an address.
    pub nearby: bool,
    /// Speaks by itself and is never asked, as a GPS receiver does.
    pub passive: bool,
}

/// What a source's last word was worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Not heard yet.
    #[default]
    Waiting,
    /// In use.
    Selected,
    /// Sound but not used.
    Unused(String),
    /// Outvoted; by how much it misses the majority.
    Falseticker(Nanos),
    /// Did not answer.
    Unreachable(Why),
    /// Answered with nothing usable.
    Rejected(Rejected),
}

/// One server.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is.
    pub spec: ServerSpec,
    /// Not configured any more.
    pub retired: bool,
    /// When to ask next.
    pub next_poll: RawTime,
    /// The request under way.
    pub asked: Option<RawTime>,
    /// When it was last asked.
    pub last_asked: Option<RawTime>,
    /// The last eight exchanges, newest in the lowest bit.
    pub reach: u8,
    /// Requests sent.
    pub requests: u64,
    /// Usable replies.
    pub replies: u64,
    /// Replies not used, by reason.
    pub rejected: [u64; Rejected::COUNT],
    /// What its last word was worth.
    pub standing: Standing,
    /// Its last usable reply, and when it came.
    pub last: Option<(RawTime, Reply)>,
    /// The last reply that only its date spoke against: true − raw, and when.
    pub misdated: Option<(RawTime, Nanos)>,
    /// When it is silent if it says nothing by then; for one that speaks by itself.
    mute_at: Option<RawTime>,
    samples: VecDeque<Sample>,
    silent: u32,
    floor: Nanos,
    resting_until: Option<RawTime>,
}

impl Source {
    /// A server, to be asked at once.
    #[must_use]
    pub fn new(spec: ServerSpec, now: RawTime) -> Self {
        Self {
            next_poll: if spec.passive { RawTime::from_nanos(i64::MAX) } else { now },
            mute_at: spec.passive.then(|| now + MUTE),
            spec,
            retired: false,
            asked: None,
            last_asked: None,
            reach: 0,
            requests: 0,
            replies: 0,
            rejected: [0; Rejected::COUNT],
            standing: Standing::Waiting,
            last: None,
            misdated: None,
            samples: VecDeque::with_capacity(RECENT),
            silent: 0,
            floor: Nanos::ZERO,
            resting_until: None,
        }
    }

    /// Shortest time between two requests.
    #[must_use]
    pub fn spacing(&self) -> Nanos {
        if self.spec.nearby { SPACING_NEARBY } else { SPACING }
    }

    /// Usable replies remembered for the vote.
    #[must_use]
    pub fn sample_count(&self) -> usize {
        self.samples.len()
    }

    /// The latest sample.
    #[must_use]
    pub fn latest(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// Silent requests in a row.
    #[must_use]
    pub fn silent(&self) -> u32 {
        self.silent
    }

    /// Another address: what the old one said, or told us to do, no longer counts.
    pub fn moved(&mut self, now: RawTime) {
        self.samples.clear();
        self.reach = 0;
        self.silent = 0;
        self.floor = Nanos::ZERO;
        self.resting_until = None;
        self.last = None;
        self.misdated = None;
        self.standing = Standing::Waiting;
        self.hurry(now);
    }

    /// When to see whether it still speaks by itself.
    #[must_use]
    pub fn mute_at(&self) -> Option<RawTime> {
        self.mute_at.filter(|_| !self.retired)
    }

    /// It has spoken by itself.
    pub fn spoke(&mut self, now: RawTime) {
        self.requests += 1;
        self.reach <<= 1;
        self.mute_at = Some(now + MUTE);
    }

    /// Whether it has just been silent for too long.
    pub fn falls_silent(&mut self, now: RawTime) -> bool {
        let mute = self.mute_at().is_some_and(|t| now >= t);
        if mute {
            self.reach = 0;
            self.failed(Why::Mute);
        }
        mute
    }

    /// Notes that it is being asked now.
    pub fn ask(&mut self, now: RawTime) {
        self.asked = Some(now);
        self.last_asked = Some(now);
        self.requests += 1;
        self.reach <<= 1;
    }

    /// Asks as soon as the spacing allows.
    pub fn hurry(&mut self, now: RawTime) {
        if self.spec.passive || self.asked.is_some() || self.resting_until.is_some_and(|t| t > now)
        {
            return;
        }
        let earliest = self.last_asked.map_or(now, |t| t + self.spacing().max(self.floor));
        self.next_poll = self.next_poll.min(earliest.max(now));
    }

    /// A new network: silence so far says nothing about it.
    pub fn fresh_network(&mut self, now: RawTime) {
        if self.silent > 0 || self.samples.is_empty() {
            self.silent = 0;
            self.hurry(now);
        }
    }

    /// Plans the next request, never sooner than courtesy allows.
    pub fn plan(&mut self, now: RawTime, wanted: Nanos) {
        if self.spec.passive {
            return;
        }
        self.next_poll = match self.last_asked {
            Some(last) => last + wanted.max(self.spacing()).max(self.floor),
            None => now + wanted.max(self.floor),
        };
        if let Some(rest) = self.resting_until {
            self.next_poll = self.next_poll.max(rest);
        }
        self.next_poll = self.next_poll.max(now);
    }

    /// How long to wait before the next request while nothing is settled yet.
    #[must_use]
    pub fn eager_interval(&self, base: Nanos) -> Nanos {
        if self.silent > 0 {
            // 1, 2, 4, 8 s for ten minutes, then up to 64 s: a network that comes late must
            // still find us awake.
            let limit = if self.requests < 80 { 3 } else { 6 };
            return Nanos::from_secs(1 << (self.silent - 1).min(limit)).min(base);
        }
        if self.requests < u64::from(EAGER_REQUESTS) {
            self.spacing()
        } else {
            (self.spacing() + self.spacing()).min(base)
        }
    }

    /// Counts what was skipped while waiting.
    pub fn count_bogus(&mut self, bogus: Bogus) {
        self.rejected[Rejected::Length.index()] += u64::from(bogus.wrong_length);
        self.rejected[Rejected::Origin.index()] += u64::from(bogus.wrong_origin);
        self.rejected[Rejected::Address.index()] += u64::from(bogus.wrong_address);
    }

    /// No answer came.
    pub fn failed(&mut self, why: Why) {
        self.asked = None;
        self.mute_at = None;
        if why.reached_nobody() && self.floor == Nanos::ZERO {
            self.last_asked = None;
        }
        self.silent = self.silent.saturating_add(1);
        if self.reach == 0 || self.samples.is_empty() {
            self.standing = Standing::Unreachable(why);
        }
    }

    /// A reply came and is not used.
    pub fn refuse(&mut self, why: Rejected, now: RawTime) {
        self.asked = None;
        self.silent = self.silent.saturating_add(1);
        self.rejected[why.index()] += 1;
        match why {
            Rejected::Kissed(Kiss::Rate) => {
                let floor = self.floor.max(Nanos::from_secs(32));
                self.floor = (floor + floor).min(Nanos::from_secs(3600));
            }
            Rejected::Kissed(Kiss::Deny | Kiss::Restrict) => {
                self.resting_until = Some(now + Nanos::from_secs(4 * 3600));
            }
            _ => {}
        }
        if self.reach == 0 || self.samples.is_empty() {
            self.standing = Standing::Rejected(why);
        }
    }

    /// Turns an exchange into a sample, checking what its four times say together.
    ///
    /// # Errors
    /// Why it is not used.
    pub fn read(&mut self, exchange: &Exchange, rules: &Rules<'_>) -> Result<Sample, Rejected> {
        let reply = if self.spec.nearby {
            packet::parse_within(&exchange.packet, rules.around, MAX_ROOT_DISTANCE_NEARBY)?
        } else {
            packet::parse(&exchange.packet, rules.around)?
        };
        if reply.stratum < super::serve::LOCAL_STRATUM
            && reply.root_distance() >= packet::MAX_ROOT_DISTANCE
        {
            return Err(Rejected::RootDistance);
        }
        let round_trip = exchange.received - exchange.sent;
        let delay = round_trip - (reply.t3 - reply.t2);
        if delay < -reply.resolution() {
            return Err(Rejected::NegativeDelay);
        }
        if round_trip > packet::MAX_DELAY {
            return Err(Rejected::LongDelay);
        }
        if reply.stratum >= 2 && rules.own.contains(&reply.reference_id) {
            return Err(Rejected::Loop);
        }
        let outward = reply.t2.minus_raw(exchange.sent);
        let homeward = reply.t3.minus_raw(exchange.received);
        let dated = if reply.t3 < rules.earliest || reply.t3 > rules.latest {
            Err(Rejected::Date)
        } else if rules.mark.is_some_and(|m| reply.t3 < m - Nanos::from_secs(86_400)) {
            Err(Rejected::BeforeMark)
        } else {
            Ok(())
        };
        if let Err(why) = dated {
            self.misdated = Some((exchange.received, homeward));
            return Err(why);
        }
        self.misdated = None;
        self.last = Some((exchange.received, reply));
        // What it says it kept the request for makes it seem nearer. Taken at its word only as far
        // as servers are busy: else who is far away and lies would be next door.
        let stayed = (reply.t3 - reply.t2 - CREDIT).max(Nanos::ZERO).half();
        let (outward, homeward) = (outward + stayed, homeward - stayed);
        // A server of coarse resolution can seem quicker than light; its delay is then zero.
        Ok(Sample {
            outward: outward.max(homeward),
            homeward,
            sent: exchange.sent,
            received: exchange.received,
            root_distance: reply.root_distance(),
            precision: reply.resolution(),
        })
    }

    /// Keeps a sample for the vote.
    pub fn keep(&mut self, sample: Sample, frequency: Ppm, frequency_bound: Ppm) {
        self.asked = None;
        self.silent = 0;
        self.reach |= 1;
        self.replies += 1;
        self.floor = self.floor.half();
        if self.floor < SPACING {
            self.floor = Nanos::ZERO;
        }
        if matches!(self.standing, Standing::Unreachable(_) | Standing::Rejected(_)) {
            self.standing = Standing::Waiting;
        }
        // A server that contradicts its own guarantee was set: what it said before is void.
        if let Some(before) = self.interval(0, sample.received, frequency, frequency_bound) {
            let new = interval_of(&sample, 0, sample.received, frequency, frequency_bound);
            if (new.centre - before.centre).abs() > new.half + before.half {
                self.samples.clear();
            }
        }
        if self.samples.len() == RECENT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Answered, and not used for a reason that is nobody's fault.
    pub fn idle(&mut self, why: &str) {
        self.asked = None;
        self.silent = 0;
        self.replies += 1;
        self.samples.clear();
        self.standing = Standing::Unused(why.to_owned());
    }

    /// The name of every instant changed by this much, as at a leap second.
    pub fn rename(&mut self, by: Nanos) {
        for s in &mut self.samples {
            (s.outward, s.homeward) = (s.outward + by, s.homeward + by);
        }
    }

    /// The clock's timeline was broken: all samples are void.
    pub fn void(&mut self) {
        self.samples.clear();
    }

    /// What the source says of true − raw at `now`: its narrowest interval.
    #[must_use]
    pub fn interval(
        &self,
        id: ServerId,
        now: RawTime,
        frequency: Ppm,
        frequency_bound: Ppm,
    ) -> Option<Interval> {
        let all = self.samples.iter();
        let mut best = all
            .map(|s| interval_of(s, id, now, frequency, frequency_bound))
            .min_by_key(|i| i.half)?;
        best.trusted = self.spec.trust;
        Some(best)
    }

    /// What its last usable reply says of leap seconds.
    #[must_use]
    pub fn leap(&self) -> Leap {
        self.last.map_or(Leap::None, |(_, r)| r.leap)
    }
}

/// What a reply is measured by.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Resolves the era.
    pub around: UtcTime,
    /// Nothing before is believed.
    pub earliest: UtcTime,
    /// Nothing after is believed.
    pub latest: UtcTime,
    /// Verified time seen before.
    pub mark: Option<UtcTime>,
    /// Reference identifiers that mean us.
    pub own: &'a [[u8; 4]],
}

fn interval_of(s: &Sample, server: ServerId, now: RawTime, f: Ppm, f_bound: Ppm) -> Interval {
    let age: Nanos = now - s.received;
    let delay = s.outward - s.homeward;
    let drift = f_bound.over(age).abs();
    let centre = s.homeward + delay.half() + f.over(age);
    let half = delay.half() + s.root_distance + s.precision + drift;
    // Usual asymmetry: a third of the delay's half, and never better than a millisecond.
    let narrow = Nanos::from_millis(1) + Nanos::new(delay.get() / 6) + s.precision + drift;
    Interval { server, centre, half, narrow: narrow.min(half), trusted: false }
}
