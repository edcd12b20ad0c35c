//! Any frames at any moments as a timer's notifications, and any text as a recording of them:
//! strings, shots and their times are sound whatever comes.
#![no_main]
use leadville_timesync::timer::bay::{Bay, DatedString};
use leadville_timesync::timer::epoch::Delay;
use leadville_timesync::timer::record::MOST_SHOTS;
use leadville_timesync::timer::{frame, recording};
use leadville_timesync::units::{Nanos, RawTime};
use libfuzzer_sys::fuzz_target;

/// A shot is a good minute from its beep at most (the timer counts to 655.35 s).
const LONGEST: Nanos = Nanos::from_secs(656);

fn sound(dated: &DatedString) {
    let e = &dated.estimate;
    assert!(e.inside > Nanos::ZERO && e.bound >= e.inside, "{e:?}");
    assert!(e.bound < Nanos::from_secs(60), "{e:?}");
    assert!(e.interval_ms.is_none_or(f64::is_finite), "{e:?}");
    assert!(dated.shots.len() <= MOST_SHOTS);
    for shot in &dated.shots {
        let since = shot.at - e.epoch;
        assert!(since >= Nanos::ZERO && since <= LONGEST, "{shot:?} in {e:?}");
        assert!(shot.bound >= e.bound, "{shot:?} in {e:?}");
    }
}

/// Heard live: each frame is a pause (two bytes), a length and its bytes.
fn live(mut tape: &[u8]) {
    let mut bay = Bay::new(Delay::default());
    bay.link_up();
    let mut now = 1_000_000_000_000;
    while let [high, low, length, rest @ ..] = tape {
        // 0…255 ms in steps of a tenth, or so many seconds.
        let pause = i64::from(u16::from_be_bytes([*high, *low]));
        now += if pause < 0x8000 { pause * 100_000 } else { (pause - 0x8000) * 100_000_000 };
        let (frame, after) = rest.split_at(usize::from(length % 40).min(rest.len()));
        tape = after;
        let at = RawTime::from_nanos(now);
        match length / 40 {
            4 => bay.link_lost(at),
            5 => bay.link_up(),
            6 => bay.list_asked(at),
            _ => {
                let decoded = frame::decode(frame);
                let _ = (decoded.suspect(), recording::kind(&decoded));
                bay.hear(at, frame);
            }
        }
        if bay.strings().next_tick().is_some_and(|t| t <= at) {
            bay.tick(at);
        }
        if let Some(number) = bay.strings().current().map(|r| r.number) {
            bay.dated(number).iter().for_each(sound);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    if first % 4 != 0 {
        return live(rest);
    }
    let text = String::from_utf8_lossy(rest);
    let _ = frame::from_hex(&text);
    let read = recording::read(&text);
    for replayed in &read.told(Delay::default()).strings {
        sound(&replayed.string);
        let _ = read.write(replayed.string.estimate.epoch);
    }
});
