//! The socket that gpsd writes its seconds to (chrony's SOCK protocol).
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::UnixDatagram;

/// A datagram is shorter.
pub const ROOM: usize = 64;

/// The receiving end. Its file goes when this does.
#[derive(Debug)]
pub struct Seconds {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Seconds {
    /// Listens at `path`; a socket that is there already is replaced, anything else is not. Must be
    /// called within the runtime.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(path)?;
        }
        let socket = UnixDatagram::bind(path)?;
        // gpsd has given its rights up when it writes, but not its group.
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        Ok(Self { socket, path: path.to_owned() })
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
        let _ = fs::remove_file(&self.path);
    }
}
