//! Any bytes, read as a story of servers, strangers and operators that the engine lives through
//! under the eyes of a referee. Property tests make the bytes by chance, the fuzzer by looking for
//! branches never taken.
use crate::bench::{Bench, DAY, HOUR, MS, Plan, S, START, specs};
use leadville_timesync::engine::byhand::{How, Word};
use leadville_timesync::engine::packet::{Bogus, Exchange, LEN, Rejected, Why};
use leadville_timesync::engine::{Input, ServerId};
use leadville_timesync::units::{Nanos, RawTime, UtcTime};
use std::cell::RefCell;
use std::rc::Rc;

/// Spans that matter somewhere in the rules, ns.
const SPANS: [i64; 16] = [
    0,
    MS,
    9 * MS,
    19 * MS,
    21 * MS,
    300 * MS,
    S - S / 50,
    S + S / 20,
    5 * S,
    37 * S,
    40 * 60 * S,
    HOUR + S,
    DAY,
    7_168 * DAY,
    9 * 366 * DAY,
    30 * 366 * DAY,
];
/// Stories are long enough with so many bytes, whoever tells them.
const MOST_BYTES: usize = 160;

/// What the story makes of one server.
#[derive(Clone, Default)]
struct Server {
    wrong: i64,
    out: i64,
    home: i64,
    silent: bool,
    /// What it says instead of a reply.
    instead: Option<[u8; LEN]>,
    /// Bytes of its reply that are replaced.
    spoilt: Vec<(u8, u8)>,
}

struct Tape<'a>(&'a [u8]);

impl Tape<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }
    /// A span of either sign; the last eighth of the table is years.
    fn span(&mut self) -> Option<i64> {
        let byte = self.byte()?;
        let span = SPANS[usize::from(byte & 15)];
        Some(if byte & 16 == 0 { span } else { -span })
    }
}

/// Lives through the story, for `longest` ns at most.
///
/// # Panics
/// When a rule is broken.
pub fn play(bytes: &[u8], longest: i64) {
    let _ = tell(&mut Tape(&bytes[..bytes.len().min(MOST_BYTES)]), longest);
}

fn plan(tape: &mut Tape<'_>) -> Option<Plan> {
    let (count, flags) = (usize::from(tape.byte()? % 5) + 1, tape.byte()?);
    let mut plan = Plan::new(count).behind(tape.span()?);
    plan.settings.settled = flags & 1 != 0;
    plan.settings.steer = flags & 2 == 0;
    plan.settings.restored = flags & 4 != 0;
    if flags & 8 != 0 {
        plan = plan.remembering(f64::from(tape.byte()?.cast_signed()) * 4.0);
    }
    if flags & 16 != 0 {
        plan.settings.mark = Some(UtcTime::from_nanos(START) + Nanos::new(tape.span()?));
    }
    if flags & 32 != 0 {
        let mut all = specs(count);
        all[0].trust = true;
        plan.specs = Some(all);
    }
    if flags & 64 != 0 {
        // Before a leap second may come: minutes, or hours.
        let byte = tape.byte()?;
        let end = if byte & 1 == 0 { "2027-07-01T00:00:00Z" } else { "2028-01-01T00:00:00Z" };
        let before = if byte & 2 == 0 { 120 } else { 4 };
        plan.start =
            UtcTime::from_iso(end)?.as_nanos() - (i64::from(byte >> 2) + 1) * before * S - 60 * S;
        plan.settings.built = UtcTime::from_nanos(plan.start - 30 * DAY);
    }
    if flags & 128 != 0 {
        let mut all = specs(count);
        all.iter_mut().for_each(|s| s.operator = "one".into());
        plan.specs = Some(all);
    }
    Some(plan)
}

fn tell(tape: &mut Tape<'_>, longest: i64) -> Option<()> {
    let plan = plan(tape)?;
    let (near_leap, mut announced) = (plan.start != START, 0_u8);
    let count = plan.servers;
    let usual = Server { out: 10 * MS, home: 10 * MS, ..Server::default() };
    let servers = Rc::new(RefCell::new(vec![usual; count]));
    let mut b = plan.go();
    b.watched();
    if near_leap {
        // The kernel makes what it was told, the world what it likes, the servers what they say.
        let byte = tape.byte()?;
        (b.leaps, announced) = (true, byte);
        b.world_leaps(byte & 1 != 0);
    }
    let world = servers.clone();
    b.way = Box::new(move |id, _, _| {
        let s = &world.borrow()[id % count];
        (!s.silent).then_some((s.out, s.home))
    });
    let world = servers.clone();
    b.wrong = Box::new(move |id, _| world.borrow()[id % count].wrong);
    let world = servers.clone();
    b.spoil = Box::new(move |id, _, reply| {
        let s = &world.borrow()[id % count];
        *reply = s.instead.unwrap_or(*reply);
        for &(at, with) in &s.spoilt {
            reply[usize::from(at) % LEN] = with;
        }
    });
    if announced & 2 != 0 {
        let flag = if announced & 4 == 0 { 0b01_000_000 } else { 0b10_000_000 };
        let mask = announced >> 3;
        for (id, s) in servers.borrow_mut().iter_mut().enumerate() {
            if mask & 1 << id != 0 {
                s.spoilt.push((0, 0b00_100_100 | flag));
            }
        }
    }
    b.run(2);
    while b.t() < longest {
        let left = (longest - b.t()) / S + 1;
        scene(tape, &mut b, &servers, left)?;
    }
    Some(())
}

/// One thing that happens; no longer than `left` seconds.
fn scene(
    tape: &mut Tape<'_>,
    b: &mut Bench,
    servers: &RefCell<Vec<Server>>,
    left: i64,
) -> Option<()> {
    let (what, who) = (tape.byte()?, tape.byte()?);
    let id: ServerId = usize::from(who) % servers.borrow().len();
    let all = who & 0x80 != 0;
    let change = |change: &dyn Fn(&mut Server)| {
        let mut servers = servers.borrow_mut();
        if all { servers.iter_mut().for_each(change) } else { change(&mut servers[id]) }
    };
    match what % 26 {
        0..4 => b.run(i64::from(who)),
        4..8 => b.run(left.min(i64::from(who) * 16)),
        8 => {
            let by = tape.span()?;
            change(&|s| s.wrong += by);
        }
        9 => change(&|s| s.wrong = 0),
        10 => {
            let (at, with) = (tape.byte()?, tape.byte()?);
            change(&|s| s.spoilt.push((at, with)));
        }
        11 => change(&|s| s.spoilt.clear()),
        12 => {
            let (out, home) = (i64::from(tape.byte()?) * MS, i64::from(tape.byte()?) * MS);
            change(&|s| (s.out, s.home) = (out, home));
        }
        13 => change(&|s| s.silent = !s.silent),
        14 => {
            let by = tape.span()?;
            // A clock stays within what the kernel accepts.
            if (b.raw + b.ours).checked_add(by).is_some_and(|t| t > 0 && t < 5 * START / 2) {
                b.jump(by);
            }
        }
        15 => {
            let until = RawTime::from_nanos(b.raw + i64::from(tape.byte()?) * 60 * S);
            b.happen(Input::Lock(if all { "match" } else { "string" }, until));
        }
        16 => b.happen(Input::Unlock(if all { "match" } else { "string" })),
        17 => b.happen(Input::Step),
        18 => b.happen(if all { Input::SyncNow } else { Input::NetworkChanged }),
        19 => {
            let slept = i64::from(tape.byte()?) * 60 * S;
            let wrong = tape.span()?;
            b.truth += slept;
            b.ours += slept + if wrong.abs() < DAY { wrong } else { 0 };
            b.happen(Input::Slept(Nanos::new(slept)));
        }
        20 => {
            // Any bytes at all as a reply.
            let mut packet = [0; LEN];
            for byte in &mut packet {
                *byte = tape.byte()?;
            }
            let way = i64::from(who) * 8 * MS;
            change(&|s| (s.instead, s.out, s.home) = (Some(packet), way, way));
            b.happen(Input::SyncNow);
            b.run(5);
            change(&|s| (s.instead, s.out, s.home) = (None, 10 * MS, 10 * MS));
            // And once more, when nobody asked.
            let sent = RawTime::from_nanos(b.raw - way);
            let received = RawTime::from_nanos(b.raw);
            let exchange = Exchange { packet, sent, received, bogus: Bogus::default() };
            b.happen(Input::Exchange(id, &exchange));
        }
        21 => {
            let bogus = Bogus { wrong_length: u32::MAX, wrong_origin: u32::MAX, wrong_address: 1 };
            b.happen(Input::Failed(id, Why::Timeout, bogus));
        }
        22 => match tape.byte()? % 4 {
            0 => b.happen(Input::Moved(id)),
            1 => b.happen(Input::Barred(id, Rejected::Ourselves)),
            2 => b.engine.retire(id),
            _ => b.engine.revive(id, RawTime::from_nanos(b.raw)),
        },
        24 => {
            let at = RawTime::from_nanos(b.raw);
            let utc = UtcTime::from_nanos(b.true_utc()) + Nanos::new(tape.span()?);
            let uncertainty = Nanos::from_secs(i64::from(who) + 1);
            let how = if all { How::Phone } else { How::Typed };
            b.happen(Input::ByHand(&Word { utc, at, uncertainty, how }));
        }
        25 => b.happen(Input::Steering(all)),
        _ => match tape.byte()? {
            0..64 => b.happen(Input::Reset),
            64..128 => b.happen(Input::Temperature(f64::from(who))),
            ppm => {
                b.crystal = f64::from(ppm.cast_signed()) * 5.0;
            }
        },
    }
    Some(())
}
