//! Tests that move the clock of the machine they run on: only for a throw-away machine.
//!
//! `make vm-test` runs them in its guest:
//! `LEADVILLE_MAY_SET_THIS_CLOCK=yes <test binary> --ignored --test-threads=1 steering`
use super::*;
use crate::engine::packet::Why;
use crate::os::{ntp, wake};
use std::time::Duration;

/// The clock, taken over. Stops the test where nobody said that this machine is to be thrown away.
fn taken(frequency: f64) -> KernelClock {
    let allowed = std::env::var("LEADVILLE_MAY_SET_THIS_CLOCK");
    assert_eq!(allowed.as_deref(), Ok("yes"), "this test sets the clock");
    let (mut clock, why) = KernelClock::open(true);
    assert_eq!(why, None);
    clock.take_over(Ppm::new(frequency)).unwrap();
    clock
}

fn synchronised(leap: Leap) -> KernelStatus {
    let (max_error, est_error) = (Nanos::from_millis(5), Nanos::from_millis(1));
    KernelStatus { synchronised: true, max_error, est_error, leap }
}

/// How much faster the clock runs than the raw one, ppm.
fn rate(over: Duration) -> f64 {
    let a = read();
    std::thread::sleep(over);
    let b = read();
    (b.utc_minus_raw() - a.utc_minus_raw()).get() as f64 / (b.raw - a.raw).get() as f64 * 1e6
}

/// How far `what` made the clock jump.
fn jump(what: impl FnOnce()) -> Nanos {
    let before = read().utc_minus_raw();
    what();
    read().utc_minus_raw() - before
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
#[ignore = "sets the clock"]
fn taking_over_cancels_what_another_daemons_loop_has_loaded() {
    let _ = taken(0.0);
    let mut loaded = timex();
    loaded.modes = libc::ADJ_STATUS | libc::ADJ_OFFSET | libc::ADJ_TIMECONST | libc::ADJ_FREQUENCY;
    (loaded.status, loaded.offset, loaded.constant) = (libc::STA_PLL, 100_000, 2);
    loaded.freq = 300 << 16;
    call(&mut loaded).unwrap();
    let mut slewing = timex();
    (slewing.modes, slewing.offset) = (libc::ADJ_OFFSET_SINGLESHOT, 400_000);
    call(&mut slewing).unwrap();
    let clock = taken(12.5);
    let state = clock.state().unwrap();
    assert!(!state.foreign_loop);
    assert_eq!(state.frequency, Ppm::new(12.5));
    assert_eq!(clock.slew_left(), Nanos::ZERO);
    let mut now = timex();
    call(&mut now).unwrap();
    assert_eq!(now.offset, 0);
    std::thread::sleep(Duration::from_millis(1_100));
    let rate = rate(Duration::from_secs(4));
    assert!((rate - 12.5).abs() < 40.0, "{rate} ppm");
}

#[test]
#[ignore = "sets the clock"]
fn frequencies_within_and_beyond_500_ppm_are_read_back_and_felt() {
    let mut clock = taken(0.0);
    for ppm in [400.0, -500.0, 777.7, -1_234.5] {
        clock.apply(Correction::Frequency(Ppm::new(ppm))).unwrap();
        assert!((clock.frequency().unwrap().get() - ppm).abs() < 2e-5);
        std::thread::sleep(Duration::from_millis(1_100));
        let felt = rate(Duration::from_secs(4));
        assert!((felt - ppm).abs() < 60.0, "{felt} ppm instead of {ppm}");
    }
    clock.leave_bare(Ppm::new(3.25)).unwrap();
    assert_eq!(clock.frequency().unwrap(), Ppm::new(3.25));
}

#[test]
#[ignore = "sets the clock"]
fn a_slew_moves_half_a_millisecond_a_second_and_is_replaced_by_the_next() {
    let mut clock = taken(0.0);
    clock.apply(Correction::Slew(Nanos::from_millis(10))).unwrap();
    let moved = jump(|| std::thread::sleep(Duration::from_millis(4_050)));
    assert!((1_400_000..2_700_000).contains(&moved.get()), "{moved} in 4 s");
    let left = clock.slew_left();
    assert!((7_300_000..8_700_000).contains(&left.get()), "{left} left");
    let days = Nanos::from_secs(-864_000);
    clock.apply(Correction::Slew(days)).unwrap();
    assert!((clock.slew_left() - days).abs() <= Nanos::from_millis(1));
    clock.apply(Correction::Slew(Nanos::new(-1_600))).unwrap();
    assert!(clock.slew_left().abs() <= Nanos::new(2_000));
    assert_eq!(clock.frequency().unwrap(), Ppm::new(0.0));
}

#[test]
#[ignore = "sets the clock"]
fn a_step_is_exact_both_ways_and_forgets_neither_status_nor_leap_second() {
    let mut clock = taken(7.0);
    for leap in [Leap::None, Leap::Insert, Leap::Delete] {
        clock.publish(&synchronised(leap)).unwrap();
        for step in [250_000_000, -1_500_000_001, 3_600_000_000_000, -3_598_750_000_000] {
            let step = Nanos::new(step);
            let jumped = jump(|| clock.apply(Correction::Step(step)).unwrap());
            assert!((jumped - step).abs() < Nanos::from_millis(1), "{jumped} instead of {step}");
            let state = clock.state().unwrap();
            assert!(state.synchronised && state.leap == leap, "{state:?}");
            assert!(state.max_error < Nanos::from_millis(7), "{state:?}");
            assert_eq!(state.frequency, Ppm::new(7.0));
        }
    }
    let lost = KernelStatus { synchronised: false, ..synchronised(Leap::None) };
    clock.publish(&lost).unwrap();
    let state = clock.state().unwrap();
    assert!(!state.synchronised && state.leap == Leap::None, "{state:?}");
}

#[test]
#[ignore = "sets the clock"]
fn a_set_clock_wakes_the_sleeper_even_when_it_was_not_waiting_just_then() {
    let mut clock = taken(0.0);
    runtime().block_on(async {
        let mut wake = wake::Wake::new();
        let short = Duration::from_millis(50);
        assert!(tokio::time::timeout(short, wake.until(None)).await.is_err());
        clock.apply(Correction::Step(Nanos::from_secs(2))).unwrap();
        assert_eq!(wake.until(None).await, wake::Woken::ClockSet, "between two waits");
        let set = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            clock.apply(Correction::Step(Nanos::from_secs(-2))).unwrap();
        });
        let far = raw_now() + Nanos::from_secs(60);
        assert_eq!(wake.until(Some(far)).await, wake::Woken::ClockSet, "during a wait");
        set.join().unwrap();
        let soon = raw_now() + Nanos::from_millis(100);
        assert_eq!(wake.until(Some(soon)).await, wake::Woken::Due);
    });
}

#[test]
#[ignore = "sets the clock"]
fn an_exchange_with_a_step_in_between_is_dropped_for_that_reason() {
    let mut clock = taken(0.0);
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 48];
        while let Ok((_, from)) = server.recv_from(&mut packet) {
            clock.apply(Correction::Step(Nanos::from_millis(-400))).unwrap();
            packet.copy_within(40..48, 24);
            packet[0] = 0b00_100_100;
            server.send_to(&packet, from).unwrap();
        }
    });
    let got = runtime().block_on(async {
        ntp::exchange(address, tokio::time::sleep(Duration::from_secs(5))).await
    });
    assert_eq!(got.unwrap_err().0, Why::Stepped);
}
