//! The control socket: one JSON object per line each way, over a Unix socket.
//!
//! Nothing a client does disturbs the clock: lines, clients and waiting are bounded, and what
//! comes too slowly is dropped.
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as blocking;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Group, User};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// The longest request, in bytes.
pub const LONGEST_LINE: usize = 64 << 10;
/// The longest reply, in bytes.
pub const LONGEST_REPLY: usize = 1 << 20;
/// Clients at a time.
pub const MOST_CLIENTS: usize = 64;
/// Who does not read a line within this time is dropped.
const SLOWEST_READER: Duration = Duration::from_millis(500);
/// Who does not finish a line within this time is dropped.
const SLOWEST_WRITER: Duration = Duration::from_secs(10);
/// The group whose members may change things.
pub const GROUP: &str = "leadville";
/// The page's user. It opens the socket as the group's members do, and may do less.
pub const PAGE_USER: &str = "leadville-timesync-web";

/// Where the socket of the system's daemon is.
pub const SYSTEM_SOCKET: &str = "/run/leadville/timesync.sock";

/// The places a client looks for the daemon, best first: `given` alone (an option), else
/// `$LEADVILLE_SOCKET` alone, else the system's daemon and the user's own.
#[must_use]
pub fn places(given: Option<&Path>) -> Vec<PathBuf> {
    let named = |variable| std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(only) = given.map(Path::to_owned).or_else(|| named("LEADVILLE_SOCKET")) {
        return vec![only];
    }
    let mut all = vec![PathBuf::from(SYSTEM_SOCKET)];
    all.extend(named("XDG_RUNTIME_DIR").map(|dir| dir.join("leadville/timesync.sock")));
    all
}

/// The place a daemon listens at: the first of [`places`] whose directory it may write or make.
#[must_use]
pub fn own_place(given: Option<&Path>) -> PathBuf {
    let all = places(given);
    let writable = |place: &&PathBuf| {
        let existing = place.ancestors().skip(1).find(|dir| dir.exists());
        existing.is_some_and(|dir| nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK).is_ok())
    };
    all.iter().find(writable).unwrap_or(&all[0]).clone()
}

/// The daemon's end. The socket file goes when this does.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and number of the socket file, to remove only our own.
    inode: (u64, u64),
    rule: Rule,
    clients: Arc<()>,
}

impl Listener {
    /// Listens at `path`, readable and writable for our user and `group` alone. The socket of a
    /// daemon that died is replaced. Must be called within the runtime. The second value says what
    /// is less than wanted, as a group that does not exist.
    ///
    /// # Errors
    /// A sentence when another daemon answers there, when something else is in the way, or when
    /// the place cannot be written.
    pub fn bind(path: &Path, group: Option<&str>) -> io::Result<(Self, Option<String>)> {
        let (listener, note) = listen(path, group)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let found = fs::symlink_metadata(path)?;
        let socket = UnixListener::from_std(listener)?;
        let gid = group.and_then(gid_of).map(Gid::as_raw);
        let rule = Rule { uid: nix::unistd::geteuid().as_raw(), gid, page: page_user };
        let (path, inode) = (path.to_owned(), (found.dev(), found.ino()));
        Ok((Self { socket, path, inode, rule, clients: Arc::new(()) }, note))
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next client. Above [`MOST_CLIENTS`] they are told so and sent away. May be dropped and
    /// called again.
    pub async fn accept(&self) -> Connection {
        loop {
            let Ok((stream, _)) = self.socket.accept().await else {
                // No descriptors left, most likely: others must close theirs first.
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            };
            if Arc::strong_count(&self.clients) > MOST_CLIENTS {
                let refusal =
                    b"{\"v\":1,\"reply\":\"error\",\"error\":\"too many clients\",\"hint\":null}\n";
                let _ = stream.try_write(refusal);
                continue;
            }
            let Some(peer) = Peer::of(&stream, self.rule) else { continue };
            return Connection {
                stream,
                peer,
                read: Vec::new(),
                _counted: Arc::clone(&self.clients),
            };
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|f| (f.dev(), f.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds under a passing name and renames: nobody ever sees the socket with other rights.
fn listen(
    path: &Path,
    group: Option<&str>,
) -> io::Result<(blocking::UnixListener, Option<String>)> {
    let no_place = || io::Error::other("not a place for a socket");
    let (dir, name) = path.parent().zip(path.file_name()).ok_or_else(no_place)?;
    if !dir.exists() {
        fs::create_dir_all(dir)?;
    }
    // Two daemons that start together look one after the other.
    let dir_file = fs::File::open(dir)?;
    let _looking = Flock::lock(dir_file, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other("something that is not a socket is in the way"));
        }
        Ok(_) => match blocking::UnixStream::connect(path) {
            Ok(_) => {
                let text = "another leadville-timesync is running there";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(e) => return Err(e),
        },
    }
    let passing = dir.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let _ = fs::remove_file(&passing);
    let listener = blocking::UnixListener::bind(&passing)?;
    let prepared = || {
        listener.set_nonblocking(true)?;
        fs::set_permissions(&passing, fs::Permissions::from_mode(0o660))?;
        let note = group.and_then(|group| give_to(&passing, group));
        fs::rename(&passing, path)?;
        Ok(note)
    };
    prepared().map(|note| (listener, note)).inspect_err(|_: &io::Error| {
        let _ = fs::remove_file(&passing);
    })
}

/// Gives the socket to the group; says so when that cannot be.
fn give_to(path: &Path, group: &str) -> Option<String> {
    let Some(gid) = gid_of(group) else {
        return Some(format!(
            "there is no group {group}: only root and this user reach the socket"
        ));
    };
    // The service's own group, so nothing is to be done: its sandbox forbids chown.
    if fs::metadata(path).is_ok_and(|m| m.gid() == gid.as_raw()) {
        return None;
    }
    let given = nix::unistd::chown(path, None, Some(gid));
    given.err().map(|e| format!("the socket cannot be given to group {group}: {e}"))
}

fn gid_of(group: &str) -> Option<Gid> {
    Group::from_name(group).ok().flatten().map(|g| g.gid)
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Ask.
    Ask,
    /// Ask, and pass on what time a phone shows.
    Phone,
    /// Everything.
    All,
}

/// Who may change things: root, our own user, one group; but of its members the page's user may
/// do no more than the page needs.
#[derive(Clone, Copy, Debug)]
struct Rule {
    uid: u32,
    gid: Option<u32>,
    /// The page's user is looked up when somebody else comes: a name that is not there would have the
    /// system's other lists of users, and their libraries, loaded for good.
    page: Lookup,
}

/// Who a user is, if there is one.
type Lookup = fn() -> Option<u32>;

fn page_user() -> Option<u32> {
    User::from_name(PAGE_USER).ok().flatten().map(|user| user.uid.as_raw())
}

impl Rule {
    fn rights(self, uid: u32, member: impl Fn(u32) -> bool) -> Rights {
        if uid == 0 || uid == self.uid {
            Rights::All
        } else if !self.gid.is_some_and(member) {
            Rights::Ask
        } else if (self.page)() == Some(uid) {
            Rights::Phone
        } else {
            Rights::All
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Main group.
    pub gid: u32,
    /// Process; 0 when it is not of our world.
    pub pid: i32,
    /// What it may do.
    pub rights: Rights,
}

impl Peer {
    fn of(stream: &UnixStream, rule: Rule) -> Option<Self> {
        let who = stream.peer_cred().ok()?;
        let (uid, gid) = (who.uid(), who.gid());
        let member = |group| group == gid || groups_of(stream).contains(&group);
        let rights = rule.rights(uid, member);
        Some(Self { uid, gid, pid: who.pid().unwrap_or(0), rights })
    }
}

/// The further groups the peer had when it connected.
fn groups_of(stream: &UnixStream) -> Vec<u32> {
    let mut groups = vec![0_u32; 1_024];
    let mut bytes = (groups.len() * size_of::<u32>()) as libc::socklen_t;
    // SAFETY: the buffer is `bytes` long, and both live through the call.
    #[allow(unsafe_code, reason = "nix does not know SO_PEERGROUPS")]
    let failed = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    groups.truncate(if failed == 0 { bytes as usize / size_of::<u32>() } else { 0 });
    groups
}

/// A client of the daemon.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    peer: Peer,
    read: Vec<u8>,
    _counted: Arc<()>,
}

impl Connection {
    /// Who it is.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The next line without its end; `None` when the client has closed. May be dropped and
    /// called again.
    ///
    /// # Errors
    /// `InvalidData` for a line that is too long or not UTF-8, `TimedOut` for one that is never
    /// finished: the sentence is fit for the client, and the connection should be closed.
    pub async fn next_line(&mut self) -> io::Result<Option<String>> {
        let bad = |text| io::Error::new(io::ErrorKind::InvalidData, text);
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.read.drain(..=end).collect();
                self.read.shrink_to(256);
                line.pop();
                line.pop_if(|b| *b == b'\r');
                return String::from_utf8(line).map(Some).map_err(|_| bad("not UTF-8"));
            }
            if self.read.len() >= LONGEST_LINE {
                return Err(bad("the line is longer than 64 kB"));
            }
            let mut some = [0; 1_024];
            let read = self.stream.read(&mut some);
            let count = if self.read.is_empty() {
                read.await?
            } else {
                let slow = |_| io::Error::new(io::ErrorKind::TimedOut, "the line never ends");
                timeout(SLOWEST_WRITER, read).await.map_err(slow)??
            };
            if count == 0 {
                return Ok(None);
            }
            self.read.extend_from_slice(&some[..count]);
        }
    }

    /// Sends one line; its end is added.
    ///
    /// # Errors
    /// `TimedOut` when the client does not read, `InvalidInput` for a line that holds an end or is
    /// too long, else what the socket says. The connection must be closed then: half a line may
    /// have left.
    pub async fn send_line(&mut self, line: &str) -> io::Result<()> {
        if line.contains('\n') || line.len() >= LONGEST_REPLY {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a line of the protocol"));
        }
        let whole = [line.as_bytes(), b"\n"].concat();
        let slow = |_| io::Error::new(io::ErrorKind::TimedOut, "the client does not read");
        timeout(SLOWEST_READER, self.stream.write_all(&whole)).await.map_err(slow)?
    }
}

/// A command's end, which waits plainly: a command does nothing else meanwhile.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<blocking::UnixStream>,
    path: PathBuf,
}

impl Client {
    /// The first daemon that answers at one of `places`.
    ///
    /// # Errors
    /// A sentence that says where it looked and what to do.
    pub fn connect(places: &[PathBuf]) -> io::Result<Self> {
        let mut denied = None;
        for path in places {
            match blocking::UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
                    return Ok(Self { stream: BufReader::new(stream), path: path.clone() });
                }
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => denied = Some(path),
                Err(_) => {}
            }
        }
        if let Some(path) = denied {
            let me = User::from_uid(nix::unistd::getuid()).ok().flatten();
            let me = me.map_or_else(|| "YOU".to_owned(), |u| u.name);
            let text = format!(
                "you may not open {}: join the group with `sudo adduser {me} {GROUP}` and log in again",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let looked: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
        let text = format!("no daemon is running (looked at {})", looked.join(" and "));
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    }

    /// The socket it talks through.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same connection once more, to end it from another thread.
    ///
    /// # Errors
    /// What the system says when it has no descriptor left.
    pub fn other_end(&self) -> io::Result<blocking::UnixStream> {
        self.stream.get_ref().try_clone()
    }

    /// Sends a request and waits for its reply, at most 5 s.
    ///
    /// # Errors
    /// A sentence when the daemon goes away, does not answer, or answers something else than one
    /// JSON object.
    pub fn request(&mut self, request: &Value) -> io::Result<Value> {
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        match self.read() {
            Some(reply) => reply,
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon closed")),
        }
    }

    /// What the daemon sends from now on (after `subscribe`), without a limit of time.
    ///
    /// # Errors
    /// Each line as in [`Self::request`].
    pub fn lines(mut self) -> io::Result<impl Iterator<Item = io::Result<Value>> + Send> {
        self.stream.get_ref().set_read_timeout(None)?;
        Ok(std::iter::from_fn(move || self.read()))
    }

    fn read(&mut self) -> Option<io::Result<Value>> {
        let mut line = String::new();
        match self.stream.by_ref().take(LONGEST_REPLY as u64).read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).map(printable).map_err(|e| {
                io::Error::new(io::ErrorKind::InvalidData, format!("not a reply: {e}"))
            })),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let text = "the daemon does not answer";
                Some(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
            Err(e) => Some(Err(e)),
        }
    }
}

/// A reply in which no name, wherever it comes from, can tell a terminal what to do.
fn printable(mut reply: Value) -> Value {
    match &mut reply {
        Value::String(text) if text.contains(char::is_control) => {
            let shown = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
            *text = text.chars().map(shown).collect();
        }
        Value::Array(list) => list.iter_mut().for_each(|v| *v = printable(v.take())),
        Value::Object(fields) => fields.values_mut().for_each(|v| *v = printable(v.take())),
        _ => {}
    }
    reply
}

#[cfg(test)]
mod tests;
