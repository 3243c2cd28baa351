//! The share: the directory that becomes the VM's root, and below it each container's rootfs and
//! volumes, as mounts.
//!
//! All of them are in a mount namespace of the sandbox's own. The share is a shared mount there and
//! the vmm's view of it a slave, so what is mounted here while the VM runs appears in the guest. A
//! bind-mounted source is private to the share: what the host mounts below it later appears only where
//! the volume is to follow the host (`follow`).

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use guest_protocol::boot::{MOUNT_POINTS, rootfs_path, volume_path};

use super::{
    follow::{Followed, Follower},
    mount::{Held, Model, Namespace, ReadOnly},
    pin::Pinned,
    state_dir::{self, make_dir},
};
use crate::{
    bundle::{FileVolume, Volume},
    error::{Error, Result},
};

/// Where the sandbox's directory has the models of volumes that follow the host.
const MODELS: &str = "models";

/// A sandbox's share.
#[derive(Debug)]
pub struct Share {
    state: PathBuf,
    path: PathBuf,
    mount: Held,
    namespace: Arc<Namespace>,
}

/// A container's part of the share, taken out again when it is dropped.
#[derive(Debug)]
pub struct ContainerShare {
    dir: PathBuf,
    models: PathBuf,
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
        let failed = |e: io::Error| Error::internal(format!("make the share {}", path.display())).because(e);
        for dir in MOUNT_POINTS {
            make_dir(&path.join(dir), 0o755)?;
        }
        let namespace = Arc::new(Namespace::new(state).map_err(failed)?);
        let mount = Held::shared(&namespace, &path).map_err(failed)?;
        Ok(Share { state: state.to_owned(), path, mount, namespace })
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
    pub fn add(&self, container: &str, rootfs: &Pinned, volumes: &[Volume]) -> Result<ContainerShare> {
        let root = rootfs_path(container);
        let target = self.path.join(&root);
        let dir = target.parent().unwrap_or(&self.path).to_owned();
        let models = self.state.join(MODELS).join(container);
        let mut share = ContainerShare { dir, models, mounts: Vec::new(), follower: Follower::default() };
        let mut followed = Vec::new();
        make_dir(&target, 0o755)?;
        share.mounts.push(self.bind(rootfs, &root, true, ReadOnly::Nothing)?);
        for (number, volume) in volumes.iter().enumerate() {
            let Volume::Files(volume) = volume else { continue };
            let path = volume_path(container, number);
            self.make_place(volume, &path)?;
            let follows = volume.follows && volume.recursive && volume.is_directory;
            let mount = self.bind(&volume.source, &path, volume.recursive && !follows, volume.read_only)?;
            if follows {
                followed.push(self.follow(volume, &mount, container, number)?);
            }
            share.mounts.push(mount);
        }
        share.follower = Follower::new(followed);
        Ok(share)
    }

    /// Makes what `volume` is to be mounted on, at `path` in the share.
    fn make_place(&self, volume: &FileVolume, path: &str) -> Result<()> {
        let target = self.path.join(path);
        if volume.is_directory {
            return make_dir(&target, 0o755);
        }
        if let Some(parent) = target.parent() {
            make_dir(parent, 0o755)?;
        }
        File::create(&target)
            .map_err(|e| Error::internal(format!("make {}", target.display())).because(e))?;
        Ok(())
    }

    fn bind(&self, source: &Pinned, path: &str, recursive: bool, read_only: ReadOnly) -> Result<Held> {
        let bound = self.mount.place().bind(source, Path::new(path), recursive, read_only);
        bound.map_err(|e| {
            Error::internal(format!("bind {} to {path} in the share", source.path().display())).because(e)
        })
    }

    /// Has `mount`, a volume, follow the host.
    fn follow(&self, volume: &FileVolume, mount: &Held, container: &str, number: usize) -> Result<Followed> {
        let name = volume.source.path().display().to_string();
        let failed = |e: io::Error| Error::internal(format!("follow {name}")).because(e);
        let path = Path::new(MODELS).join(container).join(number.to_string());
        make_dir(&self.state.join(&path), 0o700)?;
        let model = Model::new(&self.namespace, &volume.source, &path).map_err(failed)?;
        Followed::new(model, mount.place(), volume.read_only, name.clone()).map_err(failed)
    }
}

impl ContainerShare {
    /// What has volumes follow the host.
    pub fn follower(&self) -> &Follower {
        &self.follower
    }
}

/// Resolves `rootfs`. It may hang with the file system.
///
/// # Errors
/// `INVALID_ARGUMENT` that names it, when it is none.
pub fn open_rootfs(rootfs: &Path) -> Result<Pinned> {
    Pinned::open_directory(rootfs)
        .map_err(|e| Error::invalid(format!("rootfs {}", rootfs.display())).because(e))
}

impl Drop for ContainerShare {
    fn drop(&mut self) {
        while let Some(mount) = self.mounts.pop() {
            drop(mount);
        }
        state_dir::remove(&self.dir);
        state_dir::remove(&self.models);
    }
}
