//! Removes references, and what no reference leads to.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use super::{Record, Store, Temp, refs, size};
use crate::{Digest, Error, Result};

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// References.
    pub references: usize,
    /// Layers.
    pub layers: usize,
    /// Bytes on disk that those layers had.
    pub bytes: u64,
    /// Layers that no reference leads to any more, but that are in use. [`Store::prune`] removes them later.
    pub in_use: usize,
}

impl Store {
    /// Removes a reference, and what only it led to. What is in use stays until a later [`Store::prune`].
    pub fn remove(&self, reference: &str) -> Result<Removed> {
        let reference = refs::parse(reference)?.whole();
        let path = refs::path(self, &reference);
        self.sweep(|| remove(&path))
    }

    /// Removes each reference whose record is `unwanted` and whose image is not in use. Then removes the layers and configurations that no
    /// reference leads to and nobody uses.
    ///
    /// # Errors
    /// The file system's.
    pub fn prune(&self, unwanted: impl Fn(&Record) -> bool) -> Result<Removed> {
        self.sweep(|| {
            let mut removed = 0;
            for record in refs::all(self)?.iter().filter(|record| unwanted(record)) {
                if !self.is_in_use(record)? {
                    removed += remove(&refs::path(self, &record.reference))?;
                }
            }
            Ok(removed)
        })
    }

    /// Whether a process uses this image, or one that is built on it: such a process holds a lock on the image's top layer.
    fn is_in_use(&self, record: &Record) -> Result<bool> {
        let Some(path) = record.layers.last().map(|top| self.layer_path(top)) else { return Ok(false) };
        match File::open(&path) {
            Ok(top) => Ok(flock(&top, FlockOperation::NonBlockingLockExclusive).is_err()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io(path.display().to_string())(error)),
        }
    }

    fn sweep(&self, first: impl FnOnce() -> Result<usize>) -> Result<Removed> {
        // Outlives the lock: what it has is removed when the store can be used again.
        let temp = Temp::new(self)?;
        let lock = self.lock(FlockOperation::LockExclusive)?;
        let mut removed = Removed { references: first()?, ..Default::default() };
        let mut gone = Vec::new();
        let records = refs::all(self)?;
        let layers: HashSet<_> = records.iter().flat_map(|record| &record.layers).collect();
        for name in self.names("layers")? {
            let kept = Digest::from_file_name(&name).is_some_and(|digest| layers.contains(&digest));
            if kept {
                continue;
            }
            let path = self.path.join("layers").join(&name);
            let what = || format!("removing {}", path.display());
            let directory = File::open(&path).map_err(Error::io(what()))?;
            if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
                removed.in_use += 1;
                continue;
            }
            let unlisted = temp.path().join(&name);
            fs::rename(&path, &unlisted).map_err(Error::io(what()))?;
            gone.push(unlisted);
            removed.layers += 1;
        }
        let configs: HashSet<_> = records.iter().map(|record| self.config_path(&record.config)).collect();
        for name in self.names("configs")? {
            let path = self.path.join("configs").join(name);
            if !configs.contains(&path) {
                fs::remove_file(&path).map_err(Error::io(format!("removing {}", path.display())))?;
            }
        }
        drop(lock);
        removed.bytes = gone.iter().map(|layer| size::tree_size(layer)).sum::<Result<_>>()?;
        Ok(removed)
    }

    fn names(&self, directory: &str) -> Result<Vec<String>> {
        let path = self.path.join(directory);
        let read = || {
            let names =
                fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            names.collect::<io::Result<_>>()
        };
        read().map_err(Error::io(path.display().to_string()))
    }
}

/// Removes a reference's file, and answers how many there were.
fn remove(path: &Path) -> Result<usize> {
    match fs::remove_file(path) {
        Ok(()) => Ok(1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::io(format!("removing {}", path.display()))(error)),
    }
}
