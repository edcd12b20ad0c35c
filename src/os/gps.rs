//! The socket that gpsd writes its seconds to (chrony's SOCK protocol).
use super::notify;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use tokio::net::UnixDatagram;

/// A datagram is shorter.
pub const ROOM: usize = 64;

/// The receiving end. Its file goes when this does, unless the service manager keeps it: gpsd never
/// looks for it again while it runs.
#[derive(Debug)]
pub struct Seconds {
    socket: UnixDatagram,
    path: PathBuf,
    kept: bool,
}

impl Seconds {
    /// Listens at `path`. What a daemon that is gone has left there is replaced; a socket that
    /// somebody listens at, or anything else, is not. Must be called within the runtime.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            match net::UnixDatagram::unbound()?.connect(path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
                _ => return Err(io::Error::other("another program listens there")),
            }
        }
        let socket = UnixDatagram::bind(path)?;
        // gpsd has given its rights up when it writes, but not its group.
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        let kept = notify::keep(socket.as_fd());
        Ok(Self { socket, path: path.to_owned(), kept })
    }

    /// As [`Self::bind`], or the same socket as before our restart.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path, before: Option<net::UnixDatagram>) -> io::Result<Self> {
        let there = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        let same = |socket: &net::UnixDatagram| {
            socket.local_addr().is_ok_and(|a| a.as_pathname() == Some(path))
        };
        let Some(socket) = before.filter(|socket| there && same(socket)) else {
            return Self::bind(path);
        };
        socket.set_nonblocking(true)?;
        let socket = UnixDatagram::from_std(socket)?;
        Ok(Self { socket, path: path.to_owned(), kept: true })
    }

    /// The next datagram, cut at [`ROOM`]. May be dropped and called again.
    ///
    /// # Errors
    /// What the system says.
    pub async fn next(&self, buffer: &mut [u8; ROOM]) -> io::Result<usize> {
        self.socket.recv(buffer).await
    }
}

impl Drop for Seconds {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}
