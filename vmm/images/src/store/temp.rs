//! What is not finished: a directory below `tmp`, locked as long as its process lives.
//!
//! One without a lock was left by a process that was killed. `tmp` itself is locked while one is made and gets its lock, and
//! while they are looked through: in between it would seem to be left.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::Store;
use crate::{Error, Result};

/// A directory that goes away with what is left in it.
#[derive(Debug)]
pub(crate) struct Temp {
    directory: TempDir,
    // Held until the directory is gone.
    _lock: File,
}

impl Temp {
    pub fn new(store: &Store) -> Result<Temp> {
        let path = store.path.join("tmp");
        let make = || {
            let all = File::open(&path)?;
            flock(&all, FlockOperation::LockShared)?;
            let directory = TempDir::new_in(&path)?;
            let lock = File::open(directory.path())?;
            flock(&lock, FlockOperation::LockExclusive)?;
            Ok::<_, io::Error>(Temp { directory, _lock: lock })
        };
        make().map_err(Error::io(format!("making a directory in {}", path.display())))
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes what killed processes left.
pub(super) fn clean(store: &Store) -> Result<()> {
    let path = store.path.join("tmp");
    let left = left(&path).map_err(Error::io(format!("looking through {}", path.display())))?;
    for (path, _lock) in left {
        remove(&path)?;
    }
    Ok(())
}

/// Removes a directory that no process uses.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// The directories that were left, with locks: no other process removes them meanwhile.
fn left(path: &Path) -> io::Result<Vec<(std::path::PathBuf, File)>> {
    let all = File::open(path)?;
    if flock(&all, FlockOperation::NonBlockingLockExclusive).is_err() {
        // Somebody is just making one, or looking. The next command will look.
        return Ok(Vec::new());
    }
    let mut left = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let Ok(lock) = File::open(&path) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            left.push((path, lock));
        }
    }
    Ok(left)
}
