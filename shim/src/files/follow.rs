//! Volumes that follow the host: what is mounted below their source later, or unmounted, is so in
//! the share as well. Each is bound here, not propagated by the kernel: that would bring it with its
//! devices and set-user-id programs, which a guest has no business opening on the host.

use std::{collections::BTreeMap, fs::File, io, path::PathBuf, sync::Arc};

use log::warn;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Mutex,
    task::spawn_blocking,
};

use super::mount::{Held, Model, MountId, Mounts, Place, ReadOnly};

/// A volume that follows the host.
#[derive(Debug)]
pub struct Followed {
    model: Model,
    read_only: ReadOnly,
    volume: Place,
    name: String,
    /// What is mounted below the volume, by its path below it and by the mount of the model that it shows; no mount where
    /// that could not be bound.
    mounts: BTreeMap<PathBuf, (MountId, Option<Held>)>,
}

impl Followed {
    /// Has `volume`, which shows its source without what is mounted below it, show that as well, as read-only as asked;
    /// what comes later is as read-only as the volume's top. `name` is for messages.
    ///
    /// # Errors
    /// When the model's mounts cannot be read.
    pub fn new(model: Model, volume: Place, read_only: ReadOnly, name: String) -> io::Result<Followed> {
        let mut followed = Followed { model, read_only, volume, name, mounts: BTreeMap::new() };
        let below = if read_only == ReadOnly::All { ReadOnly::All } else { ReadOnly::Nothing };
        followed.update(below)?;
        Ok(followed)
    }

    /// Makes the volume like the model.
    fn update(&mut self, read_only: ReadOnly) -> io::Result<()> {
        let now = self.model.mounts()?;
        // The deepest first.
        for path in gone(&self.mounts, &now).into_iter().rev() {
            self.mounts.remove(&path);
        }
        for (path, id) in now {
            if self.mounts.contains_key(&path) {
                continue;
            }
            let bound =
                self.model.open(&path, id).and_then(|root| self.volume.bind_own(&root, &path, read_only));
            let held =
                bound.inspect_err(|error| warn!("follow {}: {}: {error}", self.name, path.display())).ok();
            self.mounts.insert(path, (id, held));
        }
        Ok(())
    }
}

/// What is no longer there, or is another mount now.
fn gone<T>(had: &BTreeMap<PathBuf, (MountId, T)>, now: &Mounts) -> Vec<PathBuf> {
    had.iter().filter(|(path, (id, _))| now.get(*path) != Some(id)).map(|(path, _)| path.clone()).collect()
}

/// The volumes of a container that follow the host.
#[derive(Debug, Clone, Default)]
pub struct Follower {
    /// Who updates them holds them, on a thread that may hang; others wait without one.
    volumes: Arc<Mutex<Vec<Followed>>>,
    is_idle: bool,
}

impl Follower {
    /// Of these volumes.
    pub fn new(volumes: Vec<Followed>) -> Follower {
        Follower { is_idle: volumes.is_empty(), volumes: Arc::new(Mutex::new(volumes)) }
    }

    /// Whether no volume is to follow.
    pub fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// Makes the volumes like their sources. It may hang with a source's file system.
    pub async fn update(&self) {
        if self.is_idle {
            return;
        }
        let mut volumes = self.volumes.clone().lock_owned().await;
        let updated = spawn_blocking(move || {
            for volume in volumes.iter_mut() {
                if let Err(error) = volume.update(volume.read_only) {
                    warn!("follow {}: {error}", volume.name);
                }
            }
        });
        if let Err(error) = updated.await {
            warn!("follow the host's mounts: {error}");
        }
    }

    /// Has an exceptional condition when a mount of the sandbox's namespace comes or goes.
    async fn watch(&self) -> io::Result<AsyncFd<File>> {
        let volumes = self.volumes.lock().await;
        let volume = volumes.first().ok_or_else(|| io::Error::other("no volume follows the host"))?;
        let table = volume.model.watched()?;
        // SAFETY: the descriptor is the AsyncFd's own until it is dropped, and always the same.
        unsafe { AsyncFd::register_with_interest(table, Interest::PRIORITY) }.map_err(io::Error::from)
    }

    /// Does so whenever the host's mounts change, until it is dropped.
    pub async fn keep(self) {
        let watch = match self.watch().await {
            Ok(watch) => watch,
            Err(error) => {
                warn!("watch the host's mounts: {error}: volumes do not follow them");
                return;
            }
        };
        loop {
            self.update().await;
            match watch.ready(Interest::PRIORITY).await {
                Ok(mut changed) => changed.clear_ready(),
                Err(error) => {
                    warn!("wait for a change of the host's mounts: {error}");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_went_and_what_was_replaced_is_gone() {
        let had = [("a", 1), ("a/b", 2), ("c", 3)].map(|(path, id)| (PathBuf::from(path), (id, ())));
        let now = [("a", 1), ("c", 4), ("d", 5)].map(|(path, id)| (PathBuf::from(path), id));
        assert_eq!(gone(&had.into(), &now.into()), [Path::new("a/b"), Path::new("c")]);
    }
}
