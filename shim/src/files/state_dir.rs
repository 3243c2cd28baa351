//! The directory of one sandbox below /run/krun: its share, its sockets, and what names them.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use log::warn;
use sha2::{Digest, Sha256};

use super::mount;
use crate::error::{Error, Result};

/// Where sandboxes have their directories.
pub const ROOT: &str = "/run/krun";

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
        for dir in [state.path.clone(), state.share(), state.sockets()] {
            make_dir(&dir, 0o700)?;
        }
        Ok(state)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What becomes the guest's root.
    pub fn share(&self) -> PathBuf {
        self.path.join("share")
    }

    /// The VM's own sockets.
    pub fn sockets(&self) -> PathBuf {
        self.path.join("sock")
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Makes a directory with its parents.
///
/// # Errors
/// The file system's, naming the path.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|e| Error::internal(format!("make directory {}", path.display())).because(e))
}

/// Removes a sandbox's directory with all that is mounted in it.
pub fn remove(path: &Path) {
    if !path.exists() {
        return;
    }
    mount::detach_all(path);
    match remove_tree(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => warn!("remove {}: {error}", path.display()),
        _ => {}
    }
}

/// Removes a directory tree, but never crosses into a mount: one that could not be undone may
/// hold somebody's data.
fn remove_tree(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let device = fs::symlink_metadata(path)?.dev();
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        let metadata = fs::symlink_metadata(&entry)?;
        if metadata.dev() != device {
            return Err(io::Error::other(format!("{} is still mounted", entry.display())));
        }
        if metadata.is_dir() {
            remove_tree(&entry)?;
        } else {
            fs::remove_file(&entry)?;
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
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
        make_dir(&top.join("a/b"), 0o700).unwrap();
        fs::write(top.join("a/file"), "").unwrap();
        std::os::unix::fs::symlink("/", top.join("a/link")).unwrap();
        remove(&top);
        assert!(!top.exists());
    }
}
