//! What an AMG Lab Commander says, and what follows from it. Pure: arrivals are arguments.
//!
//! [`frame`] turns bytes into frames, [`string`] turns frames into strings of shots, and
//! [`epoch`] turns arrivals into the UTC of the beep with a bound.
pub mod epoch;
pub mod frame;
pub mod interval;
pub mod lag;
mod posterior;
pub mod string;
