//! Mounts in a sandbox's namespace. Below a volume a guest can rename what a path leads through, or put a link there, at any
//! time: so mounts are reached from the descriptor of what they are in, without following links, and undone by their own.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    sync::Arc,
};

use log::warn;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, umount2},
};

use super::{MountId, Namespace, ReadOnly, namespace::DESCRIPTORS, tree};

/// A mount in a namespace, as a place for others below it.
#[derive(Debug, Clone)]
pub struct Spot {
    mount: Arc<OwnedFd>,
    namespace: Arc<Namespace>,
}

/// A mount in a namespace that is undone when it is dropped, wherever it may be by then.
#[derive(Debug)]
pub struct Held(Spot);

impl Held {
    /// Shows `source`, a directory or file of the host's, at `target`, an empty one of the same kind: without devices and
    /// set-user-id programs, which a guest has no business opening on the host, and as read-only as asked. It has these
    /// flags before anybody sees it: where a mount propagates to, it takes along the flags that it has then, and no later
    /// change follows.
    ///
    /// # Errors
    /// The mount's; nothing stays mounted.
    pub fn bind(
        namespace: &Arc<Namespace>,
        source: &Path,
        target: &OwnedFd,
        recursive: bool,
        read_only: ReadOnly,
    ) -> io::Result<Held> {
        let tree = tree::clone(source, recursive)?;
        tree::restrict(&tree, recursive, read_only)?;
        namespace.run(|| tree::attach(&tree, target))??;
        Ok(Held(Spot { mount: Arc::new(tree), namespace: namespace.clone() }))
    }

    /// The directory `path` of a namespace, as a mount of its own from which mounts propagate.
    ///
    /// # Errors
    /// The mount's; then the namespace is of no use.
    pub fn shared(namespace: &Arc<Namespace>, path: &Path) -> io::Result<Held> {
        let mount = namespace.run(|| {
            let tree = tree::clone(path, false)?;
            tree::restrict(&tree, false, ReadOnly::Nothing)?;
            tree::attach(&tree, &open(path, libc::O_NOFOLLOW)?)?;
            tree::propagate(&tree)?;
            Ok::<_, io::Error>(Arc::new(tree))
        })??;
        Ok(Held(Spot { mount, namespace: namespace.clone() }))
    }

    /// Itself as a place for others.
    pub fn spot(&self) -> Spot {
        self.0.clone()
    }
}

impl Spot {
    /// What is mounted at `path` below this already.
    ///
    /// # Errors
    /// When the path leads nowhere, through a link, or out of this.
    pub fn already(&self, path: &Path) -> io::Result<Held> {
        let mount = Arc::new(beneath(&self.mount, path)?);
        Ok(Held(Spot { mount, namespace: self.namespace.clone() }))
    }

    /// As [`Held::bind`], to what is at `path` below this.
    ///
    /// # Errors
    /// As [`Spot::already`]; and the mount's.
    pub fn bind(&self, source: &Path, path: &Path, recursive: bool, read_only: ReadOnly) -> io::Result<Held> {
        Held::bind(&self.namespace, source, &beneath(&self.mount, path)?, recursive, read_only)
    }

    /// Shows the mount `id`, which is at `path` below `source`, at the same path below this; without those below it.
    ///
    /// # Errors
    /// As [`Spot::bind`]; when another mount is at the source by now.
    pub fn bind_mount(
        &self,
        (source, id): (&Path, MountId),
        path: &Path,
        read_only: ReadOnly,
    ) -> io::Result<Held> {
        let source = beneath(&open(source, 0)?, path)?;
        if mount_of(&source)? != id {
            return Err(io::Error::other("something else is mounted there by now"));
        }
        let source = Path::new(DESCRIPTORS).join(number(&source));
        self.bind(&source, path, false, read_only)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // In the directory of descriptors its number leads to it, and to nothing else.
        let number = number(&self.0.mount);
        let undone = self.0.namespace.run(|| umount2(number.as_str(), MntFlags::MNT_DETACH));
        match undone.map(|result| result.map_err(io::Error::from)) {
            Ok(Ok(())) => {}
            // The mount that it was on has gone, and it with it.
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
            Ok(Err(error)) | Err(error) => warn!("unmount what a guest saw: {error}"),
        }
    }
}

/// Opens a path for naming it only.
pub fn open(path: &Path, flags: libc::c_int) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).custom_flags(libc::O_PATH | flags).open(path)?.into())
}

/// Opens `path` below `top`, through mounts but not through links.
fn beneath(top: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(top, path, how)?)
}

fn number(open: &OwnedFd) -> String {
    open.as_raw_fd().to_string()
}

/// The mount that a path leads to.
pub fn mount_at(path: &Path) -> io::Result<MountId> {
    mount_of(&open(path, libc::O_NOFOLLOW)?)
}

/// The mount that something open is in. Source: proc_pid_fdinfo(5).
fn mount_of(open: &OwnedFd) -> io::Result<MountId> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", open.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("no mnt_id in fdinfo"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_nowhere() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        symlink("/etc", top.path().join("link")).unwrap();
        symlink("a", top.path().join("inside")).unwrap();
        let top = open(top.path(), 0).unwrap();
        assert!(beneath(&top, Path::new("a/b")).is_ok());
        for path in ["link", "link/ssl", "inside/b", "../x", "/etc"] {
            assert!(beneath(&top, Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn a_mount_is_known_by_its_number() {
        let proc = beneath(&open(Path::new("/"), 0).unwrap(), Path::new("proc")).unwrap();
        assert_eq!(
            super::super::below(Path::new("/")).get(Path::new("proc")),
            Some(&mount_of(&proc).unwrap())
        );
    }
}
