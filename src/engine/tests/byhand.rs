//! Time from people: what it may do and what it may not.
use super::super::byhand::{How, Word};
use super::*;

impl Bench {
    fn word(&self, wrong: i64, uncertainty: i64) -> Word {
        Word {
            utc: UtcTime::from_nanos(self.raw + self.truth + wrong),
            at: RawTime::from_nanos(self.raw),
            uncertainty: Nanos::new(uncertainty),
            how: How::Typed,
        }
    }

    fn say(&mut self, wrong: i64, uncertainty: i64) -> Result<(), String> {
        let word = self.word(wrong, uncertainty);
        let may = self.engine.weigh(self.now(), &word);
        let _ = self.feed(Input::ByHand(&word));
        may
    }

    fn view(&self) -> View {
        self.engine.view(self.now())
    }
}

/// Nobody answers.
fn offline(servers: usize, behind: i64, settled: bool) -> Bench {
    let mut b = Bench::new(servers, behind, settled);
    b.dead = vec![true; servers];
    b.run(30);
    b
}

#[test]
fn a_word_starts_the_timeline_with_its_bound_and_steps_an_unsettled_clock() {
    for servers in [0, 2] {
        let mut b = offline(servers, 86_400 * S, false);
        assert!(b.view().estimate.is_none());
        b.say(S, 2 * S).unwrap();
        assert_eq!(b.steps.len(), 1);
        assert_eq!(b.error_ms(), -1_000);
        let view = b.view();
        assert_eq!(view.phase, Phase::Holdover);
        assert_eq!(view.by_hand.unwrap().how, How::Typed);
        assert!(!view.settled && !view.verified);
        let before = view.estimate.unwrap().bound;
        assert!((before - Nanos::from_secs(2)).abs() < Nanos::from_millis(1), "{before}");
        b.run(3600);
        let after = b.view().estimate.unwrap().bound;
        assert!(after > before + Nanos::from_millis(300), "{after}: the crystal is unknown");
        assert_eq!(b.steps.len(), 1, "{:?}", b.steps);
    }
}

#[test]
fn a_word_gives_way_to_servers_however_late_they_come() {
    let mut b = offline(2, 3_600 * S, false);
    b.say(1_500 * MS, 2 * S).unwrap();
    b.run(4 * 3_600);
    b.dead = vec![false; 2];
    b.run(200);
    assert_eq!(b.steps.len(), 2, "{:?}", b.steps);
    assert_eq!(b.error_ms(), 0);
    let view = b.view();
    assert_eq!((view.phase, view.by_hand), (Phase::Synchronised, None));
    assert!(view.settled && view.verified);
    assert!(b.say(0, 2 * S).unwrap_err().contains("servers have said"), "and then it is refused");
}

#[test]
fn a_settled_clock_is_never_stepped_by_a_word() {
    // The daemon was restarted without a network: the clock was right before.
    let mut b = offline(2, 0, true);
    let refused = b.say(5 * S, 2 * S).unwrap_err();
    assert!(refused.contains("not moved by hand"), "{refused}");
    assert_eq!(b.view().by_hand, None);
    let effect = b.engine.effect(b.now(), &b.word(S, 2 * S));
    assert!(!effect.moves && effect.settled && effect.bound >= Nanos::from_millis(2_999));
    b.say(S, 2 * S).unwrap();
    b.run(600);
    assert!(b.steps.is_empty() && b.slews.is_empty(), "{:?} {:?}", b.steps, b.slews);
    let bound = b.view().estimate.unwrap().bound;
    assert!(bound >= Nanos::from_secs(3), "the word and its distance: {bound}");
}

#[test]
fn a_word_does_not_move_a_clock_that_is_held_still() {
    let mut b = offline(1, 10 * S, false);
    let until = RawTime::from_nanos(b.raw + 600 * S);
    let _ = b.feed(Input::Lock("match", until));
    assert!(b.say(0, 2 * S).unwrap_err().contains("match"));
    assert!(b.steps.is_empty());
    let _ = b.feed(Input::Unlock("match"));
    b.say(0, 2 * S).unwrap();
    assert_eq!(b.error_ms(), 0);
}

#[test]
fn the_last_word_counts_and_absurd_ones_do_not() {
    let mut b = offline(1, 10 * S, false);
    b.say(2 * S, 2 * S).unwrap();
    b.say(0, S / 2).unwrap();
    assert_eq!(b.error_ms(), 0);
    let year = 31_556_952 * S;
    for (wrong, uncertainty) in [(-year, S), (30 * year, S), (0, 0), (0, 7_200 * S)] {
        assert!(b.say(wrong, uncertainty).is_err());
    }
    assert_eq!(b.error_ms(), 0);
}

#[test]
fn somebodys_date_command_before_the_first_fix_is_taken_within_a_minute() {
    let mut b = offline(2, 86_400 * S, false);
    b.ours = b.truth + 20 * S;
    b.run(10);
    let view = b.view();
    assert_eq!(view.by_hand.unwrap().how, How::Date);
    assert!(view.estimate.unwrap().bound >= Nanos::from_secs(60));
    assert!(b.steps.is_empty(), "it is set already: {:?}", b.steps);
    b.dead = vec![false; 2];
    b.run(100);
    assert_eq!((b.steps.len(), b.error_ms()), (1, 0));
}

#[test]
fn a_hardware_clock_that_comes_late_is_believed_unless_its_time_is_past() {
    let mut b = offline(2, 20 * S, false);
    let year = 31_556_952 * S;
    b.ours -= 20 * year;
    b.run(10);
    assert_eq!(b.error_ms(), 20_000, "the clock goes on as it was: {:?}", b.steps);
    assert_eq!(b.view().by_hand, None);
    // whoever does it again is not fought with, and not believed
    b.ours -= 20 * year;
    b.run(600);
    assert_eq!((b.steps.len(), b.view().by_hand), (1, None), "{:?}", b.steps);
    // one that is right; the kernel tells at once that the clock was set
    b.ours = b.truth;
    let _ = b.feed(Input::Tick);
    assert_eq!(b.view().by_hand.unwrap().how, How::Date);
    assert_eq!((b.steps.len(), b.error_ms()), (1, 0));
}

#[test]
fn servers_that_quarrel_leave_the_word_in_force() {
    let mut b = offline(2, 86_400 * S, false);
    b.say(0, 2 * S).unwrap();
    b.wrong = vec![0, 30 * S];
    b.dead = vec![false; 2];
    b.run(100);
    assert_eq!(b.view().phase, Phase::Holdover);
    assert_eq!(b.error_ms(), 0);
}

#[test]
fn a_learned_crystal_keeps_a_word_for_hours() {
    let mut b = offline(1, 0, false);
    b.engine.settings.memory =
        Some(DriftMemory { frequency_ppm: 20.0, sd_ppm: 0.1, ..DriftMemory::default() });
    b.say(0, S).unwrap();
    let after = RawTime::from_nanos(b.raw + 3_600 * S);
    let e = b.engine.estimate(after).unwrap();
    assert_eq!(e.truth.get() - b.truth, 72 * MS);
    assert!(e.bound < Nanos::from_millis(1_004), "{}", e.bound);
}
