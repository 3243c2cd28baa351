//! Mounts in a sandbox's namespace. Below a volume a guest can rename what a path leads through, or put a link there, at any
//! time: so mounts are reached from the descriptor of what they are in, without following links, and undone by their own.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use log::warn;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};

use super::{Namespace, ReadOnly, tree};
use crate::files::pin;

/// A mount in a namespace, as a place for others below it.
#[derive(Debug, Clone)]
pub struct Place {
    mount: Arc<OwnedFd>,
    namespace: Arc<Namespace>,
}

/// A mount in a namespace that is undone when it is dropped, wherever it may be by then.
#[derive(Debug)]
pub struct Held {
    place: Place,
    /// Whether somebody else has it by now.
    is_left: bool,
}

impl Held {
    /// The directory `path` below a namespace's top, as a mount of its own from which mounts propagate.
    ///
    /// # Errors
    /// The mount's; then the namespace is of no use.
    pub fn shared(namespace: &Arc<Namespace>, path: &Path) -> io::Result<Held> {
        let mount = namespace.run(|| {
            let directory = pin::beneath(namespace.top(), path)?;
            let tree = tree::clone(&directory, false)?;
            tree::restrict(&tree, false, ReadOnly::Nothing)?;
            tree::attach(&tree, &directory)?;
            tree::propagate(&tree)?;
            Ok::<_, io::Error>(Arc::new(tree))
        })??;
        Ok(Held::of(mount, namespace))
    }

    /// Mounts `tree` on `target`, an empty directory or file of the same kind in the namespace.
    ///
    /// # Errors
    /// The mount's; nothing stays mounted.
    pub fn attach(namespace: &Arc<Namespace>, tree: OwnedFd, target: impl AsFd + Sync) -> io::Result<Held> {
        namespace.run(|| tree::attach(&tree, &target))??;
        Ok(Held::of(Arc::new(tree), namespace))
    }

    fn of(mount: Arc<OwnedFd>, namespace: &Arc<Namespace>) -> Held {
        Held { place: Place { mount, namespace: namespace.clone() }, is_left: false }
    }

    /// The mount of a descriptor that another process has [left](Held::leave).
    pub fn of_another(namespace: &Arc<Namespace>, mount: OwnedFd) -> Held {
        Held::of(Arc::new(mount), namespace)
    }

    /// Leaves it to who has a copy of its descriptor.
    pub fn leave(mut self) {
        self.is_left = true;
    }

    /// Itself as a place for others.
    pub fn place(&self) -> Place {
        self.place.clone()
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.place.as_fd()
    }
}

impl Place {
    /// Shows `source`, a directory or file of the host's, at `path` below this: without devices and set-user-id programs,
    /// which a guest has no business opening on the host, and as read-only as asked. It has these flags before anybody
    /// sees it: where a mount propagates to, it takes along the flags that it has then, and no later change follows. `owners` is the
    /// user namespace whose ids its files belong to, and whether those of the mounts below it do, too.
    ///
    /// # Errors
    /// When `path` leads nowhere, through a link, or out of this; and the mount's. Nothing stays mounted.
    pub fn bind(
        &self,
        source: impl AsFd,
        path: &Path,
        (recursive, read_only): (bool, ReadOnly),
        owners: Option<(BorrowedFd<'_>, bool)>,
    ) -> io::Result<Held> {
        let tree = tree::clone(source, recursive)?;
        tree::restrict(&tree, recursive, read_only)?;
        if let Some((users, everywhere)) = owners {
            tree::map_owners(&tree, recursive && everywhere, users).map_err(|e| {
                io::Error::new(
                    e.kind(),
                    format!("give its files other owners, which not every file system can: {e}"),
                )
            })?;
        }
        Held::attach(&self.namespace, tree, pin::beneath(&self.mount, path)?)
    }

    /// As [`Place::bind`] of the mount of its own namespace that `source` is the root of, without those below it.
    ///
    /// # Errors
    /// As there.
    pub fn bind_own(&self, source: &OwnedFd, path: &Path, read_only: ReadOnly) -> io::Result<Held> {
        let tree = self.namespace.run(|| tree::clone(source, false))??;
        tree::restrict(&tree, false, read_only)?;
        Held::attach(&self.namespace, tree, pin::beneath(&self.mount, path)?)
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

impl Drop for Held {
    #[expect(clippy::disallowed_methods, reason = "the number of a descriptor")]
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        // In the directory of descriptors its number leads to it, and to nothing else.
        let number = self.place.mount.as_raw_fd().to_string();
        let undone = self.place.namespace.run(|| umount2(number.as_str(), MntFlags::MNT_DETACH));
        match undone.map(|result| result.map_err(io::Error::from)) {
            Ok(Ok(())) => {}
            // The mount that it was on has gone, and it with it.
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
            Ok(Err(error)) | Err(error) => warn!("unmount what a guest saw: {error}"),
        }
    }
}
