//! What holds for any servers, strangers and operators.
use crate::bench::{DAY, MS, Plan, S};
use crate::script;
use leadville_timesync::engine::Phase;
use leadville_timesync::engine::select::{Interval, shared, vote};
use leadville_timesync::units::Nanos;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// The same chances on every machine; the fuzzer looks for others.
fn chances(cases: u32) -> ProptestConfig {
    let seed = std::env::var("PROPTEST_RNG_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let rng_seed = RngSeed::Fixed(seed);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

fn interval() -> impl Strategy<Value = (i64, i64, i64, bool)> {
    let centre = prop_oneof![-40 * MS..40 * MS, -5 * S..5 * S];
    (centre, 1..60 * MS, 1..60 * MS, prop::bool::weighted(0.1))
}

fn intervals() -> impl Strategy<Value = Vec<Interval>> {
    prop::collection::vec(interval(), 1..12).prop_map(|all| {
        let made = all.into_iter().enumerate().map(|(server, (centre, half, narrow, trusted))| {
            let (centre, half) = (Nanos::new(centre), Nanos::new(half));
            Interval { server, centre, half, narrow: Nanos::new(narrow).min(half), trusted }
        });
        made.collect()
    })
}

proptest! {
    #![proptest_config(chances(2_000))]

    #[test]
    fn whoever_is_used_shares_the_majoritys_intersection(all in intervals()) {
        let trusted: Vec<&Interval> = all.iter().filter(|i| i.trusted).collect();
        let voters = if trusted.is_empty() { all.iter().collect() } else { trusted };
        let holding = |t: Nanos| {
            voters.iter().filter(|i| i.centre - i.half <= t && t <= i.centre + i.half).count()
        };
        match vote(&all) {
            Some(v) => {
                prop_assert!(v.low <= v.high && !v.truechimers.is_empty());
                for t in [v.low, v.middle(), v.high] {
                    prop_assert!(holding(t) * 2 > voters.len(), "{t} is no majority's: {v:?}");
                }
                for &id in &v.truechimers {
                    let i = &all[id];
                    let inside = i.centre - i.half <= v.high && i.centre + i.half >= v.low;
                    prop_assert!(inside, "{i:?} is outside {v:?}");
                }
                let mut ids: Vec<usize> = v.truechimers.clone();
                ids.extend(v.falsetickers.iter().map(|f| f.0));
                ids.sort_unstable();
                prop_assert_eq!(ids, (0..all.len()).collect::<Vec<_>>());
            }
            None => {
                let ends = all.iter().flat_map(|i| [i.centre - i.half, i.centre + i.half]);
                for t in ends {
                    prop_assert!(holding(t) * 2 <= voters.len(), "a majority at {t} was missed");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(chances(150))]

    /// Steps, locks, frequencies, bounds: see [`crate::rules`].
    #[test]
    fn no_story_of_servers_strangers_and_operators_breaks_a_rule(
        bytes in prop::collection::vec(any::<u8>(), 0..120)
    ) {
        script::play(&bytes, 2 * DAY);
    }
}

/// What a server is wrong by, and its way there and back, ns.
fn server() -> impl Strategy<Value = (i64, i64, i64)> {
    let wrong = prop_oneof![4 => -3 * MS..3 * MS, 1 => -400 * MS..400 * MS, 1 => -20 * S..20 * S];
    (wrong, MS..60 * MS, MS..60 * MS)
}

proptest! {
    #![proptest_config(chances(100))]

    #[test]
    fn the_offset_that_is_followed_lies_inside_the_majoritys_intersection(
        servers in prop::collection::vec(server(), 1..6),
        behind in -2 * S..2 * S,
    ) {
        let mut b = Plan::new(servers.len()).behind(behind).go();
        b.watched();
        let (ways, wrongs) = (servers.clone(), servers.clone());
        b.way = Box::new(move |id, _, _| Some((ways[id].1, ways[id].2)));
        b.wrong = Box::new(move |id, _| wrongs[id].0);
        for _ in 0..12 {
            b.run(300);
            let (now, view) = (b.now(), b.view());
            let Some(e) = view.estimate.filter(|_| view.phase == Phase::Synchronised) else {
                continue;
            };
            let sources = b.engine.sources().iter().enumerate();
            let all: Vec<Interval> = sources
                .filter_map(|(id, s)| s.interval(id, now.raw, e.frequency, e.frequency_bound))
                .collect();
            let v = vote(&all).expect("a majority, for it is followed");
            let Some((low, high)) = shared(&all, &v.truechimers) else { continue };
            // What the crystal may do since the last vote, at 15 ppm.
            let slack = Nanos::new(1_100_000);
            let inside = low - slack <= e.truth && e.truth <= high + slack;
            let (low, high) = (low - e.truth, high - e.truth);
            prop_assert!(inside, "the intersection is {low} to {high} away: {servers:?}");
        }
    }
}

#[test]
fn a_far_server_whose_way_is_lopsided_cannot_pull_the_clock_from_a_near_one() {
    for ways in [[(MS, MS), (42 * MS, MS)], [(42 * MS, MS), (MS, MS)], [(MS, 42 * MS), (MS, MS)]] {
        let mut b = Plan::new(2).go();
        b.way = Box::new(move |id, _, _| Some(ways[id]));
        b.run(600);
        let view = b.view();
        assert!(b.error().abs() <= MS + MS / 10, "{ways:?}: {}", b.error());
        assert!(view.estimate.is_some_and(|e| e.bound.get() > b.error().abs()), "{view:?}");
    }
}
