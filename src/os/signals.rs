//! The signals a service is told by: stop, and read the configuration again.
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use tokio::io::unix::AsyncFd;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM, SIGINT: end.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

fn wanted() -> SigSet {
    let mut set = SigSet::empty();
    set.extend([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    set
}

/// Keeps the signals back until somebody asks for them. Threads that start later do the same, so
/// this comes first in a program.
///
/// # Errors
/// The kernel's.
pub fn hold() -> io::Result<()> {
    Ok(wanted().thread_block()?)
}

/// The signals as they come.
#[derive(Debug)]
pub struct Signals(AsyncFd<SignalFd>);

impl Signals {
    /// Listens, once [`hold`] was called. Needs the runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen() -> io::Result<Self> {
        let fd = SignalFd::with_flags(&wanted(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        #[allow(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
        // SAFETY: the descriptor is ours alone and open as long as this lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }?;
        Ok(Self(fd))
    }

    /// The next one. May be dropped while it waits.
    pub async fn next(&mut self) -> Asked {
        loop {
            let Ok(mut ready) = self.0.readable_mut().await else { return Asked::Stop };
            match ready.get_inner_mut().read_signal() {
                Ok(Some(info)) if info.ssi_signo == Signal::SIGHUP as u32 => return Asked::Reload,
                Ok(Some(_)) => return Asked::Stop,
                Ok(None) | Err(_) => ready.clear_ready(),
            }
        }
    }
}
