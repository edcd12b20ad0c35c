//! What the engine takes from the heap: nothing that grows, and little per poll.
#![allow(unsafe_code, reason = "a global allocator that counts")]
use leadville_timesync::engine::packet::{Bogus, Exchange, LEN, ntp};
use leadville_timesync::engine::source::ServerSpec;
use leadville_timesync::engine::{Engine, Input, Output, ServerId, Settings, discipline};
use leadville_timesync::units::{Nanos, RawTime, Reading, UtcTime};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.set(TAKEN.get() + 1);
        LIVE.set(LIVE.get() + layout.size() as i64);
        // SAFETY: as asked.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as i64);
        // SAFETY: as asked.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const SECOND: i64 = 1_000_000_000;
const SERVERS: usize = 4;
/// The raw clock's zero in UTC: 15 January 2027.
const TRUTH: i64 = 1_800_000_000 * SECOND;

/// An engine among four servers whose replies take 10 to 14 ms; its clock is never wrong.
struct World {
    engine: Engine,
    raw: i64,
    polls: u64,
}

impl World {
    fn new() -> Self {
        let settings = Settings {
            sync_interval: Nanos::from_secs(300),
            limits: discipline::Limits::default(),
            built: UtcTime::from_nanos(TRUTH - 86_400 * SECOND),
            mark: None,
            settled: false,
            restored: false,
            steer: true,
            memory: None,
            spent: Vec::new(),
            seed: 3,
        };
        let spec = |n: usize| ServerSpec {
            name: format!("s{n}"),
            operator: format!("o{n}"),
            ..ServerSpec::default()
        };
        let raw = 1_000 * SECOND;
        let engine = Engine::new(settings, (0..SERVERS).map(spec).collect(), at(raw));
        Self { engine, raw, polls: 0 }
    }

    /// Runs until so many more polls were answered.
    fn polls(&mut self, more: u64) {
        let end = self.polls + more;
        while self.polls < end {
            let next = self.engine.next_tick().expect("there is always a next poll");
            self.raw = self.raw.max(next.as_nanos());
            let mut asked = [None; SERVERS];
            self.feed(Input::Tick, &mut asked);
            for id in asked.into_iter().flatten() {
                self.polls += 1;
                let way = 5_000_000 + (self.polls % 5) as i64 * 500_000;
                let exchange = exchange(id, self.raw, way);
                self.raw = exchange.received.as_nanos();
                self.feed(Input::Exchange(id, &exchange), &mut [None; SERVERS]);
            }
        }
    }

    fn feed(&mut self, input: Input<'_>, asked: &mut [Option<ServerId>; SERVERS]) {
        for output in self.engine.handle(at(self.raw), input) {
            if let Output::Ask(id) = output {
                asked[id] = Some(id);
            }
        }
    }
}

fn at(raw: i64) -> Reading {
    Reading { raw: RawTime::from_nanos(raw), utc: UtcTime::from_nanos(raw + TRUTH) }
}

fn exchange(id: ServerId, sent: i64, way: i64) -> Exchange {
    let there = ntp(UtcTime::from_nanos(sent + TRUTH + way)).to_be_bytes();
    let mut packet = [0; LEN];
    (packet[0], packet[1], packet[3]) = (0b00_100_100, 2, (-20_i8).cast_unsigned());
    packet[12..16].copy_from_slice(&[192, 0, 2, id as u8 + 1]);
    packet[16..24].copy_from_slice(&(id as u64 + 1).to_be_bytes());
    packet[32..40].copy_from_slice(&there);
    packet[40..48].copy_from_slice(&there);
    let (sent, received) = (RawTime::from_nanos(sent), RawTime::from_nanos(sent + 2 * way));
    Exchange { packet, sent, received, bogus: Bogus::default() }
}

#[test]
fn a_thousand_polls_leave_nothing_on_the_heap_and_take_little_each() {
    let mut world = World::new();
    world.polls(400);
    let (taken, live) = (TAKEN.get(), LIVE.get());
    world.polls(1_000);
    let (taken, grown) = (TAKEN.get() - taken, LIVE.get() - live);
    println!("{:.1} allocations per poll; {grown} bytes more after 1000 polls", taken as f64 / 1e3);
    assert_eq!(grown, 0, "the engine grows");
    assert!(taken <= 5_750, "{taken} allocations in 1000 polls");
}
