//! The state directory: small text files that survive a power cut whole or not at all, and the
//! clock file, whose time of change is the last time known.
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

use crate::units::UtcTime;

/// No state file is larger, in bytes.
pub const LARGEST: u64 = 1 << 20;
const CLOCK_FILE: &str = "clock";

/// A directory of state files.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// Whether a saved file must be on the disk before [`StateDir::save`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The kernel writes it when it likes: never blocks for long.
    Whenever,
    /// `fsync`: may take a second on a memory card.
    Now,
}

impl StateDir {
    /// Uses `path`, made if it is missing. A directory that cannot be written is no error before
    /// something is saved.
    ///
    /// # Errors
    /// A sentence when there is no such directory and none can be made, it is something else, or
    /// others could put files there.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let about = |e| because(&e, &format!("the state directory {}", path.display()));
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&path);
        let found = match (fs::metadata(&path), made) {
            (Ok(found), _) => found,
            (Err(_), Err(e)) | (Err(e), Ok(())) => return Err(about(e)),
        };
        if !found.is_dir() {
            return Err(about(io::Error::other("is not a directory")));
        }
        if !ours(found.uid()) || found.mode() & 0o002 != 0 {
            return Err(about(io::Error::other("could be written by others")));
        }
        Ok(Self { path })
    }

    /// The text of the file `name`; `None` when there is no such file.
    ///
    /// # Errors
    /// A sentence when it is there but not what [`Self::save`] leaves: a link, a directory, empty,
    /// larger than [`LARGEST`], not text, of another owner, or unreadable.
    pub fn load(&self, name: &str) -> io::Result<Option<String>> {
        let path = self.file(name)?;
        let damaged = |text: &str| because(&io::Error::other(text), &path.display().to_string());
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = match File::options().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Err(damaged("is a link")),
            Err(e) => return Err(because(&e, &path.display().to_string())),
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(damaged("is not a regular file"));
        }
        if !ours(found.uid()) {
            return Err(damaged("belongs to another user"));
        }
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST {
            return Err(damaged("is too large"));
        }
        // What a power cut leaves of a file that was not on the disk yet: nothing, or zeros.
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(damaged("was torn by a power cut"));
        }
        String::from_utf8(bytes).map(Some).map_err(|_| damaged("is not text"))
    }

    /// Replaces the file `name` by one that holds `text`: whoever reads sees the old or the new
    /// one, never a part. What is in the way as a link is replaced, not followed.
    ///
    /// # Errors
    /// A sentence when it cannot be written; the old file is untouched then.
    pub fn save(&self, name: &str, text: &str, durability: Durability) -> io::Result<()> {
        let path = self.file(name)?;
        let part = self.path.join(format!(".{name}.part"));
        let mut written = write(&part, text, durability);
        if written.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists) {
            // Left by a kill in the middle of saving.
            let _ = fs::remove_file(&part);
            written = write(&part, text, durability);
        }
        let written = written.and_then(|()| fs::rename(&part, &path));
        if written.is_err() {
            let _ = fs::remove_file(&part);
        } else if durability == Durability::Now {
            File::open(&self.path).and_then(|d| d.sync_all())?;
        }
        written.map_err(|e| because(&e, &path.display().to_string()))
    }

    /// Keeps `now` as the time of change of the clock file.
    ///
    /// # Errors
    /// A sentence when the file cannot be made or dated.
    pub fn touch_clock(&self, now: UtcTime) -> io::Result<()> {
        let path = self.file(CLOCK_FILE)?;
        let dated = || {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
                .open(&path)?;
            let ns = now.as_nanos();
            let at = TimeSpec::new(ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
            // A time that was too late must not come back after a power cut.
            let kept = file.metadata()?;
            let back = (kept.mtime(), kept.mtime_nsec()) > (at.tv_sec(), at.tv_nsec());
            futimens(&file, &at, &at)?;
            if back { file.sync_all() } else { Ok(()) }
        };
        dated().map_err(|e: io::Error| because(&e, &path.display().to_string()))
    }

    /// The time kept by [`Self::touch_clock`]; `None` when there is none.
    #[must_use]
    pub fn kept_clock(&self) -> Option<UtcTime> {
        let found = fs::symlink_metadata(self.path.join(CLOCK_FILE)).ok()?;
        let ns = found.mtime().checked_mul(1_000_000_000)?.checked_add(found.mtime_nsec())?;
        (found.is_file() && ours(found.uid())).then_some(UtcTime::from_nanos(ns))
    }

    fn file(&self, name: &str) -> io::Result<PathBuf> {
        let plain = !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !plain {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not the name of a state file",
            ));
        }
        Ok(self.path.join(name))
    }
}

fn write(path: &Path, text: &str, durability: Durability) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    match durability {
        Durability::Now => file.sync_all(),
        Durability::Whenever => Ok(()),
    }
}

/// Root's files and our own are trusted.
fn ours(owner: u32) -> bool {
    owner == 0 || owner == nix::unistd::geteuid().as_raw()
}

fn because(e: &io::Error, what: &str) -> io::Error {
    let text = match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "no space is left on the disk".to_owned(),
        Some(libc::EROFS) => "the disk is read-only".to_owned(),
        Some(libc::EACCES | libc::EPERM) => "not allowed".to_owned(),
        Some(libc::EISDIR) => "is a directory".to_owned(),
        _ => e.to_string(),
    };
    io::Error::new(e.kind(), format!("{what}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn directory() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("state")).unwrap();
        (dir, state)
    }

    fn root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    #[test]
    fn what_is_saved_is_loaded_and_nothing_else_is_left() {
        let (_dir, state) = directory();
        assert_eq!(state.load("drift").unwrap(), None);
        for (text, durability) in [("ä = 1\n", Durability::Now), ("b", Durability::Whenever)] {
            state.save("drift", text, durability).unwrap();
            assert_eq!(state.load("drift").unwrap().as_deref(), Some(text));
        }
        assert_eq!(fs::read_dir(state.path).unwrap().count(), 1);
    }

    #[test]
    fn a_kill_in_the_middle_of_saving_loses_only_the_new_text() {
        let (_dir, state) = directory();
        state.save("drift", "old", Durability::Whenever).unwrap();
        fs::write(state.path.join(".drift.part"), "ne").unwrap();
        assert_eq!(state.load("drift").unwrap().as_deref(), Some("old"));
        state.save("drift", "newer", Durability::Whenever).unwrap();
        assert_eq!(state.load("drift").unwrap().as_deref(), Some("newer"));
        assert_eq!(fs::read_dir(state.path).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_not_ours_or_not_whole_is_refused_with_the_reason() {
        let (dir, state) = directory();
        let path = state.path.join("drift");
        let reason = |word: &str| {
            let e = state.load("drift").unwrap_err().to_string();
            assert!(e.contains(word) && e.contains("drift"), "{e}");
        };
        for (bytes, word) in [(&b""[..], "torn"), (b"12\0\0\0", "torn"), (b"\xff\xfe", "not text")]
        {
            fs::write(&path, bytes).unwrap();
            reason(word);
        }
        File::create(&path).unwrap().set_len(LARGEST + 1).unwrap();
        reason("too large");
        fs::remove_file(&path).unwrap();
        symlink(dir.path().join("elsewhere"), &path).unwrap();
        reason("link");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        reason("not a regular file");
        fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        reason("not a regular file");
        if root() {
            // (Root's own eyes see its files and root's; a file of uid 12345 is neither.)
            fs::remove_file(&path).unwrap();
            fs::write(&path, "1").unwrap();
            chown(&path, Some(12_345), None).unwrap();
            reason("another user");
        }
    }

    #[test]
    fn a_link_in_the_way_is_replaced_and_a_directory_in_the_way_is_an_error() {
        let (dir, state) = directory();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        symlink(&elsewhere, state.path.join("drift")).unwrap();
        symlink(&elsewhere, state.path.join(".drift.part")).unwrap();
        state.save("drift", "new", Durability::Whenever).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
        assert_eq!(state.load("drift").unwrap().as_deref(), Some("new"));
        fs::create_dir(state.path.join("clock")).unwrap();
        let e = state.save("clock", "new", Durability::Now).unwrap_err();
        assert!(e.to_string().contains("is a directory"), "{e}");
        assert!(state.touch_clock(UtcTime::from_nanos(5)).is_err());
        assert_eq!(state.kept_clock(), None);
        assert_eq!(fs::read_dir(state.path).unwrap().count(), 2);
    }

    #[test]
    fn only_plain_names_are_state_files() {
        let (_dir, state) = directory();
        for name in ["", ".", "..", "../drift", "a/b", ".hidden", "a b"] {
            assert!(state.load(name).is_err() && state.save(name, "", Durability::Now).is_err());
        }
    }

    #[test]
    fn the_clock_file_keeps_any_time_to_the_nanosecond() {
        let (_dir, state) = directory();
        assert_eq!(state.kept_clock(), None);
        for ns in [1_764_000_000_123_456_789, 0, 2_524_608_000_999_999_999] {
            state.touch_clock(UtcTime::from_nanos(ns)).unwrap();
            assert_eq!(state.kept_clock(), Some(UtcTime::from_nanos(ns)));
        }
    }

    #[test]
    fn a_directory_others_could_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(StateDir::open(dir.path()).unwrap_err().to_string().contains("by others"));
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(StateDir::open(dir.path().join("file")).is_err());
        assert!(StateDir::open("/proc/no/such").is_err());
    }

    /// A disk of 64 kB that only the calling thread sees; `None` where the test may not have one.
    fn tiny_disk(path: &Path) -> Option<()> {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        const NONE: Option<&str> = None;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).ok()?;
        mount(NONE, "/", NONE, private, NONE).ok()?;
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=755")).ok()
    }

    #[test]
    fn a_full_or_read_only_disk_keeps_the_old_file_and_is_a_sentence() {
        use nix::mount::{MsFlags, mount};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let in_a_thread = move || {
            if tiny_disk(&path).is_none() {
                return eprintln!("no rights for a disk of its own: not tested");
            }
            let state = StateDir::open(&path).unwrap();
            state.save("drift", "old", Durability::Now).unwrap();
            let e = state.save("drift", &"x".repeat(100_000), Durability::Now).unwrap_err();
            assert!(e.to_string().contains("no space"), "{e}");
            assert_eq!(state.load("drift").unwrap().as_deref(), Some("old"));
            assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "no part is left behind");
            let none: Option<&str> = None;
            mount(none, &path, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).unwrap();
            let e = state.save("drift", "new", Durability::Now).unwrap_err();
            assert!(e.to_string().contains("read-only"), "{e}");
            let e = state.touch_clock(UtcTime::from_nanos(1)).unwrap_err();
            assert!(e.to_string().contains("read-only"), "{e}");
            assert_eq!(state.load("drift").unwrap().as_deref(), Some("old"));
        };
        std::thread::spawn(in_a_thread).join().unwrap();
    }
}
