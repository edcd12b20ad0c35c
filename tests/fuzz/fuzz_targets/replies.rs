//! Replies of up to five servers over two days, with strangers and operators in between, into the
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

fuzz_target!(|bytes: &[u8]| script::play(bytes));
