//! A disk is one VM's: two kernels that write to one file system destroy it, and a guest's is none for the host's kernel to mount.

use std::{fs::File, io, os::fd::OwnedFd};

use nix::{errno::Errno, fcntl::OFlag};
use rustix::fs::{FlockOperation, XattrFlags, fgetxattr, flock, fsetxattr};

use crate::files::pin::{self, Pinned};

/// The attribute of a file whose file system a guest's kernel has had.
const GUESTS: &str = "trusted.krun.guest";

/// Opens a snapshot, which is a file system, for one VM alone. A file is marked as a guest's from now on; devices have no place for that.
///
/// # Errors
/// When another VM has it, or it is mounted; and the file system's.
pub fn snapshot(named: &Pinned) -> io::Result<OwnedFd> {
    if named.is_device()? {
        return device(named, OFlag::O_RDWR);
    }
    let file = pin::reopen(named, OFlag::O_RDWR)?;
    lock(&file)?;
    fsetxattr(&file, GUESTS, b"1", XattrFlags::empty())?;
    Ok(file.into())
}

/// Whether a guest's kernel may have had a snapshot: one that cannot be asked counts as one that has.
pub fn is_guests(named: &Pinned) -> bool {
    let asked = pin::reopen(named, OFlag::O_RDONLY).map(|file| fgetxattr(file, GUESTS, &mut [0u8; 1][..]));
    !matches!(asked, Ok(Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP)))
}

/// Opens a block device. For writing it is claimed: nobody else can claim it, or mount it, as long as it is open.
///
/// # Errors
/// When it is to be claimed, and is mounted or another's; and the kernel's.
pub fn device(named: &Pinned, access: OFlag) -> io::Result<OwnedFd> {
    let claim = if access == OFlag::O_RDWR { OFlag::O_EXCL } else { OFlag::empty() };
    let opened = pin::reopen(named, access | claim);
    opened.map(OwnedFd::from).map_err(|error| match error.raw_os_error() {
        Some(code) if code == Errno::EBUSY as i32 => {
            io::Error::new(error.kind(), "it is mounted on the host, or another VM has it")
        }
        _ => error,
    })
}

/// Locks a disk's file for as long as a process has it open as it is here, as the vmm does that inherits it.
///
/// # Errors
/// When another VM has it.
pub fn lock(file: &File) -> io::Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, "another VM has it"))
        }
        locked => Ok(locked?),
    }
}
