//! A receiver beside us that is unplugged, jumps, or says what cannot be.
use super::*;
use crate::engine::refclock::Reference;

/// Some servers, and a receiver of a millisecond; its id.
fn with_receiver(servers: usize) -> (Bench, ServerId) {
    let mut b = Bench::new(servers, 0, false);
    let spec = ServerSpec {
        name: "GPS".into(),
        operator: "GPS".into(),
        passive: true,
        ..ServerSpec::default()
    };
    let now = b.now().raw;
    let id = b.engine.add_server(spec, now);
    (b, id)
}

/// The receiver speaks for so many seconds, wrong by that.
fn speaks(b: &mut Bench, id: ServerId, wrong: i64, leap: Leap, seconds: i64) {
    for _ in 0..seconds / 16 {
        b.run(16);
        let heard = Reference {
            at: RawTime::from_nanos(b.raw),
            truth: Nanos::new(b.truth + wrong),
            spread: Nanos::new(2_000),
            uncertainty: Nanos::from_millis(1),
            leap,
        };
        let _ = b.feed(Input::Reference(id, &heard));
    }
}

fn says(b: &Bench) -> (Phase, String) {
    let view = b.engine.view(b.now());
    (view.phase, view.why.unwrap_or_default())
}

#[test]
fn a_receiver_alone_that_jumps_by_a_second_is_not_followed_and_is_named() {
    for wrong in [S, -S] {
        let (mut b, id) = with_receiver(0);
        speaks(&mut b, id, 0, Leap::None, 600);
        assert_eq!(says(&b).0, Phase::Synchronised);
        speaks(&mut b, id, wrong, Leap::None, 3600);
        assert!(b.steps.is_empty() && b.error_ms() == 0, "{:?}, {} ms", b.steps, b.error_ms());
        let (phase, why) = says(&b);
        assert!(phase == Phase::Frozen && why.contains("jumped by"), "{phase:?}: {why}");
        speaks(&mut b, id, 0, Leap::None, 200);
        assert_eq!(says(&b).0, Phase::Synchronised);
    }
}

#[test]
fn a_receiver_that_jumps_is_outvoted_by_servers() {
    let (mut b, id) = with_receiver(2);
    speaks(&mut b, id, 0, Leap::None, 600);
    speaks(&mut b, id, S, Leap::None, 600);
    assert!(matches!(b.engine.sources()[id].standing, Standing::Falseticker(_)));
    assert_eq!((says(&b).0, b.error_ms()), (Phase::Synchronised, 0));
}

#[test]
fn weeks_that_have_rolled_over_are_refused_from_the_start_and_later() {
    let rollover = -1024 * 7 * 86_400 * S;
    let (mut b, id) = with_receiver(0);
    speaks(&mut b, id, rollover, Leap::None, 600);
    assert_eq!(b.engine.sources()[id].standing, Standing::Rejected(Rejected::Date));
    let (phase, why) = says(&b);
    assert!(phase == Phase::Unsynchronised && why.contains("which cannot be"), "{phase:?}: {why}");
    assert!(b.events.contains(&Event::Dropped(id, Rejected::Date)));
    speaks(&mut b, id, 0, Leap::None, 300);
    assert_eq!(says(&b).0, Phase::Synchronised);
    speaks(&mut b, id, rollover, Leap::None, 600);
    let (phase, why) = says(&b);
    assert!(phase == Phase::Frozen && why.contains("which cannot be"), "{phase:?}: {why}");
    assert!(b.steps.is_empty() && b.error_ms() == 0);
    speaks(&mut b, id, 0, Leap::None, 300);
    assert_eq!(says(&b).0, Phase::Synchronised);
}

#[test]
fn an_unplugged_receiver_is_named_within_two_minutes_and_the_clock_holds_over() {
    let (mut b, id) = with_receiver(0);
    speaks(&mut b, id, 0, Leap::None, 600);
    b.run(120);
    assert_eq!(b.engine.sources()[id].standing, Standing::Unreachable(Why::Mute));
    b.run(1800);
    let _ = b.feed(Input::Tick);
    assert_eq!(says(&b).0, Phase::Holdover);
    let silent = |e: &&Event| matches!(e, Event::Silent(..));
    assert_eq!(b.events.iter().filter(silent).count(), 1, "{:?}", b.events);
    speaks(&mut b, id, 0, Leap::None, 32);
    assert!(b.events.contains(&Event::Heard(id)));
    assert_eq!(says(&b).0, Phase::Synchronised);
}

#[test]
fn a_receiver_that_was_never_heard_is_named() {
    let (mut b, id) = with_receiver(0);
    b.run(120);
    assert_eq!(b.engine.sources()[id].standing, Standing::Unreachable(Why::Mute));
    let (phase, why) = says(&b);
    assert!(phase == Phase::Unsynchronised && why.starts_with("GPS: gpsd has sent"), "{why}");
}

#[test]
fn a_receiver_that_announces_a_minute_of_59_seconds_on_an_ordinary_day_changes_nothing() {
    let (mut b, id) = with_receiver(0);
    speaks(&mut b, id, 0, Leap::Delete, 86_400);
    assert_eq!(b.engine.view(b.now()).leap, Leap::None);
    assert!(b.steps.is_empty() && b.error_ms() == 0);
}
