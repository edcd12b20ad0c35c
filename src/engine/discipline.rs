//! What the kernel is asked to do, and when it may be asked: the table of states and steps.
pub use super::packet::Leap;
use crate::units::{Nanos, Ppm};

/// What the kernel is asked to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Correction {
    /// Jump by this much. Never repeated.
    Step(Nanos),
    /// Work this much off at 500 ppm; replaces what is pending.
    Slew(Nanos),
    /// Run at this rate from now on; absolute, may be repeated.
    Frequency(Ppm),
}

/// What the kernel tells others about its clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelStatus {
    /// Clears or sets STA_UNSYNC.
    pub synchronised: bool,
    /// `maxerror`.
    pub max_error: Nanos,
    /// `esterror`.
    pub est_error: Nanos,
    /// Leap second armed for the end of today.
    pub leap: Leap,
}
