//! File handles: what names a file of a file system for as long as it exists, whatever its path. Source: open_by_handle_at(2).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use nix::errno::Errno;

/// The longest handle, in bytes. Source: linux/exportfs.h, MAX_HANDLE_SZ.
pub const LONGEST: usize = 128;

/// A handle. It means something to the file system that gave it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileHandle {
    /// What sort of handle the file system says that it is.
    pub kind: i32,
    /// At most [`LONGEST`].
    pub bytes: Vec<u8>,
}

/// `struct file_handle`, with room for any.
#[repr(C)]
struct Raw {
    length: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; LONGEST],
}

impl FileHandle {
    /// The handle of what is open.
    ///
    /// # Errors
    /// When its file system gives none.
    pub fn of(open: impl AsFd) -> io::Result<FileHandle> {
        let mut raw = Raw { length: LONGEST as u32, kind: 0, bytes: [0; LONGEST] };
        let mut mount: libc::c_int = 0;
        // SAFETY: an open descriptor with an empty C string, and room for a handle of the length that it says.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                open.as_fd().as_raw_fd(),
                c"".as_ptr(),
                &raw mut raw,
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        Errno::result(result)?;
        let length = (raw.length as usize).min(LONGEST);
        Ok(FileHandle { kind: raw.kind, bytes: raw.bytes[..length].to_vec() })
    }

    /// Opens what it names, for naming it only, as one of `mount`: an open file or directory of its file system that does more
    /// than name.
    ///
    /// # Errors
    /// When it has gone, or is longer than any.
    pub fn open(&self, mount: impl AsFd) -> io::Result<OwnedFd> {
        let mut raw = Raw { length: self.bytes.len() as u32, kind: self.kind, bytes: [0; LONGEST] };
        let room = raw.bytes.get_mut(..self.bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        room.copy_from_slice(&self.bytes);
        let (mount, flags) = (mount.as_fd().as_raw_fd(), libc::O_PATH | libc::O_CLOEXEC);
        // SAFETY: an open descriptor, and a handle of the length that it says, which the call only reads.
        let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount, &raw mut raw, flags) };
        let fd = Errno::result(fd)?;
        // SAFETY: the call gave a descriptor that is nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_handle_is_longer_than_the_longest() {
        let handle = FileHandle { kind: 1, bytes: vec![0; LONGEST + 1] };
        let root = std::fs::File::open("/").unwrap();
        assert_eq!(handle.open(&root).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
