//! The engine alone, on hand-made exchanges: what is stepped, slewed, refused, and when.
use super::discipline::Correction;
use super::packet::{LEN, ntp};
use super::*;

mod byhand;
mod polls;
mod receiver;

/// A clock that does what it is told, and servers that are right unless told otherwise.
struct Bench {
    engine: Engine,
    raw: i64,
    /// Realtime − raw.
    ours: i64,
    slew: i64,
    /// True − raw.
    truth: i64,
    wrong: Vec<i64>,
    dead: Vec<bool>,
    /// What asking a dead server comes to.
    death: Why,
    steps: Vec<i64>,
    slews: Vec<i64>,
    events: Vec<Event>,
}

const START: i64 = 1_800_000_000_000_000_000;
const MS: i64 = 1_000_000;
const S: i64 = 1_000_000_000;

impl Bench {
    fn new(servers: usize, behind: i64, settled: bool) -> Self {
        let raw = 1_000 * S;
        let truth = START;
        let ours = truth - behind;
        let settings = Settings {
            sync_interval: Nanos::from_secs(64),
            limits: discipline::Limits::default(),
            built: UtcTime::from_nanos(START - 30 * 86_400 * S),
            mark: None,
            settled,
            restored: false,
            steer: true,
            memory: None,
            spent: Vec::new(),
            seed: 1,
        };
        let spec = |n: usize| ServerSpec {
            name: format!("s{n}"),
            operator: format!("o{n}"),
            ..ServerSpec::default()
        };
        let now = Reading { raw: RawTime::from_nanos(raw), utc: UtcTime::from_nanos(raw + ours) };
        Self {
            engine: Engine::new(settings, (0..servers).map(spec).collect(), now),
            raw,
            ours,
            slew: 0,
            truth,
            wrong: vec![0; servers],
            dead: vec![false; servers],
            death: Why::Timeout,
            steps: Vec::new(),
            slews: Vec::new(),
            events: Vec::new(),
        }
    }

    fn now(&self) -> Reading {
        Reading {
            raw: RawTime::from_nanos(self.raw),
            utc: UtcTime::from_nanos(self.raw + self.ours),
        }
    }

    fn pass(&mut self, ns: i64) {
        let most = ns / 2_000;
        let done = self.slew.clamp(-most, most);
        self.slew -= done;
        self.ours += done;
        self.raw += ns;
    }

    fn feed(&mut self, input: Input<'_>) -> Vec<ServerId> {
        let now = self.now();
        let outputs: Vec<Output> = self.engine.handle(now, input).collect();
        let mut asks = Vec::new();
        for o in outputs {
            match o {
                Output::Ask(id) => asks.push(id),
                Output::Steer(Correction::Step(by)) => {
                    self.ours += by.get();
                    self.steps.push(by.get());
                }
                Output::Steer(Correction::Slew(by)) => {
                    self.slew = by.get();
                    self.slews.push(by.get());
                }
                Output::Steer(Correction::Frequency(_)) | Output::Kernel(_) => {}
                Output::Tell(e) => self.events.push(e),
            }
        }
        asks
    }

    fn reply(&self, id: ServerId, sent: i64) -> Exchange {
        let mut packet = [0; LEN];
        packet[0] = 0b00_100_100;
        packet[1] = 2;
        packet[3] = (-20_i8).cast_unsigned();
        packet[16..24].copy_from_slice(&(id as u64 + 1).to_be_bytes());
        let at =
            |raw: i64| ntp(UtcTime::from_nanos(raw + self.truth + self.wrong[id])).to_be_bytes();
        packet[32..40].copy_from_slice(&at(sent + 10 * MS));
        packet[40..48].copy_from_slice(&at(sent + 10 * MS + 1000));
        Exchange {
            packet,
            sent: RawTime::from_nanos(sent),
            received: RawTime::from_nanos(sent + 20 * MS + 1000),
            bogus: Bogus::default(),
        }
    }

    fn run(&mut self, seconds: i64) {
        let end = self.raw + seconds * S;
        loop {
            let next = self.engine.next_tick().map_or(end, RawTime::as_nanos);
            if next >= end {
                self.pass((end - self.raw).max(0));
                return;
            }
            self.pass((next - self.raw).max(1));
            let mut asked = self.feed(Input::Tick);
            while let Some(id) = asked.pop() {
                let sent = self.raw;
                if self.dead[id] {
                    self.pass(S / 100);
                    asked.extend(self.feed(Input::Failed(
                        id,
                        self.death.clone(),
                        Bogus::default(),
                    )));
                    continue;
                }
                let exchange = self.reply(id, sent);
                self.pass(20 * MS + 2000);
                asked.extend(self.feed(Input::Exchange(id, &exchange)));
            }
        }
    }

    fn error_ms(&self) -> i64 {
        (self.truth - self.ours) / MS
    }
}

#[test]
fn a_day_wrong_at_the_start_is_one_step() {
    for servers in [1, 2, 4] {
        let mut b = Bench::new(servers, 86_400 * S, false);
        b.run(30);
        assert_eq!(b.steps.len(), 1, "{servers} servers: {:?}", b.steps);
        assert_eq!(b.error_ms(), 0);
    }
}

#[test]
fn eighty_milliseconds_after_settled_are_slewed_and_never_stepped() {
    let mut b = Bench::new(4, 80 * MS, true);
    b.run(600);
    assert!(b.steps.is_empty(), "{:?}", b.steps);
    assert_eq!(b.error_ms(), 0);
}

#[test]
fn a_lock_forbids_steps_and_slews_and_its_end_brings_the_correction() {
    let mut b = Bench::new(2, 80 * MS, true);
    let until = RawTime::from_nanos(b.raw + 500 * S);
    let now = b.now();
    let _ = b.engine.handle(now, Input::Lock("match", until)).count();
    for id in 0..2 {
        let _ = b.feed(Input::Failed(id, Why::Timeout, Bogus::default()));
    }
    b.run(400);
    assert_eq!((b.steps.len(), b.slews.len()), (0, 0));
    assert_eq!(b.error_ms(), 80);
    b.run(600);
    assert_eq!(b.error_ms(), 0);
    assert!(b.steps.is_empty(), "{:?}", b.steps);
}

#[test]
fn a_strangers_hour_is_undone_once_and_the_third_freezes() {
    let mut b = Bench::new(3, 0, false);
    b.run(300);
    for n in 1..=2 {
        b.ours += 3600 * S;
        b.run(100);
        assert_eq!(b.steps.len(), n, "{:?}", b.events);
        assert_eq!(b.error_ms(), 0);
    }
    b.ours += 3600 * S;
    b.run(100);
    assert_eq!(b.steps.len(), 2);
    assert_eq!(b.engine.view(b.now()).phase, Phase::Frozen);
}

#[test]
fn a_jump_of_all_servers_is_followed_only_after_five_minutes_of_insistence() {
    let mut b = Bench::new(4, 0, false);
    b.run(600);
    b.truth += 37 * S;
    b.run(200);
    assert_eq!(b.steps.len(), 0);
    assert_eq!(b.engine.view(b.now()).phase, Phase::Frozen);
    b.run(600);
    assert_eq!(b.steps.len(), 1);
    assert_eq!(b.error_ms(), 0);
    assert_eq!(b.engine.view(b.now()).phase, Phase::Synchronised);
}

#[test]
fn how_long_a_jump_must_be_insisted_on_is_told_as_it_is_configured() {
    let mut b = Bench::new(4, 0, true);
    b.engine.discipline.limits.insist = Nanos::from_secs(720);
    b.run(600);
    b.wrong = vec![10 * S; 4];
    b.run(400);
    let why = b.engine.view(b.now()).why.unwrap_or_default();
    assert!(why.ends_with("only if they insist for 12 min"), "{why}");
    assert!(b.steps.is_empty(), "after five minutes already: {:?}", b.steps);
}

#[test]
fn a_gps_rollover_of_all_servers_is_never_followed() {
    let mut b = Bench::new(4, 0, false);
    b.run(600);
    b.truth -= 1024 * 7 * 86_400 * S;
    b.run(7200);
    assert!(b.steps.is_empty(), "{:?}", b.steps);
    b.truth += 1024 * 7 * 86_400 * S;
    b.run(900);
    assert_eq!(b.engine.view(b.now()).phase, Phase::Synchronised);
    assert_eq!(b.error_ms(), 0);
}

#[test]
fn one_server_that_jumps_ten_seconds_is_not_followed() {
    let mut b = Bench::new(1, 0, false);
    b.run(600);
    b.wrong[0] = 10 * S;
    b.run(3600);
    assert!(b.steps.is_empty(), "{:?}", b.steps);
    assert_eq!(b.error_ms(), 0);
    assert_eq!(b.engine.view(b.now()).phase, Phase::Frozen);
    b.wrong[0] = 0;
    b.run(600);
    assert_eq!(b.engine.view(b.now()).phase, Phase::Synchronised);
}

#[test]
fn two_camps_freeze_and_recover() {
    let mut b = Bench::new(4, 0, false);
    b.run(300);
    b.wrong[0] = 300 * MS;
    b.wrong[1] = 300 * MS;
    b.run(900);
    assert_eq!(b.engine.view(b.now()).phase, Phase::Frozen);
    assert_eq!(b.error_ms(), 0);
    b.wrong[0] = 0;
    b.wrong[1] = 0;
    b.run(900);
    assert_eq!(b.engine.view(b.now()).phase, Phase::Synchronised);
}

#[test]
fn a_liar_among_four_is_named_and_not_followed() {
    let mut b = Bench::new(4, 0, false);
    b.wrong[2] = 300 * MS;
    b.run(900);
    assert_eq!(b.error_ms(), 0);
    assert!(matches!(b.engine.sources()[2].standing, Standing::Falseticker(by)
        if (by.get() - 300 * MS).abs() < 5 * MS));
}

#[test]
fn silence_becomes_holdover_and_the_first_answer_ends_it() {
    let mut b = Bench::new(2, 0, false);
    b.run(600);
    b.dead = vec![true, true];
    b.run(1200);
    assert_eq!(b.engine.view(b.now()).phase, Phase::Holdover);
    b.dead = vec![false, false];
    b.run(200);
    assert_eq!(b.engine.view(b.now()).phase, Phase::Synchronised);
}

#[test]
fn a_network_that_comes_after_five_minutes_still_gets_its_first_step() {
    let mut b = Bench::new(2, 86_400 * S, false);
    b.dead = vec![true, true];
    b.run(300);
    assert_eq!(b.engine.view(b.now()).phase, Phase::Unsynchronised);
    b.dead = vec![false, false];
    b.run(20);
    assert_eq!(b.steps.len(), 1);
    assert_eq!(b.error_ms(), 0);
}

#[test]
fn a_clock_a_day_wrong_is_right_five_seconds_after_the_network_came() {
    for last_tried in [0, 1, 3, 7] {
        let mut b = Bench::new(3, 86_400 * S, false);
        b.dead = vec![true; 3];
        b.death = Why::Unreachable("no route to its network".into());
        b.run(60 + last_tried);
        b.dead = vec![false; 3];
        // What could not be sent needs no distance to what is.
        let mut asked = b.feed(Input::NetworkChanged);
        asked.extend(b.feed(Input::Tick));
        assert_eq!(asked.len(), 3, "{last_tried}");
        for id in asked {
            let exchange = b.reply(id, b.raw);
            b.pass(21 * MS);
            b.feed(Input::Exchange(id, &exchange));
        }
        b.run(4);
        assert_eq!((b.steps.len(), b.error_ms()), (1, 0), "{last_tried}");
    }
}

#[test]
fn three_operators_who_agree_for_ten_minutes_override_the_date_window() {
    let mut b = Bench::new(3, 0, false);
    b.truth += 40 * 31_556_952 * S;
    b.run(500);
    assert!(b.steps.is_empty(), "{:?}", b.steps);
    b.run(1800);
    assert!(b.events.contains(&Event::DateOverridden));
    assert_eq!(b.error_ms(), 0);
}

#[test]
fn a_frequency_is_what_the_kernel_must_be_told() {
    // True time gains on the raw clock: the crystal is slow, the kernel must speed up.
    let mut b = Bench::new(2, 0, false);
    for _ in 0..2000 {
        b.truth += 8 * 20_000;
        b.run(8);
    }
    println!("{:?}", b.engine.view(b.now()));
    let f = b.engine.view(b.now()).frequency.get();
    assert!((f - 20.0).abs() < 2.0, "{f}");
}

#[test]
fn a_correction_is_ordered_once_at_a_moment() {
    let mut b = Bench::new(4, 80 * MS, true);
    b.run(600);
    let slews: Vec<i64> = b.slews.iter().copied().filter(|by| *by != 0).collect();
    assert!(slews.len() > 2, "{slews:?}");
    assert!(slews.windows(2).all(|pair| pair[0] != pair[1]), "{slews:?}");
}
