//! What an AMG Lab Commander says, and what follows from it. Pure: arrivals are arguments.
//!
//! [`frame`] turns bytes into frames, [`string`] turns frames into strings of shots, and
//! [`epoch`] turns arrivals into the time of the beep with a bound. [`bay`] is all three for
//! one timer, [`recording`] reads what somebody recorded, [`command`] is what may be asked.
pub mod bay;
pub mod command;
pub mod epoch;
pub mod frame;
pub mod interval;
pub mod lag;
mod posterior;
pub mod record;
pub mod recording;
pub mod string;
