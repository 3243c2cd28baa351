//! File handles: what names a file of a file system for as long as it exists, whatever its path. Here they are bytes as fanotify
//! writes them: the file system's id, then `struct file_handle`. Source: open_by_handle_at(2), fanotify(7).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use linux::file_handle::FileHandle;
use nix::errno::Errno;

/// Bytes of the file system's id.
const FSID: usize = 8;

/// The handle of what is open.
///
/// # Errors
/// When its file system gives none.
pub fn of(open: impl AsFd) -> io::Result<Vec<u8>> {
    let handle = FileHandle::of(&open)?;
    let mut bytes = file_system(open)?.to_vec();
    bytes.extend((handle.bytes.len() as u32).to_ne_bytes());
    bytes.extend(handle.kind.to_ne_bytes());
    bytes.extend(handle.bytes);
    Ok(bytes)
}

/// The id of the file system of what is open.
///
/// # Errors
/// The file system's.
pub fn file_system(open: impl AsFd) -> io::Result<[u8; FSID]> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: an open descriptor, and room for what the call writes.
    Errno::result(unsafe { libc::fstatfs(open.as_fd().as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, and has written all of it; the id is two integers.
    Ok(unsafe { std::mem::transmute::<libc::fsid_t, [u8; FSID]>(stat.assume_init().f_fsid) })
}

/// Opens what `handle` names, for naming it only, as one of `mount`, an open directory of its file system.
///
/// # Errors
/// When it has gone, or is not of that file system.
pub fn open(mount: impl AsFd, handle: &[u8]) -> io::Result<OwnedFd> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let (fsid, handle) = handle.split_first_chunk::<FSID>().ok_or_else(invalid)?;
    let (length, handle) = handle.split_first_chunk().ok_or_else(invalid)?;
    let (kind, handle) = handle.split_first_chunk().ok_or_else(invalid)?;
    if *fsid != file_system(&mount)? {
        return Err(io::ErrorKind::NotFound.into());
    }
    if u32::from_ne_bytes(*length) as usize != handle.len() {
        return Err(invalid());
    }
    FileHandle { kind: i32::from_ne_bytes(*kind), bytes: handle.to_vec() }.open(mount)
}
