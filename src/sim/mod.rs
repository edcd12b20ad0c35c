//! A world to be right or wrong in: crystal, kernel clock, network, servers. Pure and seeded;
//! the same seed gives the same bits on every machine.
//!
//! Everything is measured against the world's own true time, which only moves when
//! [`World::advance`] is told to: by a virtual-time driver (a day in a second) or by the
//! daemon's `run --simulate`, which hands in the time that really passes.
mod clock;
mod crystal;
mod day;
mod network;
mod outcome;
mod random;
mod scenario;
mod server;
pub mod shooter;
mod solo;
mod world;

pub use clock::SimClock;
pub use crystal::{Climate, Crystal, CrystalPlan};
pub use day::simulate;
pub use network::{Jitter, Network, Way, Weather};
pub use outcome::{Outcome, Watch};
pub use random::Random;
pub use scenario::{NAMES, Scenario, scenario};
pub use server::{SimServer, Truth};
pub use solo::estimate_alone;
pub use world::{Flight, Returned, World};
