//! What the service manager is told. Where there is none, nothing happens.
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    // The service manager going away must not disturb the clock.
    let _ = sd_notify::notify(states);
}

/// The daemon runs. (Says nothing about the time being right.)
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// The daemon stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The service manager keeps this descriptor over our restart. Whether it was asked to.
#[must_use]
pub fn keep(descriptor: BorrowedFd<'_>) -> bool {
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET") else { return false };
    let address = match manager.as_encoded_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name),
        path => UnixAddr::new(path),
    };
    let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) else { return false };
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let text = [IoSlice::new(b"FDSTORE=1")];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg(socket.as_raw_fd(), &text, &rights, flags, Some(&address)).is_ok()
}

/// The daemon is alive.
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`watchdog`] must be called: half of what the unit allows. `None` without a watchdog.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}
