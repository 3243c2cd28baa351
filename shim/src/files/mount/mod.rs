//! Mounts that undo themselves.

mod held;
mod model;
mod namespace;
mod table;
pub mod tree;

use std::{
    path::{Path, PathBuf},
    thread,
};

use containerd_shim_protos::types::mount::Mount;
use linux::mountinfo;
use log::warn;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};

use crate::error::{Error, Result};

pub use held::{Held, Place};
pub use linux::mountinfo::MountId;
pub use model::Model;
pub use namespace::Namespace;
pub use table::{Mounts, Table, below, mount_of};

/// What of a bound tree of mounts nobody may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    Nothing,
    /// The tree's topmost mount, and not those below it.
    Top,
    All,
}

/// A mount that is undone when it is dropped.
#[derive(Debug)]
pub struct Mounted {
    target: PathBuf,
}

impl Mounted {
    /// Mounts what containerd wants as a rootfs.
    ///
    /// # Errors
    /// The mount's, with its type, source and target; nothing stays mounted.
    pub fn rootfs(mounts: &[Mount], target: &Path) -> Result<Vec<Mounted>> {
        let mut mounted = Vec::new();
        for mount in mounts {
            mount_one(mount.clone(), target.to_owned())?;
            mounted.insert(0, Mounted { target: target.to_owned() });
        }
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        match umount2(&self.target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Somebody else was faster: containerd unmounts a bundle's rootfs as well.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => warn!("unmount {}: {error}", self.target.display()),
        }
    }
}

/// Mounts one of a rootfs's mounts, on a thread of its own: for a long list of overlay layers
/// the library changes the calling thread's working directory.
fn mount_one(mount: Mount, target: PathBuf) -> Result<()> {
    let what = format!("mount {} from {} on {}", mount.type_, mount.source, target.display());
    let mounting = thread::Builder::new().name("mount".to_owned()).spawn(move || {
        containerd_shim::mount::mount_rootfs(Some(&mount.type_), Some(&mount.source), &mount.options, &target)
    });
    match mounting.map(thread::JoinHandle::join) {
        Ok(Ok(result)) => result.map_err(|e| Error::internal(what).because(e)),
        Ok(Err(_)) => Err(Error::internal(format!("{what}: the mounting thread panicked"))),
        Err(error) => Err(Error::internal(what).because(error)),
    }
}

/// Unmounts all that is mounted at or below `top`, deepest first. For what an earlier shim left.
pub fn detach_all(top: &Path) {
    let Ok(mounts) = mountinfo::read() else { return };
    // A mount comes after the one below it.
    for mount in mounts.into_iter().rev().filter(|mount| mount.target.starts_with(top)) {
        drop(Mounted { target: mount.target });
    }
}
