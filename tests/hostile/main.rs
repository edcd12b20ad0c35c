//! What a hostile network, disk and machine can do to the real daemon: nothing that makes it lie,
//! jump or die. Sockets are real where sockets matter; judgement of time runs on the pure engine.
mod bench;
mod daemon;
mod server;
mod table;
mod time;
mod wire;
