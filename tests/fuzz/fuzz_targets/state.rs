//! Any bytes as each of the state files, and a daemon that starts with them.
#![no_main]
use leadville_timesync::os::store::StateDir;
use leadville_timesync::record;
use leadville_timesync::tasks::bridge::keep;
use leadville_timesync::tasks::memory::{Kept, Memory};
use leadville_timesync::tasks::resync::BUILT;
use leadville_timesync::units::UtcTime;
use libfuzzer_sys::fuzz_target;
use std::path::{Path, PathBuf};

#[allow(dead_code, reason = "the hostile tests use the rest")]
#[path = "../../hostile/bench.rs"]
mod bench;
#[allow(dead_code, reason = "the hostile tests use the rest")]
#[path = "../../hostile/rules.rs"]
mod rules;

thread_local! {
    static PLACE: PathBuf = place();
}

/// In memory, where there is such a place: the disk is not what is tested.
fn place() -> PathBuf {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    dir.expect("a directory").keep()
}

/// The engine with this memory: an hour with three servers must bring the right time, and a file
/// that is nonsense must not keep it from that for longer.
fn start(kept: Kept) {
    let mut plan = bench::Plan::new(3);
    plan.settings.mark = kept.mark_s.map(|s| UtcTime::from_nanos(s * 1_000_000_000));
    plan.settings.memory = kept.crystal;
    plan.settings.spent = kept.steps;
    let mut b = plan.go();
    b.watched();
    b.run(1_800);
    let memory = b.engine.memory();
    assert!(memory.is_none_or(|m| m.frequency_ppm.is_finite() && m.sd_ppm.is_finite()));
    assert!(b.error().abs() < bench::S, "{} ns off", b.error());
}

/// Each line with the check sum (FNV-1a) that the record wants behind it.
fn seal(text: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    for line in text.split(|&b| b == b'\n') {
        let sum =
            line.iter().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
        sealed.extend_from_slice(line);
        sealed.extend_from_slice(format!(" *{sum:08x}\n").as_bytes());
    }
    sealed
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, text)) = bytes.split_first() else { return };
    PLACE.with(|dir| {
        let name = ["drift", "addresses", "strings.json", "timers.json", "record-2026-11-25"]
            [usize::from(which % 5)];
        let sealed;
        let text = if *which % 10 == 9 {
            sealed = seal(text);
            &sealed
        } else {
            text
        };
        std::fs::write(dir.join(name), text).expect("written");
        match which % 5 {
            0 => {
                let mut memory = Memory::open(Some(dir), None);
                start(memory.kept(BUILT));
            }
            1 => {
                let memory = Memory::open(Some(dir), None);
                let text = memory.addresses().text();
                assert!(text.lines().count() <= 64);
            }
            2 | 3 => {
                let mut kept = keep::Kept::open(StateDir::open(dir).ok(), 200);
                let _ = kept.next_seq();
                let _ = kept.since(Some(BUILT), 0);
                drop(kept.to_save());
            }
            _ => {
                let day = record::read_day(dir, "2026-11-25").expect("read");
                for point in &day.points {
                    let _ = (point.quality(), point.seconds());
                }
                let (points, _) = record::joined(vec![day], &[], UtcTime::from_nanos(0));
                assert!(record::thinned(points, 10).len() <= 10);
            }
        }
        std::fs::remove_file(dir.join(name)).expect("removed");
    });
});
