//! Keeps libkrun's virtiofs from opening what is neither a file nor a directory: named pipes, sockets and devices of the host.
//!
//! A guest has pipes and devices of its own in their places, and asks for their extended attributes alone, as `ls -l` does. libkrun
//! opens a file for these: a socket and a device cannot be opened, and the guest gets an error; a pipe can, and who waits to write
//! into it on the host takes the vmm for a reader. So this module replaces `openat`: for them it fails as for a symbolic link, and
//! libkrun then asks for the attributes by a path, which has none. A guest whose kernel was taken over, and that asks for more, has
//! no other answer. A vmm that was taken over is not bound by it.

use std::{
    ffi::{CStr, c_char, c_int},
    mem::MaybeUninit,
    str,
};

use libc::mode_t;

use crate::kernel_files::file_system;

/// Flags that libkrun gives when it opens a name in a directory of the guest's. When it opens once more what it has open, in
/// /proc/self/fd, it takes the second away from what the guest asks for, and the first opens nothing. Source: krun-devices 1.19.7,
/// `virtio/fs/linux/passthrough.rs`, `open_inode`.
const BY_NAME: c_int = libc::O_PATH | libc::O_NOFOLLOW;

/// Replaces the C library's `openat`.
///
/// # Safety
/// As openat(2).
// SAFETY: it keeps the contract of the function that it stands in for. That one takes its mode as a variable argument, which the
// calling conventions of x86_64 and aarch64 pass in the same place; without one the kernel does not look at it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's promise.
    if flags & BY_NAME == 0 && unsafe { is_special(directory, path) } {
        // SAFETY: the thread's own.
        unsafe { *libc::__errno_location() = libc::ELOOP };
        return -1;
    }
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_openat, directory, path, flags, mode) as c_int }
}

/// Whether the path names in a directory of /proc what is open, and neither a file nor a directory.
///
/// # Safety
/// The path must be a C string.
unsafe fn is_special(directory: c_int, path: *const c_char) -> bool {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(path) }.to_bytes();
    let number = str::from_utf8(name).ok().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(file) = number.and_then(|number| number.parse().ok()) else { return false };
    let mut found = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel fills what is large enough for it.
    let is_open = unsafe { libc::fstat(file, found.as_mut_ptr()) } == 0;
    // SAFETY: zeros are a value of it.
    let kind = unsafe { found.assume_init() }.st_mode & libc::S_IFMT;
    if !is_open || [libc::S_IFREG, libc::S_IFDIR].contains(&kind) {
        return false;
    }
    file_system(directory) == Some(libc::PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::CString,
        fs::{self, File},
        io::{self, Read},
        os::{
            fd::{AsRawFd, FromRawFd, OwnedFd},
            unix::{
                fs::{OpenOptionsExt, PermissionsExt},
                net::UnixListener,
            },
        },
        path::Path,
    };

    use super::*;

    /// Opens a name, through the symbol that libkrun calls.
    fn open(directory: &File, name: &str, flags: c_int, mode: mode_t) -> io::Result<OwnedFd> {
        let name = CString::new(name).unwrap();
        // SAFETY: a C string; the descriptor is new.
        unsafe {
            match libc::openat(directory.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC, mode) {
                -1 => Err(io::Error::last_os_error()),
                opened => Ok(OwnedFd::from_raw_fd(opened)),
            }
        }
    }

    /// As libkrun has it open.
    fn named(path: &Path) -> File {
        File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path).unwrap()
    }

    #[test]
    fn only_files_and_directories_are_opened_once_more() {
        let dir = tempfile::tempdir().unwrap();
        let [pipe, socket, file] = ["pipe", "socket", "file"].map(|name| dir.path().join(name));
        let path = CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        let _server = UnixListener::bind(&socket).unwrap();
        fs::write(&file, "text").unwrap();
        let descriptors = File::open("/proc/self/fd").unwrap();
        for special in [pipe.as_path(), &socket, Path::new("/dev/null")] {
            let special = named(special);
            let name = special.as_raw_fd().to_string();
            for flags in [libc::O_RDONLY | libc::O_NONBLOCK, libc::O_RDWR, libc::O_RDWR | libc::O_CREAT] {
                let error = open(&descriptors, &name, flags, 0).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
            }
        }
        let file = named(&file);
        let opened = open(&descriptors, &file.as_raw_fd().to_string(), libc::O_RDONLY, 0).unwrap();
        let mut text = String::new();
        File::from(opened).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
    }

    #[test]
    fn names_of_the_guests_are_names() {
        let dir = tempfile::tempdir().unwrap();
        let directory = File::open(dir.path()).unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        // A file that is called like an open pipe.
        let name = reader.as_raw_fd().to_string();
        open(&directory, &name, libc::O_WRONLY | libc::O_CREAT, 0o640).unwrap();
        open(&directory, &name, libc::O_RDONLY, 0).unwrap();
        let mode = fs::metadata(dir.path().join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o037, 0o640 & !0o037);
        let error = open(&directory, "missing", libc::O_RDONLY, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
