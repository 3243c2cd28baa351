//! Volumes that follow the host: what is mounted below their source later, or unmounted, is so in
//! the share as well. Each is bound here, not propagated by the kernel: that would bring it with its
//! devices and set-user-id programs, which a guest has no business opening on the host.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use log::warn;
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::spawn_blocking,
};

use crate::{
    bundle::Volume,
    mount::{self, Held, MountId, ReadOnly, Spot},
    state_dir,
};

/// What is mounted below a source, by its path below it.
type Mounts = BTreeMap<PathBuf, MountId>;

/// A volume that follows the host.
#[derive(Debug)]
pub struct Followed {
    source: PathBuf,
    read_only: ReadOnly,
    volume: Spot,
    /// What is mounted below the volume, by its path below it and by the mount of the host's that it
    /// shows; no mount where that could not be bound.
    mounts: BTreeMap<PathBuf, (MountId, Option<Held>)>,
}

impl Followed {
    /// Takes hold of what the volume, now that it is bound, shows of what was [`below`] its source before: what came
    /// after that counts as later.
    pub fn new(volume: &Volume, bound: Spot, before: Mounts) -> Followed {
        let mounts = before.into_iter().map(|(path, id)| {
            let held = bound
                .already(&path)
                .inspect_err(|error| warn!("follow {}: {error}", volume.source.join(&path).display()))
                .ok();
            (path, (id, held))
        });
        Followed {
            source: volume.source.clone(),
            read_only: volume.read_only,
            mounts: mounts.collect(),
            volume: bound,
        }
    }

    /// Makes the volume like the source.
    fn update(&mut self) {
        let now = below(&self.source);
        // The deepest first.
        for path in gone(&self.mounts, &now).into_iter().rev() {
            self.mounts.remove(&path);
        }
        for (path, id) in now {
            if self.mounts.contains_key(&path) {
                continue;
            }
            let held = self
                .volume
                .bind_mount((&self.source, id), &path, self.read_only)
                .inspect_err(|error| warn!("follow {}: {error}", self.source.join(&path).display()))
                .ok();
            self.mounts.insert(path, (id, held));
        }
    }
}

/// The mounts of the host below `source`, but for those of the sandboxes themselves.
pub fn below(source: &Path) -> Mounts {
    let mut found = mount::below(source);
    found.retain(|path, _| !source.join(path).starts_with(state_dir::ROOT));
    found
}

/// What is no longer there, or is another mount now.
fn gone<T>(had: &BTreeMap<PathBuf, (MountId, T)>, now: &Mounts) -> Vec<PathBuf> {
    had.iter().filter(|(path, (id, _))| now.get(*path) != Some(id)).map(|(path, _)| path.clone()).collect()
}

/// The volumes of a container that follow the host.
#[derive(Debug, Clone, Default)]
pub struct Follower {
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
        let volumes = self.volumes.clone();
        let updated = spawn_blocking(move || {
            let mut volumes = volumes.lock().unwrap_or_else(PoisonError::into_inner);
            volumes.iter_mut().for_each(Followed::update);
        });
        if let Err(error) = updated.await {
            warn!("follow the host's mounts: {error}");
        }
    }

    /// Does so whenever the host's mounts change, until it is dropped.
    pub async fn keep(self) {
        let watch = match watch() {
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

/// Has an exceptional condition when a mount comes or goes. Source: proc_pid_mounts(5).
fn watch() -> io::Result<AsyncFd<File>> {
    let table = File::open("/proc/self/mountinfo")?;
    // SAFETY: the descriptor is the AsyncFd's own until it is dropped, and always the same.
    unsafe { AsyncFd::register_with_interest(table, Interest::PRIORITY) }.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_and_what_was_replaced_is_gone() {
        let had = [("a", 1), ("a/b", 2), ("c", 3)].map(|(path, id)| (PathBuf::from(path), (id, ())));
        let now = [("a", 1), ("c", 4), ("d", 5)].map(|(path, id)| (PathBuf::from(path), id));
        assert_eq!(gone(&had.into(), &now.into()), [Path::new("a/b"), Path::new("c")]);
    }
}
