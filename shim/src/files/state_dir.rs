//! The directory of one sandbox below /run/krun: its share, its sockets, and what names them.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use log::warn;
use nix::fcntl::OFlag;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::{mount, pin};
use crate::error::{Error, Result};

/// Where sandboxes have their directories.
pub const ROOT: &str = "/run/krun";

/// The mode of that: it lets in root alone.
const ROOT_MODE: u32 = 0o700;

/// In it: what becomes the guest's root, and the VM's own sockets.
pub const SHARE: &str = "share";
const SOCKETS: &str = "sock";

/// What the directories of VMs begin with that belong to no sandbox yet. No sandbox's does.
const WAITING: &str = "waiting-";

/// Hexadecimal digits of a directory's name: short, as a socket's path may have 107 bytes.
const NAME_DIGITS: usize = 24;

/// A sandbox's directory, removed with all that is mounted in it when it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// The path of the directory of `sandbox` in containerd's `namespace`.
pub fn path(namespace: &str, sandbox: &str) -> PathBuf {
    let digest = Sha256::digest(format!("{namespace}/{sandbox}"));
    let mut name = String::with_capacity(64);
    for byte in digest {
        let _ = write!(name, "{byte:02x}");
    }
    name.truncate(NAME_DIGITS);
    Path::new(ROOT).join(name)
}

impl StateDir {
    /// Makes the directory of `sandbox`, first removing what a dead shim left there.
    ///
    /// # Errors
    /// The file system's, naming the path; nothing stays behind.
    pub fn create(namespace: &str, sandbox: &str) -> Result<StateDir> {
        let path = path(namespace, sandbox);
        remove(&path);
        let state = StateDir { path };
        state.fill()?;
        Ok(state)
    }

    fn fill(&self) -> Result<()> {
        make_dir(&self.path.join(SOCKETS), 0o700)?;
        // The guest's root directory, which the users there must get through. On the host, the directory above it lets in root alone.
        make_dir(&self.path.join(SHARE), 0o711)
    }

    /// Makes a directory for a VM that belongs to no sandbox yet.
    ///
    /// # Errors
    /// The file system's, naming the path; nothing stays behind.
    pub fn create_waiting(name: &str) -> Result<StateDir> {
        let state = StateDir { path: Path::new(ROOT).join(format!("{WAITING}{name}")) };
        state.fill()?;
        Ok(state)
    }

    /// Gives the directory `waiting` of a VM that waited to a sandbox, which is named with containerd's namespace before it. What a
    /// dead shim left there is removed first.
    ///
    /// # Errors
    /// The file system's.
    pub fn take_over(waiting: &str, (namespace, sandbox): (&str, &str)) -> Result<StateDir> {
        let path = path(namespace, sandbox);
        remove(&path);
        let renamed = root().and_then(|root| {
            let name = path.file_name().and_then(OsStr::to_str).ok_or(io::ErrorKind::InvalidInput)?;
            pin::rename(&root, &format!("{WAITING}{waiting}"), name)
        });
        renamed.map_err(|e| Error::internal(format!("make directory {}", path.display())).because(e))?;
        Ok(StateDir { path })
    }

    /// Leaves it to who takes it over.
    pub fn leave(mut self) {
        // Nothing is removed at an empty path.
        self.path = PathBuf::new();
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The VM's own sockets.
    pub fn sockets(&self) -> PathBuf {
        self.path.join(SOCKETS)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the directory `name` of a VM that belonged to no sandbox, if it is there and nobody [holds](hold_waiting) it.
pub fn remove_waiting(name: &str) {
    if hold_waiting(name).is_ok() {
        remove(&Path::new(ROOT).join(format!("{WAITING}{name}")));
    }
}

/// Keeps the directory `name` of a VM that belongs to no sandbox from being removed by others, as long as any copy of what this
/// returns is open. It may get another name meanwhile.
///
/// # Errors
/// When somebody holds it, or it is not there.
pub fn hold_waiting(name: &str) -> io::Result<OwnedFd> {
    let directory = pin::beneath(root()?, Path::new(&format!("{WAITING}{name}")))?;
    let directory = pin::reopen(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory.into())
}

/// The names of the directories of VMs that belong to no sandbox.
///
/// # Errors
/// The file system's.
#[expect(clippy::disallowed_methods, reason = "a directory that lets in root alone")]
pub fn waiting() -> io::Result<Vec<String>> {
    let found = fs::read_dir(ROOT)?.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        Some(name.to_str()?.strip_prefix(WAITING)?.to_owned())
    });
    Ok(found.collect())
}

/// Makes the directory of all sandboxes, unless it is there, and opens it.
///
/// # Errors
/// The file system's.
pub fn root() -> io::Result<File> {
    pin::reopen(pin::directory_for(Path::new(ROOT), ROOT_MODE)?, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

/// Makes a directory with its parents, at a path that the host's root chose.
///
/// # Errors
/// The file system's, naming the path.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    let made = pin::directory_for(path, mode);
    made.map(drop).map_err(|e| Error::internal(format!("make directory {}", path.display())).because(e))
}

/// Removes a sandbox's directory with all that is mounted in it. What cannot be unmounted may hold somebody's data, and
/// stays.
pub fn remove(path: &Path) {
    let (Some(root), Some(name)) = (path.parent(), path.file_name()) else { return };
    let Ok(root) = pin::Pinned::open_directory(root) else { return };
    mount::detach_all(path);
    if let Err(error) = pin::remove(&root, Path::new(name)) {
        warn!("remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn paths_are_short_and_differ() {
        let long = "x".repeat(300);
        let a = path("default", &long);
        assert!(a.as_os_str().len() < 40);
        assert_ne!(a, path("k8s.io", &long));
    }

    #[test]
    fn a_tree_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/file"), "").unwrap();
        std::os::unix::fs::symlink("/", top.join("a/link")).unwrap();
        remove(&top);
        assert!(!top.exists());
    }
}
