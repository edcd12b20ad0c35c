//! What a hostile network, disk and machine can do to the real daemon: nothing that makes it lie,
//! jump or die. Sockets are real where sockets matter; judgement of time runs on the pure engine.
#![allow(clippy::disallowed_methods, reason = "a test's patience is measured in real time")]
mod alone;
mod attacks;
mod bench;
mod daemon;
mod flood;
mod host;
mod listed;
mod names;
mod properties;
mod rules;
mod script;
mod server;
mod suite;
mod table;
mod time;
mod wire;
