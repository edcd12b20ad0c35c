use super::*;

#[test]
fn answers_of_one_round_are_carried_to_its_first_instant_by_the_frequency() {
    let (frequency, way) = (50e-6, Nanos::from_millis(2));
    let truth = |at: f64| Nanos::from_secs_f64(frequency * at);
    let instant = |at: f64| RawTime::from_nanos(0) + Nanos::from_secs_f64(at);
    let mut estimator = Estimator::new(None);
    let mut at = 0.0;
    for round in 1..=40 {
        for server in 0..4 {
            at = f64::from(round) * 64.0 + 0.05 * server as f64;
            let middle = truth(at);
            let sample = Sample {
                outward: middle + way,
                homeward: middle - way,
                sent: instant(at) - way,
                received: instant(at) + way,
                root_distance: Nanos::from_millis(1),
                precision: Nanos::new(60),
            };
            estimator.add(server, &sample);
        }
    }
    let last = estimator.samples.len() - 1;
    let together =
        |i: usize| estimator.samples[i].t.to_bits() == estimator.samples[last].t.to_bits();
    assert!(together(last - 3) && !together(last - 4), "a round is not of one instant");
    let estimate = estimator.estimate(instant(at)).unwrap();
    let off = estimate.truth - truth(at);
    // Not carried it is 3.7 µs off, carried the wrong way 6.5.
    assert!(off.abs() < Nanos::new(500), "{off} off");
    for server in &estimator.servers[..4] {
        assert!(server.view.0.abs() < 5e-7, "a server sees {} s of its own", server.view.0);
    }
}
