//! When servers are asked.
use super::*;
use std::collections::BTreeSet;

#[test]
fn servers_whose_turns_are_close_are_asked_at_one_wake_up_and_at_no_fixed_beat() {
    let mut b = Bench::new(4, 0, false);
    b.run(3_600);
    // All at once, as after `sync-now`; from then on they stay together.
    for id in b.feed(Input::SyncNow) {
        let exchange = b.reply(id, b.raw);
        b.pass(20 * MS + 2_000);
        assert!(b.feed(Input::Exchange(id, &exchange)).is_empty());
    }
    let before: Vec<u64> = b.engine.sources().iter().map(|s| s.requests).collect();
    let mut moments = BTreeSet::new();
    for _ in 0..7_200 {
        b.run(1);
        moments.extend(b.engine.sources().iter().filter_map(|s| s.last_asked));
    }
    let asked: Vec<u64> =
        b.engine.sources().iter().zip(&before).map(|(s, n)| s.requests - n).collect();
    assert!(asked.iter().all(|n| (105..=125).contains(n)), "{asked:?}");
    assert!(moments.len() as u64 <= asked[0] + 3, "{} wake-ups, {asked:?}", moments.len());
    // Not at a beat that other clients could fall into.
    let moments: Vec<RawTime> = moments.into_iter().collect();
    let spans: BTreeSet<Nanos> = moments.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(spans.len() > 50, "{} different spans", spans.len());
}
