//! Memory that only the start needed goes back to the system. Runs on the process's first thread, as
//! the daemon does, and so without the usual frame of tests.
use leadville_timesync::os::heap::give_back_stack;
use std::hint::black_box;

/// Resident memory of the process's first stack, kB.
fn stack() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (_, stack) = maps.split_once("[stack]").unwrap();
    let rss = stack.lines().find_map(|l| l.strip_prefix("Rss:")).unwrap();
    rss.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[inline(never)]
fn deep(n: u32) -> u64 {
    let mut much = [1_u8; 4096];
    black_box(&mut much);
    let sum = if n == 0 { 0 } else { deep(n - 1) };
    sum + u64::from(black_box(much)[n as usize])
}

fn main() {
    let kept = [7_u8; 2048];
    let before = stack();
    assert_eq!(deep(40), 41);
    let went = stack();
    give_back_stack();
    let after = stack();
    assert!(went >= before + 150, "the test itself: {before} kB, then {went} kB");
    assert!(after <= before + 24, "the stack: {before} kB, {went} kB, still {after} kB");
    assert_eq!((deep(40), black_box(kept)[2047]), (41, 7), "and it can be used again");
    println!("test what_the_start_needed_of_the_stack_is_given_back ... ok");
}
