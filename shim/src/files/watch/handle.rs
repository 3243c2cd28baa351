//! File handles: what names a file of a file system for as long as it exists, whatever its path. Here they are bytes as fanotify
//! writes them: the file system's id, then `struct file_handle`. Source: open_by_handle_at(2), fanotify(7).

#![expect(clippy::disallowed_methods, reason = "descriptors with an empty path, and handles")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use nix::errno::Errno;

/// Bytes of the file system's id.
const FSID: usize = 8;

/// The longest handle. Source: linux/exportfs.h, MAX_HANDLE_SZ.
const LONGEST: usize = 128;

#[repr(C)]
struct FileHandle {
    length: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; LONGEST],
}

/// The handle of what is open.
///
/// # Errors
/// When its file system gives none.
pub fn of(open: impl AsFd) -> io::Result<Vec<u8>> {
    let fd = open.as_fd().as_raw_fd();
    let mut handle = FileHandle { length: LONGEST as u32, kind: 0, bytes: [0; LONGEST] };
    let mut mount: libc::c_int = 0;
    // SAFETY: an open descriptor with an empty C string, and room for a handle of the length that it says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd,
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::result(result)?;
    let mut bytes = file_system(open)?.to_vec();
    bytes.extend(handle.length.to_ne_bytes());
    bytes.extend(handle.kind.to_ne_bytes());
    bytes.extend(&handle.bytes[..(handle.length as usize).min(LONGEST)]);
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
    let mut file = FileHandle {
        length: u32::from_ne_bytes(*length),
        kind: i32::from_ne_bytes(*kind),
        bytes: [0; LONGEST],
    };
    if file.length as usize != handle.len() || handle.len() > LONGEST {
        return Err(invalid());
    }
    file.bytes[..handle.len()].copy_from_slice(handle);
    // SAFETY: an open descriptor, and a handle of the length that it says, which the call only reads.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_fd().as_raw_fd(),
            &raw mut file,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the call gave a descriptor that is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
