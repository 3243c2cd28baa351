//! The directory of a VM that this process has: the bundle of its container, with the FIFOs of its processes.
//!
//! It is locked for as long as the process lives. One without a lock belonged to a process that was killed, and the next run
//! undoes what that has left.

use std::{
    fs::{self, DirBuilder, File},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, umount2},
};
use serde_json::Value;

use crate::network;

/// The parent of them all.
pub const BASE: &str = "/run/krun/ctl";

/// The container's description. Source: OCI runtime-spec, bundle.md.
const SPEC: &str = "config.json";

/// Where a layer is mounted, and what it consists of: see [`crate::layer`].
const ROOTFS: &str = "rootfs";
const LAYERS: &str = "layers";

/// The file with the pid of the process that made the bundle: who is refused the bundle names it.
const PID: &str = "pid";

/// The bundle of one VM, which is removed when this is dropped.
pub struct Bundle {
    id: String,
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Bundle {
    /// Makes one for a run, after it has undone what killed processes have left.
    pub fn make() -> Result<Bundle> {
        clean_abandoned();
        for number in 0.. {
            if let Some(bundle) = Bundle::take(format!("run_{}_{number}", std::process::id()))? {
                return Ok(bundle);
            }
        }
        bail!("{BASE} is full")
    }

    /// Makes the one of this id, for a VM that others may not have at the same time. `taken` says that the process with a pid has it.
    pub fn of(id: String, taken: impl FnOnce(u32) -> String) -> Result<Bundle> {
        clean_abandoned();
        let directory = path_of(&id);
        match (Bundle::take(id)?, holder(&directory)) {
            (Some(bundle), _) => Ok(bundle),
            (None, Some(pid)) => bail!("{}", taken(pid)),
            (None, None) => bail!(
                "another command is making or removing it, or an earlier one left what cannot be removed: {} is there",
                directory.display()
            ),
        }
    }

    /// Makes the one of this id, unless it is there.
    fn take(id: String) -> Result<Option<Bundle>> {
        let context = || format!("making a directory in {BASE}");
        loop {
            // In each round, because a run that ends removes it if it is empty.
            DirBuilder::new().recursive(true).mode(0o700).create(BASE).with_context(context)?;
            let directory = path_of(&id);
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                result => result.with_context(context)?,
            }
            // Another run may remove it before it is locked.
            let locked = File::open(&directory).ok().and_then(|file| lock(file).ok());
            if let Some(_lock) = locked.filter(|_| directory.exists()) {
                let bundle = Bundle { id, directory, _lock };
                bundle.write(PID, std::process::id().to_string().as_bytes())?;
                return Ok(Some(bundle));
            }
        }
    }

    /// The id of its container.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Where a layer is mounted.
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join(ROOTFS)
    }

    /// Where a layer's parts are.
    pub fn layers(&self) -> PathBuf {
        self.directory.join(LAYERS)
    }

    /// Writes the container's description.
    pub fn describe(&self, spec: &Value) -> Result<()> {
        self.write(SPEC, &serde_json::to_vec(spec)?).map(drop)
    }

    /// Writes a file, and answers where it is.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

/// Where the bundle of this id is.
pub fn path_of(id: &str) -> PathBuf {
    Path::new(BASE).join(id)
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for mounted in [self.rootfs(), self.layers()] {
            // What is mounted there by several mounts goes at once. Nothing, if there is no layer.
            let _ = umount2(&mounted, MntFlags::MNT_DETACH);
        }
        remove(&self.directory);
        // Fails while another run has a directory in it.
        let _ = fs::remove_dir(BASE);
    }
}

/// The pid of the process that has a bundle; none when that is just being made or removed, or was left.
fn holder(directory: &Path) -> Option<u32> {
    let pid: u32 = fs::read_to_string(directory.join(PID)).ok()?.parse().ok()?;
    // What was left is locked by nobody, and its pid may be another process's.
    let is_left = lock(File::open(directory).ok()?).is_ok();
    (!is_left).then_some(pid)
}

/// Undoes what processes have left that were killed. Their own mounts ended with their mount namespaces.
pub fn clean_abandoned() {
    for entry in fs::read_dir(BASE).into_iter().flatten().flatten() {
        let locked = File::open(entry.path()).ok().and_then(|file| lock(file).ok());
        // The lock is held until it is gone, or its owner could lock it in between.
        if let (Some(_lock), Some(id)) = (locked, entry.file_name().to_str()) {
            let cleaned = network::clean(id, &entry.path());
            let cleaned = cleaned.and_then(|()| Ok(shim::direct::clean(id, &entry.path())?));
            match cleaned {
                Ok(()) => remove(&entry.path()),
                // The next one tries again.
                Err(error) => eprintln!("krunctl: cleaning up after {id}: {error:#}"),
            }
        }
    }
}

/// Removes a bundle. It has files and empty directories only; what is mounted there nevertheless, stays.
fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let _ = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir(entry.path()),
            _ => fs::remove_file(entry.path()),
        };
    }
    let _ = fs::remove_dir(directory);
}

fn lock(file: File) -> Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_it_is_known_while_it_is_locked() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(holder(bundle.path()), None);
        let ours = std::process::id();
        fs::write(bundle.path().join(PID), ours.to_string()).unwrap();
        // Its pid may be another process's by now.
        assert_eq!(holder(bundle.path()), None);
        let _lock = lock(File::open(bundle.path()).unwrap()).unwrap();
        assert_eq!(holder(bundle.path()), Some(ours));
    }

    #[test]
    fn only_files_and_empty_directories_are_removed() {
        let top = tempfile::tempdir().unwrap();
        let bundle = top.path().join("bundle");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::write(bundle.join("config.json"), "{}").unwrap();
        std::os::unix::fs::symlink("/etc", bundle.join("link")).unwrap();
        fs::create_dir_all(bundle.join("layers/kept")).unwrap();
        remove(&bundle);
        assert!(bundle.join("layers/kept").exists() && !bundle.join("rootfs").exists());
        fs::remove_dir(bundle.join("layers/kept")).unwrap();
        remove(&bundle);
        assert!(!bundle.exists());
    }
}
