//! The share: the directory that becomes the VM's root, and below it each container's rootfs and
//! volumes, as mounts.
//!
//! The share is a shared mount and the vmm's view of it a slave, so what is mounted here while
//! the VM runs appears in the guest. A bind-mounted source is private to the share: what the host
//! mounts below it later appears only where the volume is to follow the host (`follow`).

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use guest_init::boot::{MOUNT_POINTS, rootfs_path, volume_path};

use crate::{
    bundle::Volume,
    error::{Error, Result},
    follow::Followed,
    mount::{Mounted, ReadOnly},
    state_dir::make_dir,
};

/// A sandbox's share.
#[derive(Debug)]
pub struct Share {
    path: PathBuf,
    _mount: Mounted,
}

/// A container's part of the share, taken out again when it is dropped.
#[derive(Debug)]
pub struct ContainerShare {
    dir: PathBuf,
    /// Undone before the directory is removed, last mounted first.
    mounts: Vec<Mounted>,
    followed: Vec<Followed>,
}

impl Share {
    /// Makes the share at `path`, an empty directory.
    ///
    /// # Errors
    /// The failing step's, naming its path.
    pub fn create(path: PathBuf) -> Result<Share> {
        for dir in MOUNT_POINTS {
            make_dir(&path.join(dir), 0o755)?;
        }
        let mount = Mounted::shared(&path)?;
        Ok(Share { path, _mount: mount })
    }

    /// The share's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shows `rootfs` and `volumes` to the guest as those of `container`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a source that cannot be shared, else the failing
    /// step's, naming its path; nothing stays mounted.
    pub fn add(&self, container: &str, rootfs: &Path, volumes: &[Volume]) -> Result<ContainerShare> {
        let target = self.path.join(rootfs_path(container));
        let dir = target.parent().unwrap_or(&self.path).to_owned();
        let mut share = ContainerShare { dir, mounts: Vec::new(), followed: Vec::new() };
        make_dir(&target, 0o755)?;
        share.mounts.push(Mounted::bind(rootfs, &target, true, ReadOnly::Nothing)?);
        for (number, volume) in volumes.iter().enumerate() {
            let target = self.path.join(volume_path(container, number));
            let follows = volume.follows && volume.recursive;
            let followed = follows.then(|| Followed::new(&volume.source, &target, volume.read_only));
            share.mounts.push(add_volume(volume, &target)?);
            share.followed.extend(followed.map(Followed::bound));
        }
        Ok(share)
    }
}

impl ContainerShare {
    /// The volumes that are to follow the host.
    pub fn take_followed(&mut self) -> Vec<Followed> {
        std::mem::take(&mut self.followed)
    }
}

/// Refuses a rootfs that is none.
///
/// # Errors
/// `INVALID_ARGUMENT` that names it.
pub fn check_rootfs(rootfs: &Path) -> Result<()> {
    match fs::metadata(rootfs) {
        Ok(kind) if kind.is_dir() => Ok(()),
        Ok(_) => Err(Error::invalid(format!("rootfs {} is not a directory", rootfs.display()))),
        Err(e) => Err(Error::invalid(format!("rootfs {}: {e}", rootfs.display()))),
    }
}

fn add_volume(volume: &Volume, target: &Path) -> Result<Mounted> {
    let source = &volume.source;
    let kind = fs::metadata(source)
        .map_err(|e| Error::invalid(format!("mount source {}: {e}", source.display())))?;
    if kind.is_dir() {
        make_dir(target, 0o755)?;
    } else {
        if let Some(parent) = target.parent() {
            make_dir(parent, 0o755)?;
        }
        File::create(target).map_err(|e| Error::internal(format!("make {}: {e}", target.display())))?;
    }
    Mounted::bind(source, target, volume.recursive && kind.is_dir(), volume.read_only)
}

impl Drop for ContainerShare {
    fn drop(&mut self) {
        while let Some(mount) = self.mounts.pop() {
            drop(mount);
        }
        crate::state_dir::remove(&self.dir);
    }
}
