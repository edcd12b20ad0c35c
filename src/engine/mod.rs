//! Everything the daemon decides about the clock, and nothing it does.
pub mod discipline;
pub mod estimator;
pub mod packet;
