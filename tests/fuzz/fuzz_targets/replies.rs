//! Replies of up to five servers over minutes, with strangers and operators in between, into the
//! engine, under a referee's eyes.
#![no_main]
use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the hostile tests use the rest")]
#[path = "../../hostile/bench.rs"]
mod bench;
#[path = "../../hostile/rules.rs"]
mod rules;
#[path = "../../hostile/script.rs"]
mod script;

/// Long enough for what is insisted on for five minutes or overridden after ten; the property tests
/// tell fewer stories, of days.
const LONGEST: i64 = 20 * 60 * bench::S;

fuzz_target!(|bytes: &[u8]| script::play(bytes, LONGEST));
