//! The share: the directory that becomes the VM's root, and below it each container's rootfs and
//! volumes, as mounts.
//!
//! All of them are in a mount namespace of the sandbox's own. The share is a shared mount there and
//! the vmm's view of it a slave, so what is mounted here while the VM runs appears in the guest. A
//! bind-mounted source is private to the share: what the host mounts below it later appears only where
//! the volume is to follow the host (`follow`).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use guest_protocol::boot::{MOUNT_POINTS, rootfs_path, volume_path};

use crate::{
    bundle::Volume,
    error::{Error, Result},
    follow::{self, Followed, Follower},
    mount::{Held, Namespace, ReadOnly},
    state_dir::make_dir,
};

/// A sandbox's share.
#[derive(Debug)]
pub struct Share {
    path: PathBuf,
    mount: Held,
    namespace: Arc<Namespace>,
}

/// A container's part of the share, taken out again when it is dropped.
#[derive(Debug)]
pub struct ContainerShare {
    dir: PathBuf,
    /// Undone before the directory is removed, last mounted first.
    mounts: Vec<Held>,
    follower: Follower,
}

impl Share {
    /// Makes the share of the sandbox whose directory is `state`, at `path`, an empty directory in it.
    ///
    /// # Errors
    /// The failing step's, naming its path.
    pub fn create(state: &Path, path: PathBuf) -> Result<Share> {
        let failed = |e: io::Error| Error::internal(format!("make the share {}: {e}", path.display()));
        for dir in MOUNT_POINTS {
            make_dir(&path.join(dir), 0o755)?;
        }
        let namespace = Arc::new(Namespace::new(state).map_err(failed)?);
        let mount = Held::shared(&namespace, &path).map_err(failed)?;
        Ok(Share { path, mount, namespace })
    }

    /// The share's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The mount namespace that the vmm starts from.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Shows `rootfs` and `volumes` to the guest as those of `container`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a source that cannot be shared, else the failing
    /// step's, naming its path; nothing stays mounted.
    pub fn add(&self, container: &str, rootfs: &Path, volumes: &[Volume]) -> Result<ContainerShare> {
        let root = rootfs_path(container);
        let target = self.path.join(&root);
        let dir = target.parent().unwrap_or(&self.path).to_owned();
        let mut share = ContainerShare { dir, mounts: Vec::new(), follower: Follower::default() };
        let mut followed = Vec::new();
        make_dir(&target, 0o755)?;
        share.mounts.push(self.bind(rootfs, &root, true, ReadOnly::Nothing)?);
        for (number, volume) in volumes.iter().enumerate() {
            let source = &volume.source;
            let path = volume_path(container, number);
            let is_dir = self.make_place(source, &path)?;
            let before = (volume.follows && volume.recursive).then(|| follow::below(source));
            let mount = self.bind(source, &path, volume.recursive && is_dir, volume.read_only)?;
            followed.extend(before.map(|before| Followed::new(volume, mount.spot(), before)));
            share.mounts.push(mount);
        }
        share.follower = Follower::new(followed);
        Ok(share)
    }

    /// Makes what `source` is to be mounted on, at `path` in the share; says whether that is a directory.
    fn make_place(&self, source: &Path, path: &str) -> Result<bool> {
        let target = self.path.join(path);
        let kind = fs::metadata(source)
            .map_err(|e| Error::invalid(format!("mount source {}: {e}", source.display())))?;
        if kind.is_dir() {
            make_dir(&target, 0o755)?;
        } else {
            if let Some(parent) = target.parent() {
                make_dir(parent, 0o755)?;
            }
            File::create(&target).map_err(|e| Error::internal(format!("make {}: {e}", target.display())))?;
        }
        Ok(kind.is_dir())
    }

    fn bind(&self, source: &Path, path: &str, recursive: bool, read_only: ReadOnly) -> Result<Held> {
        let bound = self.mount.spot().bind(source, Path::new(path), recursive, read_only);
        bound.map_err(|e| Error::internal(format!("bind {} to {path} in the share: {e}", source.display())))
    }
}

impl ContainerShare {
    /// What has volumes follow the host.
    pub fn follower(&self) -> &Follower {
        &self.follower
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

impl Drop for ContainerShare {
    fn drop(&mut self) {
        while let Some(mount) = self.mounts.pop() {
            drop(mount);
        }
        crate::state_dir::remove(&self.dir);
    }
}
