//! Where a container writes what it writes to its rootfs, when that is not the host's: an overlay of the rootfs in the share,
//! which is only read then, and of a directory on a disk of the VM's own.
//!
//! The disk is mounted in PID 1's mount namespace alone, for as long as the VM lives. A container's overlay is mounted in the
//! fork that makes the container, and so is the container's alone.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use guest_protocol::api;
use guest_protocol::boot::UPPER_DISK;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::process::fork::fork_quietly;
use crate::process::reaper::Reaper;

/// Where the disk is mounted.
const DISK: &str = "/run/upper";

/// The directory of the container that the VM is made for, and of the others.
const KEPT: &str = "kept";
const SCRATCH: &str = "scratch";

/// Freed blocks are the host's again; inode tables that are zero in a new file need no zeros written. Source:
/// Documentation/admin-guide/ext4.rst.
const DISK_OPTIONS: &str = "discard,noinit_itable";

/// Where the kernel lists disks.
const DISKS: &str = "/sys/block";

/// The part of the disk that is a container's.
#[derive(Clone, Debug)]
pub struct Upper {
    directory: PathBuf,
    is_kept: bool,
}

impl Upper {
    /// The part of container `id`; none where it writes to the share. The disk is mounted for the first container.
    ///
    /// # Errors
    /// When there is no disk, or it cannot be mounted.
    pub fn of(id: &str, wanted: api::Upper) -> Result<Option<Upper>> {
        let (directory, is_kept) = match wanted {
            api::Upper::UPPER_SHARE => return Ok(None),
            api::Upper::UPPER_KEPT => (Path::new(DISK).join(KEPT), true),
            api::Upper::UPPER_SCRATCH => (Path::new(DISK).join(SCRATCH).join(id), false),
        };
        match fs::create_dir(DISK) {
            Ok(()) => mount_disk().inspect_err(|_| drop(fs::remove_dir(DISK)))?,
            Err(err) if err.kind() == ErrorKind::AlreadyExists => {}
            Err(err) => return Err(err).with_context(|| format!("make {DISK}")),
        }
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        Ok(Some(Upper { directory, is_kept }))
    }

    /// In a fork: mounts the overlay on `rootfs`, in a mount namespace of the fork's own.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mount(&self, rootfs: &Path) -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        let (upper, work) = (self.directory.join("upper"), self.directory.join("work"));
        if !work.try_exists()? {
            make_like(&upper, rootfs)?;
            // It is the last, so that one that is there is whole.
            fs::create_dir(&work)?;
        }
        let options =
            format!("lowerdir={},upperdir={},workdir={}", rootfs.display(), upper.display(), work.display());
        Ok(mount(Some("overlay"), rootfs, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?)
    }

    /// At the end of its container: writes to the disk what is to outlive the VM, in a fork, as that may take long.
    pub async fn keep(&self, reaper: &Reaper) -> Result<()> {
        if !self.is_kept {
            return Ok(());
        }
        let sync = |_| match fs::File::open(DISK).and_then(|disk| Ok(nix::unistd::syncfs(disk)?)) {
            Ok(()) => 0,
            Err(err) => errno(&err),
        };
        let status = fork_quietly(reaper, &[], sync).context("fork PID 1")?.end().await;
        ensure!(status == 0, "write to the disk: {}", Errno::from_raw(status as i32));
        Ok(())
    }

    /// Removes what a container wrote that is gone, in a fork that nobody waits for.
    ///
    /// # Errors
    /// When there is no fork.
    pub fn forget(&self, reaper: &Reaper) -> io::Result<()> {
        if self.is_kept {
            return Ok(());
        }
        let remove = |_| fs::remove_dir_all(&self.directory).map_or_else(|err| errno(&err), |()| 0);
        fork_quietly(reaper, &[], remove).map(drop)
    }
}

fn errno(err: &io::Error) -> i32 {
    err.raw_os_error().unwrap_or(libc::EIO)
}

/// Makes the directory `new`, unless it is there, with the owner and the mode of `old`: it becomes the container's root.
fn make_like(new: &Path, old: &Path) -> io::Result<()> {
    match fs::create_dir(new) {
        Err(err) if err.kind() != ErrorKind::AlreadyExists => return Err(err),
        _ => {}
    }
    let like = fs::metadata(old)?;
    chown(new, Some(like.uid()), Some(like.gid()))?;
    fs::set_permissions(new, fs::Permissions::from_mode(like.mode() & 0o7777))
}

fn mount_disk() -> Result<()> {
    let device = find(Path::new(DISKS)).with_context(|| format!("look for the disk {UPPER_DISK:?}"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(&device), DISK, Some("ext4"), flags, Some(DISK_OPTIONS)).map_err(|errno| match errno {
        Errno::EINVAL | Errno::EUCLEAN => {
            anyhow::anyhow!("the disk for what containers write holds no ext4 that is whole ({errno})")
        }
        _ => anyhow::Error::new(errno).context("mount the disk for what containers write"),
    })
}

/// The device of the disk with our name, which is its serial number.
fn find(disks: &Path) -> io::Result<PathBuf> {
    for disk in fs::read_dir(disks)? {
        let disk = disk?;
        // Others have none, as loop devices.
        let serial = fs::read_to_string(disk.path().join("serial")).unwrap_or_default();
        if serial.trim_end() == UPPER_DISK {
            return Ok(Path::new("/dev").join(disk.file_name()));
        }
    }
    Err(io::Error::new(ErrorKind::NotFound, "the VM has no such disk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_found_by_its_name() {
        let disks = tempfile::tempdir().unwrap();
        for (name, serial) in [("loop0", None), ("vda", Some("layers")), ("vdb", Some("upper"))] {
            fs::create_dir(disks.path().join(name)).unwrap();
            if let Some(serial) = serial {
                fs::write(disks.path().join(name).join("serial"), serial).unwrap();
            }
        }
        assert_eq!(find(disks.path()).unwrap(), Path::new("/dev/vdb"));
        fs::remove_dir_all(disks.path().join("vdb")).unwrap();
        assert_eq!(find(disks.path()).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_root_has_the_mode_of_the_images() {
        let top = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| top.path().join(name));
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o1750)).unwrap();
        for _ in 0..2 {
            make_like(&new, &old).unwrap();
            assert_eq!(fs::metadata(&new).unwrap().mode() & 0o7777, 0o1750);
        }
    }
}
