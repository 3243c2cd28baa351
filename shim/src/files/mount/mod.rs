//! Mounts that undo themselves.

mod erofs;
mod held;
mod lower;
mod model;
mod namespace;
mod remapped;
mod rootfs;
mod table;
pub mod tree;

use std::{io, os::fd::AsFd, path::Path};

use linux::mountinfo;
use log::warn;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};

use super::pin;

pub use erofs::files_of;
pub use held::{Held, Place};
pub use linux::mountinfo::MountId;
pub use lower::Overlay;
pub use model::Model;
pub use namespace::Namespace;
pub use remapped::LAYERS;
pub use rootfs::Mounted;
pub use table::{Mounts, Table, below, mount_of};

/// What of a bound tree of mounts nobody may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    Nothing,
    /// The tree's topmost mount, and not those below it.
    Top,
    All,
}

/// Unmounts all that is mounted at or below `top`, deepest first. For what an earlier shim left. What a container may have
/// renamed or linked meanwhile leads to nothing else: each mount is undone only where it is listed, by its own descriptor.
pub fn detach_all(top: &Path) {
    let Ok(mounts) = mountinfo::read() else { return };
    let below: Vec<_> = mounts.into_iter().filter(|mount| mount.target.starts_with(top)).collect();
    // A mount comes after the one below it.
    for mount in below.iter().rev() {
        match detach(&mount.target, &below) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!("unmount {}: {error}", mount.target.display());
            }
            _ => {}
        }
    }
}

/// Unmounts the uppermost mount at `target`, if it is one of these.
fn detach(target: &Path, listed: &[mountinfo::Mount]) -> io::Result<()> {
    let root = pin::listed(target)?;
    let uppermost = mount_of(&root)?;
    if listed.iter().any(|mount| mount.id == uppermost) { unmount(&root) } else { Ok(()) }
}

/// Undoes the mount whose root is open. One that is gone already is no error.
#[expect(clippy::disallowed_methods, reason = "the path of a descriptor")]
fn unmount(root: impl AsFd) -> io::Result<()> {
    match umount2(&pin::path_of(&root), MntFlags::MNT_DETACH) {
        // Somebody else was faster: containerd unmounts a bundle's rootfs as well.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
pub mod fake {
    use containerd_shim_protos::types::mount::Mount;

    use super::*;

    /// A mount as containerd sends it.
    pub fn mount(kind: &str, source: &Path, options: &[&str]) -> Mount {
        Mount {
            type_: kind.to_owned(),
            source: source.display().to_string(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Mount::default()
        }
    }
}
