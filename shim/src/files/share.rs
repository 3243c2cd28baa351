//! The share: the directory that becomes the VM's root, and below it each container's rootfs and
//! volumes, as mounts.
//!
//! All of them are in a mount namespace of the sandbox's own. The share is a shared mount there and
//! the vmm's view of it a slave, so what is mounted here while the VM runs appears in the guest. A
//! bind-mounted source is private to the share: what the host mounts below it later appears only where
//! the volume is to follow the host (`follow`).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use guest_protocol::boot::{MOUNT_POINTS, image_path, layer_path, rootfs_path, volume_path};
use linux::user_namespace::{self, IdMaps};
use log::warn;

use super::{
    follow::{Followed, Follower},
    mount::{Held, Model, Namespace, Place, ReadOnly},
    pin::{self, Pinned},
};
use crate::{
    bundle::{FileVolume, Owners, Volume},
    error::{Error, Result},
};

/// Where the sandbox's directory has the models of volumes that follow the host.
const MODELS: &str = "models";

/// A sandbox's share.
#[derive(Debug)]
pub struct Share {
    path: PathBuf,
    mount: Held,
    namespace: Arc<Namespace>,
}

/// The descriptors with which a process owns a share, or copies of them that another process has got.
pub struct Handle<Fd = OwnedFd> {
    /// Its mount namespace.
    pub namespace: Fd,
    /// The top of that.
    pub top: Fd,
    /// The share.
    pub mount: Fd,
}

/// What the guest makes a container's root of.
#[derive(Debug)]
pub enum SharedRoot {
    /// The rootfs, and what of it nobody may write.
    Rootfs(Pinned, ReadOnly),
    /// Files with a layer of the image each, the uppermost first.
    Layers(Vec<Pinned>),
    /// A file with the whole of it, which the guest writes to, and the same file locked for this VM.
    Image(Pinned, OwnedFd),
    /// Nothing that is shared.
    Disk,
}

/// User namespaces that say whose files are shown as whose: one for each set of mappings.
#[derive(Default)]
struct Users(Vec<(IdMaps, OwnedFd)>);

impl Users {
    fn of(&mut self, owners: &Owners) -> Result<BorrowedFd<'_>> {
        let known = self.0.iter().position(|(maps, _)| *maps == owners.maps);
        let number = match known {
            Some(number) => number,
            None => {
                let made = user_namespace::make(&owners.maps, false).map_err(|e| {
                    Error::internal("make a user namespace for the owners of files").because(e)
                })?;
                self.0.push((owners.maps.clone(), made.user));
                self.0.len() - 1
            }
        };
        Ok(self.0[number].1.as_fd())
    }
}

/// A container's part of the share, taken out again when it is dropped.
#[derive(Debug)]
pub struct ContainerShare {
    container: String,
    share: Place,
    namespace: Arc<Namespace>,
    /// Undone before the directories are removed, last mounted first.
    mounts: Vec<Held>,
    /// A file that no other VM may have meanwhile.
    locked: Option<OwnedFd>,
    follower: Follower,
}

impl Share {
    /// Makes the share of the sandbox whose directory is `state`, in its directory `name`.
    ///
    /// # Errors
    /// The failing step's, naming its path.
    pub fn create(state: &Path, name: &str) -> Result<Share> {
        let path = state.join(name);
        let failed = |e: io::Error| Error::internal(format!("make the share {}", path.display())).because(e);
        let namespace = Arc::new(Namespace::new(state).map_err(failed)?);
        let mount = Held::shared(&namespace, Path::new(name)).map_err(failed)?;
        for point in MOUNT_POINTS {
            pin::make_directory(&mount, Path::new(point), 0o755).map_err(failed)?;
        }
        Ok(Share { path, mount, namespace })
    }

    /// The share of a handle, whose sender has left it or will, in the directory of the sandbox that has it now.
    pub fn of_handle(state: &Path, name: &str, handle: Handle) -> Share {
        let namespace = Arc::new(Namespace::of_another(handle.namespace, handle.top));
        let mount = Held::of_another(&namespace, handle.mount);
        Share { path: state.join(name), mount, namespace }
    }

    /// What another process needs to have it.
    pub fn handle(&self) -> Handle<BorrowedFd<'_>> {
        let (namespace, top) = (self.namespace.as_fd(), self.namespace.top());
        Handle { namespace, top, mount: self.mount.as_fd() }
    }

    /// Leaves it to who has its handle.
    pub fn leave(self) {
        self.mount.leave();
    }

    /// The share's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The mount namespace that the vmm starts from.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Shows `root` and `volumes` to the guest as those of `container`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a source that cannot be shared, else the failing
    /// step's, naming its path; nothing stays mounted.
    pub fn add(&self, container: &str, root: &SharedRoot, volumes: &[Volume]) -> Result<ContainerShare> {
        let mut share = ContainerShare {
            container: container.to_owned(),
            share: self.mount.place(),
            namespace: self.namespace.clone(),
            mounts: Vec::new(),
            locked: None,
            follower: Follower::default(),
        };
        let mut followed = Vec::new();
        let mut users = Users::default();
        // The guest mounts there what is not shown there.
        let place = rootfs_path(container);
        make_directory(&self.mount, &place, 0o755)?;
        match root {
            SharedRoot::Rootfs(rootfs, read_only) => {
                share.mounts.push(self.bind(rootfs, &place, (true, *read_only), None)?);
            }
            SharedRoot::Layers(layers) => {
                for (number, layer) in layers.iter().enumerate() {
                    share.mounts.push(self.bind_file(
                        layer,
                        &layer_path(container, number),
                        ReadOnly::All,
                    )?);
                }
            }
            SharedRoot::Image(image, locked) => {
                let locked =
                    locked.try_clone().map_err(|e| Error::internal("copy a descriptor").because(e))?;
                share.locked = Some(locked);
                share.mounts.push(self.bind_file(image, &image_path(container), ReadOnly::Nothing)?);
            }
            SharedRoot::Disk => {}
        }
        for (number, volume) in volumes.iter().enumerate() {
            let Volume::Files(volume) = volume else { continue };
            let path = volume_path(container, number);
            self.make_place(volume, &path)?;
            let follows = volume.follows && volume.recursive && volume.is_directory;
            let flags = (volume.recursive && !follows, volume.read_only);
            let owners =
                volume.owners.as_ref().map(|owners| Ok::<_, Error>((users.of(owners)?, owners.recursive)));
            let mount = self.bind(&volume.source, &path, flags, owners.transpose()?)?;
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
        if volume.is_directory {
            return make_directory(&self.mount, path, 0o755);
        }
        self.make_file(path)
    }

    /// Shows a file of the host's at `path` in the share.
    fn bind_file(&self, source: &Pinned, path: &str, read_only: ReadOnly) -> Result<Held> {
        self.make_file(path)?;
        self.bind(source, path, (false, read_only), None)
    }

    /// Makes an empty file to mount on, at `path` in the share.
    fn make_file(&self, path: &str) -> Result<()> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = pin::make_directory(&self.mount, Path::new(parent), 0o755);
        let made = parent.and_then(|parent| pin::make_file(parent, Path::new(name), 0o644));
        made.map_err(|e| Error::internal(format!("make {path} in the share")).because(e))
    }

    fn bind(
        &self,
        source: &Pinned,
        path: &str,
        flags: (bool, ReadOnly),
        owners: Option<(BorrowedFd<'_>, bool)>,
    ) -> Result<Held> {
        let bound = self.mount.place().bind(source, Path::new(path), flags, owners);
        bound.map_err(|e| {
            Error::internal(format!("bind {} to {path} in the share", source.path().display())).because(e)
        })
    }

    /// Has `mount`, a volume, follow the host.
    fn follow(&self, volume: &FileVolume, mount: &Held, container: &str, number: usize) -> Result<Followed> {
        let name = volume.source.path().display().to_string();
        let failed = |e: io::Error| Error::internal(format!("follow {name}")).because(e);
        let path = Path::new(MODELS).join(container).join(number.to_string());
        pin::make_directory(self.namespace.top(), &path, 0o700).map_err(failed)?;
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

fn make_directory(top: impl AsFd, path: &str, mode: u32) -> Result<()> {
    let made = pin::make_directory(top, Path::new(path), mode);
    made.map(drop).map_err(|e| Error::internal(format!("make {path} in the share")).because(e))
}

impl Drop for ContainerShare {
    fn drop(&mut self) {
        while let Some(mount) = self.mounts.pop() {
            drop(mount);
        }
        let rootfs = rootfs_path(&self.container);
        let directory = Path::new(&rootfs).parent().unwrap_or(Path::new(&rootfs));
        let models = Path::new(MODELS).join(&self.container);
        let removed = [pin::remove(&self.share, directory), pin::remove(self.namespace.top(), &models)];
        for error in removed.into_iter().filter_map(io::Result::err) {
            warn!("remove the directories of {} from the share: {error}", self.container);
        }
    }
}
