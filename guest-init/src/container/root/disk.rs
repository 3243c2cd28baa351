//! The VM's disks, and the one that takes what containers write: it is mounted in PID 1's mount namespace alone, for as long as the
//! VM lives.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use guest_protocol::api;
use guest_protocol::boot::UPPER_DISK;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// Where the disk is mounted.
const DISK: &str = "/run/upper";

/// The directory of a container that finds it again, and of the others.
const KEPT: &str = "kept";
const SCRATCH: &str = "scratch";

/// The directory of what is being removed.
const TRASH: &str = "trash";

/// Freed blocks are the host's again; inode tables that are zero in a new file need no zeros written. Source:
/// Documentation/admin-guide/ext4.rst.
const OPTIONS: &str = "discard,noinit_itable";

/// Where the kernel lists disks.
const DISKS: &str = "/sys/block";

/// A container's part of the disk.
#[derive(Clone, Debug)]
pub struct Place {
    pub directory: PathBuf,
    pub is_kept: bool,
}

impl Place {
    /// The part of container `id`; none where it writes to the share. The disk is mounted for the first container.
    ///
    /// # Errors
    /// When there is no disk, or it cannot be mounted.
    pub fn of(id: &str, upper: api::Upper) -> Result<Option<Place>> {
        let (directory, is_kept) = match upper {
            api::Upper::UPPER_SHARE => return Ok(None),
            api::Upper::UPPER_KEPT => (Path::new(DISK).join(KEPT), true),
            api::Upper::UPPER_SCRATCH => (Path::new(DISK).join(SCRATCH).join(id), false),
        };
        match fs::create_dir(DISK) {
            Ok(()) => mount_disk().inspect_err(|_| drop(fs::remove_dir(DISK)))?,
            Err(err) if err.kind() == ErrorKind::AlreadyExists => {}
            Err(err) => return Err(err).with_context(|| format!("make {DISK}")),
        }
        let place = Place { directory, is_kept };
        if !is_kept && place.directory.try_exists()? {
            // Of another container of that name, of which it could not be taken away.
            place.throw_away().context("take away what another container wrote")?;
        }
        fs::create_dir_all(&place.directory)
            .with_context(|| format!("make {}", place.directory.display()))?;
        Ok(Some(place))
    }

    /// Moves what is there to a name that no container has, for removing it. Nobody finds it any more.
    ///
    /// # Errors
    /// The file system's.
    pub fn throw_away(&self) -> io::Result<PathBuf> {
        static THROWN: AtomicU64 = AtomicU64::new(0);
        let trash = Path::new(DISK).join(TRASH);
        fs::create_dir_all(&trash)?;
        loop {
            let name = trash.join(THROWN.fetch_add(1, Ordering::Relaxed).to_string());
            match fs::rename(&self.directory, &name) {
                // Of an earlier VM, which ended while it removed that.
                Err(err) if err.kind() == ErrorKind::DirectoryNotEmpty => {}
                renamed => return renamed.map(|()| name),
            }
        }
    }
}

fn mount_disk() -> Result<()> {
    let device = device_of(UPPER_DISK)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(&device), DISK, Some("ext4"), flags, Some(OPTIONS)).map_err(|errno| match errno {
        Errno::EINVAL | Errno::EUCLEAN => {
            anyhow::anyhow!("the disk for what containers write holds no ext4 that is whole ({errno})")
        }
        _ => anyhow::Error::new(errno).context("mount the disk for what containers write"),
    })
}

/// The device of the VM's disk with this name.
///
/// # Errors
/// When there is none.
pub fn device_of(name: &str) -> Result<PathBuf> {
    find(Path::new(DISKS), name).with_context(|| format!("look for the disk {name:?}"))
}

/// A disk's name is its serial number.
fn find(disks: &Path, name: &str) -> io::Result<PathBuf> {
    for disk in fs::read_dir(disks)? {
        let disk = disk?;
        // Others have none, as loop devices.
        let serial = fs::read_to_string(disk.path().join("serial")).unwrap_or_default();
        if serial.trim_end() == name {
            return Ok(Path::new("/dev").join(disk.file_name()));
        }
    }
    Err(io::Error::new(ErrorKind::NotFound, "the VM has no such disk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_name() {
        let disks = tempfile::tempdir().unwrap();
        for (name, serial) in [("loop0", None), ("vda", Some("layers")), ("vdb", Some("upper"))] {
            fs::create_dir(disks.path().join(name)).unwrap();
            if let Some(serial) = serial {
                fs::write(disks.path().join(name).join("serial"), serial).unwrap();
            }
        }
        assert_eq!(find(disks.path(), UPPER_DISK).unwrap(), Path::new("/dev/vdb"));
        assert_eq!(find(disks.path(), "root").unwrap_err().kind(), ErrorKind::NotFound);
    }
}
