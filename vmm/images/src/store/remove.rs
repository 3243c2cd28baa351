//! Removes references, and what no reference leads to.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
};

use rustix::fs::{FlockOperation, flock};

use super::{Store, Temp, refs};
use crate::{Digest, Error, Result};

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// References: 1 or 0.
    pub references: usize,
    /// Layers.
    pub layers: usize,
    /// Layers that no reference leads to any more, but that are in use. [`Store::prune`] removes them later.
    pub in_use: usize,
}

impl Store {
    /// Removes a reference, and what only it led to. What is in use stays until a later [`Store::prune`].
    pub fn remove(&self, reference: &str) -> Result<Removed> {
        let reference = refs::parse(reference)?.whole();
        let path = refs::path(self, &reference);
        self.sweep(|| match fs::remove_file(&path) {
            Ok(()) => Ok(1),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Error::io(format!("removing {}", path.display()))(error)),
        })
    }

    /// Removes what no reference leads to, unless it is in use.
    pub fn prune(&self) -> Result<Removed> {
        self.sweep(|| Ok(0))
    }

    fn sweep(&self, first: impl FnOnce() -> Result<usize>) -> Result<Removed> {
        // Outlives the lock: what it has is removed when the store can be used again.
        let temp = Temp::new(self)?;
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        let mut removed = Removed { references: first()?, ..Default::default() };
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
            fs::rename(&path, temp.path().join(&name)).map_err(Error::io(what()))?;
            removed.layers += 1;
        }
        let configs: HashSet<_> = records.iter().map(|record| self.config_path(&record.config)).collect();
        for name in self.names("configs")? {
            let path = self.path.join("configs").join(name);
            if !configs.contains(&path) {
                fs::remove_file(&path).map_err(Error::io(format!("removing {}", path.display())))?;
            }
        }
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
