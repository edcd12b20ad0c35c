use super::*;
use crate::timer::frame::from_hex;

fn at(ms: i64) -> RawTime {
    RawTime::from_nanos(ms * 1_000_000)
}

/// A push of string `n`: state, shot, total, time, split, first.
pub fn push(state: u8, shot: u8, total: u8, time: u16, split: u16, first: u16, n: u16) -> Vec<u8> {
    let mut bytes = vec![1, state, shot, total];
    for v in [time, split, first, time, n] {
        bytes.extend(v.to_be_bytes());
    }
    bytes
}
fn start(n: u16) -> Vec<u8> {
    push(5, 0, 0, 0, 0, 0, n)
}

/// A whole string of shots at these times.
fn fire(times: &[u16], n: u16) -> Vec<Vec<u8>> {
    let mut frames = vec![start(n)];
    for (i, t) in times.iter().enumerate() {
        let split = if i == 0 { *t } else { t - times[i - 1] };
        frames.push(push(3, i as u8 + 1, i as u8 + 1, *t, split, times[0], n));
    }
    let mut stop = frames.last().unwrap().clone();
    stop[1] = 8;
    frames.push(stop);
    frames
}
fn play(strings: &mut Strings, from: i64, frames: &[Vec<u8>]) -> Vec<Happening> {
    frames
        .iter()
        .enumerate()
        .flat_map(|(i, f)| strings.hear(at(from + 300 * i as i64), f))
        .collect()
}
fn times(record: &Record) -> Vec<(u8, u16)> {
    record.shots.iter().map(|s| (s.number, s.time.0)).collect()
}
fn list(times: &[u16]) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = times
        .chunks(9)
        .enumerate()
        .map(|(i, chunk)| {
            let mut p = vec![0x0A + i as u8, chunk.len() as u8];
            p.extend(chunk.iter().flat_map(|t| t.to_be_bytes()));
            p
        })
        .collect();
    if packets.is_empty() {
        packets.push(vec![0x0A, 0]);
    }
    packets
}

#[test]
fn a_string_starts_is_fired_and_stops() {
    let mut s = Strings::default();
    let said = play(&mut s, 0, &fire(&[180, 348], 2));
    assert_eq!(
        said,
        [
            Happening::Started { string: 2, late: false },
            Happening::Shot { string: 2, shot: 1 },
            Happening::Shot { string: 2, shot: 2 },
            Happening::Ended { string: 2, end: End::Stopped },
        ]
    );
    let r = s.record(2).unwrap();
    assert_eq!(times(r), [(1, 180), (2, 348)]);
    assert_eq!(r.split(2), Some(Centis(168)));
    assert_eq!(r.shots[1].arrival, Some(at(600)));
}

#[test]
fn a_lost_shot_is_fetched_after_the_stop_and_merged() {
    let mut s = Strings::default();
    let mut frames = fire(&[100, 150, 200], 1);
    frames.remove(2);
    let said = play(&mut s, 0, &frames);
    assert_eq!(said.last(), Some(&Happening::WantList { string: 1 }));
    s.list_asked(at(5000));
    let said = play(&mut s, 5050, &list(&[100, 150, 200]));
    assert_eq!(said, [Happening::Amended { string: 1 }]);
    let r = s.record(1).unwrap();
    assert_eq!(times(r), [(1, 100), (2, 150), (3, 200)]);
    assert!(r.shots[1].arrival.is_none() && r.shots[2].arrival.is_some());
}

#[test]
fn the_last_shot_lost_is_told_by_the_stop() {
    let mut s = Strings::default();
    let mut frames = fire(&[100, 150], 1);
    frames.remove(2);
    play(&mut s, 0, &frames);
    let r = s.record(1).unwrap();
    assert_eq!(times(r), [(1, 100), (2, 150)]);
    assert!(r.shots[1].arrival.is_none());
}

#[test]
fn a_shot_whose_start_was_lost_opens_the_string() {
    let mut s = Strings::default();
    let said = play(&mut s, 0, &fire(&[100, 150], 7)[1..]);
    assert_eq!(said[0], Happening::Started { string: 7, late: true });
    assert!(s.record(7).unwrap().started.is_none());
}

#[test]
fn a_lost_stop_is_ended_by_the_next_start() {
    let mut s = Strings::default();
    let frames = fire(&[100], 1);
    play(&mut s, 0, &frames[..2]);
    let said = play(&mut s, 3000, &[start(2)]);
    assert!(said.contains(&Happening::Ended { string: 1, end: End::LostStop }));
    assert_eq!(s.current().unwrap().number, 2);
}

#[test]
fn a_timer_switched_off_after_its_first_string_counts_from_one_again() {
    let mut s = Strings::default();
    let first = fire(&[100, 140], 1);
    play(&mut s, 0, &first);
    // Said twice: nothing new.
    assert_eq!(s.hear(at(950), &first[0]), [Happening::Duplicate]);
    let said = play(&mut s, 60_000, &[start(1)]);
    assert_eq!(said, [Happening::PowerCycled, Happening::Started { string: 1, late: false }]);
    play(&mut s, 60_300, &fire(&[88, 130, 170], 1)[1..]);
    assert_eq!(times(s.record(1).unwrap()), [(1, 88), (2, 130), (3, 170)]);
    // Once more, and its start is lost.
    let said = play(&mut s, 120_000, &fire(&[91], 1)[1..2]);
    assert!(said.contains(&Happening::Started { string: 1, late: true }), "{said:?}");
    assert_eq!(times(s.record(1).unwrap()), [(1, 91)]);
    // And in the midst of a string.
    let said = play(&mut s, 125_000, &[start(2)]);
    assert!(said.contains(&Happening::Ended { string: 1, end: End::LostStop }), "{said:?}");
    let said = play(&mut s, 130_000, &[start(2)]);
    assert!(said.contains(&Happening::Ended { string: 2, end: End::PowerCycle }), "{said:?}");
}

#[test]
fn a_number_back_at_one_is_a_power_cycle() {
    let mut s = Strings::default();
    play(&mut s, 0, &fire(&[100], 4));
    let said = play(&mut s, 9000, &[start(1)]);
    assert_eq!(said, [Happening::PowerCycled, Happening::Started { string: 1, late: false }]);
}

#[test]
fn doubled_and_reordered_frames_change_nothing() {
    let mut s = Strings::default();
    let frames = fire(&[100, 150, 200], 1);
    let mixed: Vec<_> = [0, 0, 1, 3, 2, 3, 4, 4, 0].iter().map(|i| frames[*i].clone()).collect();
    let said = play(&mut s, 0, &mixed);
    assert_eq!(times(s.record(1).unwrap()), [(1, 100), (2, 150), (3, 200)]);
    assert_eq!(said.iter().filter(|h| **h == Happening::Duplicate).count(), 4);
    assert!(!said.contains(&Happening::WantList { string: 1 }));
}

#[test]
fn a_shot_overtaken_by_the_stop_amends_the_string() {
    let mut s = Strings::default();
    let mut frames = fire(&[100, 150], 1);
    frames.swap(2, 3);
    let said = play(&mut s, 0, &frames);
    assert_eq!(said.last(), Some(&Happening::Amended { string: 1 }));
    assert_eq!(s.record(1).unwrap().shots[1].arrival, Some(at(900)));
}

#[test]
fn a_link_back_within_a_minute_finds_its_string_again() {
    let mut s = Strings::default();
    let frames = fire(&[100, 2000], 1);
    play(&mut s, 0, &frames[..2]);
    s.link_lost(at(1000));
    assert_eq!(s.tick(at(15_000)), []);
    s.link_up();
    s.hear(at(20_100), &frames[2]);
    assert_eq!(times(s.current().unwrap()), [(1, 100), (2, 2000)]);
    s.link_lost(at(30_000));
    assert_eq!(s.tick(at(90_000)), [Happening::Ended { string: 1, end: End::TimedOut }]);
}

#[test]
fn a_link_back_after_a_minute_brings_the_end_of_its_string() {
    let frames = fire(&[100, 2000, 9000], 4);
    for lost in [vec![], vec![3]] {
        let mut s = Strings::default();
        play(&mut s, 0, &frames[..2]);
        s.link_lost(at(1000));
        s.tick(at(61_000));
        s.link_up();
        let mut said = Vec::new();
        for (i, ms) in [(2, 20_000), (3, 90_050), (4, 92_000)] {
            if !lost.contains(&i) {
                said.extend(s.hear(at(ms), &frames[i]));
            }
        }
        assert!(said.iter().all(|h| *h == Happening::Amended { string: 4 }), "{said:?}");
        let r = s.record(4).unwrap();
        assert_eq!((r.end, r.stopped), (End::Stopped, Some(at(92_000))));
        assert_eq!(times(r), [(1, 100), (2, 2000), (3, 9000)]);
    }
    // A shot that fell meanwhile is asked for.
    let mut s = Strings::default();
    play(&mut s, 0, &frames[..2]);
    s.link_lost(at(1000));
    s.tick(at(61_000));
    s.link_up();
    let said = s.hear(at(92_000), &frames[4]);
    assert_eq!(said, [Happening::Amended { string: 4 }, Happening::WantList { string: 4 }]);
}

#[test]
fn a_string_of_the_same_number_after_a_power_cycle_is_another_string() {
    // The first one's stop was lost with the link, the second one's start is.
    for again in [40_000, 600_000] {
        let mut s = Strings::default();
        play(&mut s, 0, &fire(&[100, 150], 1)[..3]);
        s.link_lost(at(2000));
        s.tick(at(again - 1000));
        s.link_up();
        let said = play(&mut s, again, &fire(&[88, 160], 1)[1..]);
        let late = Happening::Started { string: 1, late: true };
        assert!(said.contains(&late) && said.contains(&Happening::PowerCycled), "{said:?}");
        assert_eq!(times(s.record(1).unwrap()), [(1, 88), (2, 160)]);
    }
    // The first one's start was lost, and its stop.
    let mut s = Strings::default();
    play(&mut s, 0, &fire(&[100, 150], 1)[1..3]);
    let said = play(&mut s, 60_000, &fire(&[88, 160], 1));
    assert!(said.contains(&Happening::Started { string: 1, late: false }), "{said:?}");
    assert_eq!(times(s.record(1).unwrap()), [(1, 88), (2, 160)]);
}

#[test]
fn a_stop_is_the_only_frame_heard_of_a_string_after_a_power_cycle() {
    let mut s = Strings::default();
    play(&mut s, 0, &fire(&[100, 150], 1));
    let frames = fire(&[88, 160], 1);
    let said = s.hear(at(600_000), frames.last().unwrap());
    assert!(said.contains(&Happening::PowerCycled), "{said:?}");
    assert!(said.contains(&Happening::WantList { string: 1 }), "{said:?}");
    assert_eq!(times(s.record(1).unwrap()), [(2, 160)]);
    // One without a shot says nothing of the beep.
    s.hear(at(700_000), &start(2));
    let empty = push(8, 0, 0, 0, 0, 0, 2);
    assert_eq!(s.hear(at(760_000), &empty), [Happening::Ended { string: 2, end: End::Stopped }]);
    assert_eq!(s.hear(at(761_000), &empty), [Happening::Duplicate]);
}

#[test]
fn a_list_that_is_lost_is_asked_for_again() {
    let mut s = Strings::default();
    let mut frames = fire(&[100, 150, 200], 1);
    frames.remove(2);
    assert!(play(&mut s, 0, &frames).contains(&Happening::WantList { string: 1 }));
    s.list_asked(at(5000));
    let said = s.tick(at(7000));
    assert!(said.contains(&Happening::WantList { string: 1 }), "{said:?}");
    s.list_asked(at(7300));
    let said = s.hear(at(7350), &list(&(1..=12).collect::<Vec<_>>())[1]);
    assert!(said.contains(&Happening::WantList { string: 1 }), "{said:?}");
    // But not for ever.
    s.list_asked(at(8000));
    assert!(matches!(s.tick(at(10_000))[..], [Happening::Warning(_)]));
}

#[test]
fn a_list_that_another_program_asked_for_is_read_too() {
    let mut s = Strings::default();
    let mut frames = fire(&[100, 150, 200], 1);
    frames.remove(2);
    play(&mut s, 0, &frames);
    assert_eq!(play(&mut s, 5050, &list(&[100, 150, 200])), [Happening::Amended { string: 1 }]);
    assert_eq!(times(s.record(1).unwrap()), [(1, 100), (2, 150), (3, 200)]);
    assert_eq!(s.tally().warnings, 0);
}

#[test]
fn a_string_nobody_stops_ends_after_eleven_minutes() {
    let mut s = Strings::default();
    s.hear(at(0), &start(1));
    assert_eq!(s.next_tick(), Some(at(660_000)));
    assert_eq!(s.tick(at(659_999)), []);
    assert_eq!(s.tick(at(660_000)).len(), 1);
}

#[test]
fn shots_counted_but_not_pushed_are_said_in_words() {
    let mut s = Strings::default();
    s.link_up();
    s.list_asked(at(0));
    assert_eq!(play(&mut s, 50, &list(&[100, 200])).len(), 1);
    s.list_asked(at(600_000));
    let said = play(&mut s, 600_050, &list(&[130, 190, 250]));
    assert_eq!(said[0], Happening::PushOff);
    // Its lists were no pushes.
    assert!(!s.has_pushed());
    play(&mut s, 700_000, &fire(&[100], 1));
    assert!(s.has_pushed());
    s.link_up();
    assert!(!s.has_pushed());
}

#[test]
fn a_list_of_the_longest_string_comes_in_seventeen_packets() {
    let shots: Vec<u16> = (1..=150).map(|i| i * 20).collect();
    let mut s = Strings::default();
    play(&mut s, 0, &fire(&shots, 1)[..1]);
    let stop = push(8, 150, 150, 3000, 20, 20, 1);
    assert!(s.hear(at(31_000), &stop).contains(&Happening::WantList { string: 1 }));
    s.list_asked(at(31_100));
    let packets = list(&shots);
    assert_eq!(packets.len(), 17);
    let said = play(&mut s, 31_150, &packets);
    assert_eq!(said, [Happening::Amended { string: 1 }]);
    assert_eq!(s.record(1).unwrap().shots.len(), 150);
}

#[test]
fn a_list_with_a_hole_or_without_a_reply_is_left() {
    let shots: Vec<u16> = (1..=20).map(|i| i * 20).collect();
    let mut s = Strings::default();
    play(&mut s, 0, &fire(&shots, 1));
    s.list_asked(at(9000));
    let mut packets = list(&shots);
    packets.remove(1);
    assert!(matches!(play(&mut s, 9050, &packets)[..], [Happening::Warning(_)]));
    s.list_asked(at(20_000));
    assert!(matches!(s.tick(at(22_000))[..], [Happening::Warning(_)]));
}

#[test]
fn a_flipped_bit_makes_a_warning_and_never_a_wrong_sound_shot() {
    let frames = fire(&[100, 150, 231], 5);
    // A wrong total alone is silent until the stop sets it right.
    for bit in (0..3 * 8).chain(4 * 8..14 * 8) {
        let mut s = Strings::default();
        play(&mut s, 0, &frames[..2]);
        let mut bad = frames[2].clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let said = play(&mut s, 700, &[bad]);
        assert!(said.iter().any(|h| matches!(h, Happening::Warning(_))), "bit {bit}: {said:?}");
        play(&mut s, 1000, &frames[3..]);
        for shot in s.record(5).map(|r| r.shots.clone()).unwrap_or_default() {
            let right = [100, 150, 231].get(usize::from(shot.number) - 1) == Some(&shot.time.0);
            assert!(right || shot.suspect, "bit {bit}: {shot:?}");
        }
    }
}

#[test]
fn unknown_frames_are_counted_and_kept() {
    let mut s = Strings::default();
    for i in 0..40 {
        s.hear(at(600 * i), &from_hex("0104010100e500e500e500e50001").unwrap());
    }
    assert_eq!(s.tally().unknown, 40);
    assert_eq!(s.tally().unknown_hex.len(), 16);
    assert_eq!(s.tally().unknown_hex[0], "0104010100e500e500e500e50001");
}

#[test]
fn the_two_byte_forms_make_a_string_of_their_own() {
    let mut s = Strings::default();
    s.hear(at(0), &[1, 5]);
    s.hear(at(900), &push(3, 1, 1, 80, 80, 80, 1));
    let said = s.hear(at(2000), &[1, 8]);
    assert_eq!(said, [Happening::Ended { string: 1, end: End::Stopped }]);
}

proptest::proptest! {
    #[test]
    fn no_order_of_frames_makes_it_panic(
        order in proptest::collection::vec((0usize..12, proptest::option::of(0usize..112), 0u16..4), 0..60)
    ) {
        let mut s = Strings::default();
        let mut now = 0;
        for (kind, flip, n) in order {
            now += 137;
            let mut frames = fire(&[50, 90, 200, 260], n);
            frames.extend(list(&[50, 90, 200, 260, 300, 310, 320, 330, 340, 350]));
            if kind == 8 { s.list_asked(at(now)); continue; }
            if kind == 9 { s.link_lost(at(now)); continue; }
            if kind == 10 { s.link_up(); continue; }
            if kind == 11 { now += 100_000; s.tick(at(now)); continue; }
            let mut f = frames[kind % frames.len()].clone();
            if let Some(bit) = flip { let i = bit / 8; if i < f.len() { f[i] ^= 1 << (bit % 8); } }
            s.hear(at(now), &f);
            let _ = s.next_tick();
            if let Some(c) = s.current() { assert!(c.shots.windows(2).all(|w| w[0].number < w[1].number)); }
        }
    }
}
