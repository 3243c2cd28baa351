//! A directory of the host with what is mounted below it, as the kernel keeps it: what the host mounts and unmounts there
//! later is so in the model as well. Mounts belong to directories, not to paths, so nothing that a container does to the
//! path of its volume changes what the model shows. Nobody sees the model but the shim.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use super::{Held, MountId, Mounts, Namespace, mount_of, tree};
use crate::files::pin;

/// The model of a directory of the host.
#[derive(Debug)]
pub struct Model {
    held: Held,
    id: MountId,
    namespace: Arc<Namespace>,
}

impl Model {
    /// The model of `source`, mounted on `path`, an empty directory at the top of the namespace.
    ///
    /// # Errors
    /// The mount's; nothing stays mounted.
    pub fn new(namespace: &Arc<Namespace>, source: impl AsFd, path: &Path) -> io::Result<Model> {
        let tree = tree::clone(source, true)?;
        tree::follow(&tree)?;
        let held = Held::attach(namespace, tree, pin::beneath(namespace.top(), path)?)?;
        let id = mount_of(&held)?;
        Ok(Model { held, id, namespace: namespace.clone() })
    }

    /// What is mounted below it now.
    ///
    /// # Errors
    /// When the namespace's table cannot be read.
    pub fn mounts(&self) -> io::Result<Mounts> {
        Ok(self.namespace.table()?.below_mount(self.id))
    }

    /// The root of the mount `id`, which is at `path` below it.
    ///
    /// # Errors
    /// When something else is there by now.
    pub fn open(&self, path: &Path, id: MountId) -> io::Result<OwnedFd> {
        let root = pin::beneath(&self.held, path)?;
        if mount_of(&root)? == id { Ok(root) } else { Err(io::Error::other("another mount is there by now")) }
    }

    /// Has an exceptional condition when a mount of the namespace comes or goes. Source: proc_pid_mounts(5).
    ///
    /// # Errors
    /// When the namespace's table cannot be opened.
    pub fn watched(&self) -> io::Result<File> {
        self.namespace.open_table()
    }
}
