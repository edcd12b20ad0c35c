//! Time on a shooting range: the Pi's clock kept right by NTP, and every shot of an AMG
//! Lab Commander dated in UTC with an honest bound.
//!
//! Dependencies point inward only: `tasks → os → (types of) engine → units`. The engine,
//! the timer and the simulated world are pure: time and chance are arguments.
//!
//! ```text
//!           ┌─────────────── tasks::resync (one screen) ───────────────┐
//!  UDP ──►  os::ntp ──Exchange──►  engine.handle(reading, input)        │
//!  kernel ► os::clock ─Reading──►   source → select → estimator → discipline
//!           │                        │ Ask    │ Steer     │ Report      │
//!           │            os::ntp ◄───┘        ▼           ▼             │
//!           │                            os::clock      state ──────────┼─► tasks::monitor ─► alert, journal
//!           └──────────────────────────────────────────────────────────┘ └► os::control (status, subscribers)
//!  BLE ──►  os::bluez ──Notification──► tasks::bridge: timer::frame → string → epoch ──► state, subscribers
//! ```
#![cfg_attr(not(target_pointer_width = "64"), allow(unused))]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("leadville-timesync needs a 64-bit system: struct timex differs elsewhere");

pub mod cli;
pub mod client;
pub mod config;
pub mod drift;
pub mod engine;
pub mod os;
pub mod record;
pub mod sim;
pub mod state;
pub mod tasks;
pub mod timer;
pub mod units;
#[cfg(feature = "web")]
pub mod web;
