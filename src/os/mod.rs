//! What only the machine can do: clocks, sockets, files. All `unsafe` of the program is here.
pub mod bluez;
pub mod clock;
pub mod control;
pub mod gps;
pub mod heap;
pub mod journal;
pub mod led;
pub mod netlink;
pub mod notify;
pub mod ntp;
pub mod resolve;
pub mod serve;
pub mod signals;
pub mod store;
pub mod terminal;
pub mod thermal;
pub mod wake;
