//! Mounts below a directory that a guest may write to. A guest can rename what a path leads through, or put a link there, at
//! any time: so such mounts are reached from the directory's descriptor without following links, and undone by their own.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use log::warn;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, umount2},
};

use super::{MountId, ReadOnly, tree};

/// A mount that is undone when it is dropped, wherever it may be by then.
#[derive(Debug)]
pub struct Held(OwnedFd);

impl Held {
    /// What is mounted at `path` below `top` already.
    ///
    /// # Errors
    /// When the path leads nowhere, through a link, or out of `top`.
    pub fn already(top: &Path, path: &Path) -> io::Result<Held> {
        beneath(top, path).map(Held)
    }

    /// Shows the mount `id`, which is at `path` below `source`, at the same path below `target`; as
    /// [`super::Mounted::bind`] does.
    ///
    /// # Errors
    /// As [`Held::already`]; when another mount is there by now; and the mount's.
    pub fn bind(
        (source, id): (&Path, MountId),
        target: &Path,
        path: &Path,
        read_only: ReadOnly,
    ) -> io::Result<Held> {
        let source = beneath(source, path)?;
        if mount_of(&source)? != id {
            return Err(io::Error::other("something else is mounted there by now"));
        }
        let target = beneath(target, path)?;
        let tree = tree::clone(&by_descriptor(&source), false)?;
        tree::restrict(&tree, false, read_only)?;
        tree::attach(&tree, &target)?;
        Ok(Held(tree))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        match umount2(&by_descriptor(&self.0), MntFlags::MNT_DETACH) {
            // The mount that it was on has gone, and it with it.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => warn!("unmount what follows the host: {error}"),
        }
    }
}

/// Opens a path for naming it only.
pub fn open(path: &Path, flags: libc::c_int) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).custom_flags(libc::O_PATH | flags).open(path)?.into())
}

/// Opens `path` below `top`, through mounts but not through links.
fn beneath(top: &Path, path: &Path) -> io::Result<OwnedFd> {
    let top = open(top, 0)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(&top, path, how)?)
}

/// A path that leads to what is open, and to nothing else. Source: proc_pid_fd(5).
fn by_descriptor(open: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", open.as_raw_fd()).into()
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
        assert!(beneath(top.path(), Path::new("a/b")).is_ok());
        for path in ["link", "link/ssl", "inside/b", "../x", "/etc"] {
            assert!(beneath(top.path(), Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn a_mount_is_known_by_its_number() {
        let proc = beneath(Path::new("/"), Path::new("proc")).unwrap();
        let id = mount_of(&proc).unwrap();
        assert_eq!(super::super::below(Path::new("/")).get(Path::new("proc")), Some(&id));
        let other = Held::bind((Path::new("/"), id + 1), Path::new("/"), Path::new("proc"), ReadOnly::All);
        assert!(other.unwrap_err().to_string().contains("something else"));
    }
}
