//! The timer against frames recorded from a real one.
use leadville_timesync::timer::epoch::Delay;
use leadville_timesync::timer::frame::{Frame, decode, from_hex};
use leadville_timesync::timer::recording::{self, kind};
use std::process::Command;

/// 34 frames of an AMG Lab Commander, heard on a Raspberry Pi, with what they mean.
const FRAMES: &str = include_str!("data/amg-frames.csv");

#[test]
fn every_recorded_frame_decodes_to_the_values_beside_it() {
    let mut lines = FRAMES.lines();
    assert_eq!(
        lines.next(),
        Some("frame,host_time,hex,kind,shot,total,time_s,split_s,first_s,last_s,string")
    );
    let mut count = 0;
    for line in lines {
        let f: Vec<&str> = line.split(',').collect();
        let read = decode(&from_hex(f[2]).unwrap());
        assert_eq!(read.doubts, [], "{line}");
        assert_eq!(kind(&read), f[3], "{line}");
        let (string, body) = match read.frame {
            Frame::Start { string, stale: body } | Frame::Stop { string, body } => (string, body),
            Frame::Shot { string, body } => (Some(string), body),
            other => panic!("{line}: {other:?}"),
        };
        let said = [
            body.shot.to_string(),
            body.total.to_string(),
            body.time.to_string(),
            body.split.to_string(),
            body.first.to_string(),
            body.last.to_string(),
            string.unwrap().to_string(),
        ];
        assert_eq!(said[..], f[4..11], "{line}");
        count += 1;
    }
    assert_eq!(count, 34);
}

#[test]
fn the_recorded_strings_are_dated_on_a_grid_of_48_75_ms() {
    let recording = recording::read(FRAMES);
    assert_eq!((recording.entries.len(), recording.bad.len()), (34, 0));
    let told = recording.told(Delay::default());
    let shots: Vec<(u16, usize)> =
        told.strings.iter().map(|s| (s.string.number, s.string.shots.len())).collect();
    assert_eq!(shots, [(1, 1), (2, 2), (3, 4), (4, 5), (5, 6), (1, 6)]);
    for replayed in &told.strings {
        let e = replayed.string.estimate;
        assert_eq!(e.interval_ms, Some(48.75), "string {}", replayed.string.number);
        assert!(!e.calibrated && e.bound > e.inside);
        // No shot was heard before it fell, none 150 ms after.
        for shot in &replayed.string.shots {
            let late = (shot.arrival.unwrap() - shot.at).as_millis_f64();
            assert!((-15.0..150.0).contains(&late), "{late}");
        }
    }
    assert!(told.remarks.iter().any(|r| r.1.contains("start was not heard")), "{:?}", told.remarks);
}

#[test]
fn replay_prints_epochs_and_shots_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("frames.csv");
    std::fs::write(&file, format!("{FRAMES}C1,xx,01\n")).unwrap();
    let run = |more: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_leadville-timesync"))
            .args(["timer", "replay"])
            .arg(&file)
            .args(more)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(json["events"].as_array().unwrap().len(), 34);
    let string = &json["strings"][3];
    assert_eq!(string["string_number"], 4);
    assert!(string["epoch_utc"].as_str().unwrap().starts_with("21:52:26."), "{string}");
    assert_eq!(string["interval_ms"], 48.75);
    assert!(string["bound_ms"].as_f64().unwrap() > 60.0 && string["calibrated"] == false);
    assert_eq!(string["shots"][4]["shot_number"], 5);
    assert_eq!(string["shots"][4]["time_s"], 3.52);
    assert!(string["shots"][4]["utc"].as_str().unwrap().starts_with("21:52:30."), "{string}");
    assert_eq!(json["errors"][0]["line"], 36);
    let known: serde_json::Value =
        serde_json::from_str(&run(&["--json", "--d0", "40ms", "--d0-bound", "2ms"])).unwrap();
    assert!(known["strings"][3]["bound_ms"].as_f64().unwrap() < 30.0);
    assert_eq!(known["strings"][3]["calibrated"], true);
    assert!(run(&[]).contains("String 4: beep at 21:52:26."));
}

#[test]
fn replay_of_nothing_says_what_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("empty.csv");
    std::fs::write(&file, "nonsense\n").unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_leadville-timesync"))
        .args(["timer", "replay"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("host_time,hex"));
}
