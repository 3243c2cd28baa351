//! Lets a guest read the files of /proc, of cgroups and of the kernel's other file systems in a volume.
//!
//! They say that they are empty, and give their contents piece by piece to who reads them. A guest's FUSE reads no further
//! than a file's size, and takes a piece that is smaller than what it asked for as the file's end. So this module replaces
//! the functions by which libkrun's virtiofs learns a file's size and reads: such a file has the size [`SEEMING`], and a read
//! ends where the file does. From then on the guest knows the real size.

use std::{
    ffi::{c_char, c_int, c_uint},
    mem::MaybeUninit,
};

use libc::{iovec, off64_t, size_t, ssize_t, stat64};

/// How large such a file seems until it is read, in bytes; what it has beyond cannot be read. Programs take a file's size as a
/// hint for how much memory to have ready, so it is not larger. Whole pages: `wc` counts the bytes of a file that seems to have
/// some, instead of believing it.
const SEEMING: u32 = 4 << 20;

/// How libkrun asks for what it has open. Source: krun-devices 1.19.7, `virtio/fs/linux/passthrough.rs`, `stat` and `statx`.
const LIBKRUNS: c_int = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;

/// Of which kind the file system of an open file is (statfs(2)); none when the kernel does not say.
pub fn file_system(file: c_int) -> Option<libc::__fsword_t> {
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the kernel fills what is large enough for it.
    let is_known = unsafe { libc::fstatfs(file, found.as_mut_ptr()) } == 0;
    // SAFETY: zeros are a value of it.
    is_known.then(|| unsafe { found.assume_init() }.f_type)
}

/// Whether the file system of an open file is the kernel's own.
fn is_kernels(file: c_int) -> bool {
    const OWN: [libc::__fsword_t; 6] = [
        libc::PROC_SUPER_MAGIC,
        libc::CGROUP2_SUPER_MAGIC,
        libc::SYSFS_MAGIC,
        libc::SECURITYFS_MAGIC,
        libc::DEBUGFS_MAGIC,
        libc::TRACEFS_MAGIC,
    ];
    file_system(file).is_some_and(|kind| OWN.contains(&kind))
}

/// Whether a file with this mode and size may be one that only says that it is empty.
fn seems_empty(mode: u32, size: u64) -> bool {
    mode & libc::S_IFMT == libc::S_IFREG && size == 0
}

/// Replaces the C library's `fstatat64`.
///
/// # Safety
/// As fstatat(2).
// SAFETY: it keeps the contract of the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fstatat64(
    file: c_int,
    path: *const c_char,
    found: *mut stat64,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_newfstatat, file, path, found, flags) } as c_int;
    if result == 0 && flags == LIBKRUNS {
        // SAFETY: the caller's promise; the kernel has filled it.
        let found = unsafe { &mut *found };
        if seems_empty(found.st_mode, found.st_size as u64) && is_kernels(file) {
            found.st_size = SEEMING.into();
        }
    }
    result
}

/// Replaces the C library's `statx`.
///
/// # Safety
/// As statx(2).
// SAFETY: it keeps the contract of the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn statx(
    file: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    found: *mut libc::statx,
) -> c_int {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_statx, file, path, flags, mask, found) } as c_int;
    if result == 0 && flags == LIBKRUNS {
        // SAFETY: the caller's promise; the kernel has filled it.
        let found = unsafe { &mut *found };
        if seems_empty(found.stx_mode.into(), found.stx_size) && is_kernels(file) {
            found.stx_size = SEEMING.into();
        }
    }
    result
}

/// Replaces the C library's `preadv64`: reads on until all is read that was asked for, or the file ends. One more call at a
/// file's end is what that costs other files.
///
/// # Safety
/// As preadv(2).
// SAFETY: it keeps the contract of the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn preadv64(
    file: c_int,
    places: *const iovec,
    count: c_int,
    offset: off64_t,
) -> ssize_t {
    // SAFETY: the caller's promise.
    let first = unsafe { preadv(file, places, count, offset) };
    let mut length = match size_t::try_from(first) {
        Ok(length @ 1..) => length,
        _ => return first,
    };
    // SAFETY: the caller's promise; the kernel took as many.
    let places = unsafe { std::slice::from_raw_parts(places, count as usize) };
    loop {
        let rest = after(places, length);
        if rest.is_empty() {
            return length as ssize_t;
        }
        // SAFETY: what is left of the caller's places.
        let more = unsafe { preadv(file, rest.as_ptr(), rest.len() as c_int, offset + length as off64_t) };
        match size_t::try_from(more) {
            Ok(more @ 1..) => length += more,
            // An error comes again to who asks for the next piece.
            _ => return length as ssize_t,
        }
    }
}

/// preadv(2) itself.
///
/// # Safety
/// As there.
unsafe fn preadv(file: c_int, places: *const iovec, count: c_int, offset: off64_t) -> ssize_t {
    // The upper half of an offset is for 32-bit machines. Source: preadv(2), "C library/kernel differences".
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_preadv, file, places, count, offset, 0) as ssize_t }
}

/// What is left of `places` after the first `length` bytes.
fn after(places: &[iovec], mut length: usize) -> Vec<iovec> {
    let mut rest = Vec::new();
    for place in places {
        let used = length.min(place.iov_len);
        length -= used;
        if used < place.iov_len {
            let iov_base = place.iov_base.wrapping_byte_add(used);
            rest.push(iovec { iov_base, iov_len: place.iov_len - used });
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io,
        os::fd::AsRawFd,
    };

    use super::*;

    /// A file's size, by each of the symbols that libkrun calls.
    fn sizes(file: &File, flags: c_int) -> [u64; 2] {
        let mut found = MaybeUninit::<stat64>::zeroed();
        let mut more = MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: zeros are values of both, and the path is empty.
        unsafe {
            assert_eq!(libc::fstatat64(file.as_raw_fd(), c"".as_ptr(), found.as_mut_ptr(), flags), 0);
            let mask = libc::STATX_BASIC_STATS;
            assert_eq!(libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, mask, more.as_mut_ptr()), 0);
            [found.assume_init().st_size as u64, more.assume_init().stx_size]
        }
    }

    /// Reads into two places of these sizes, through the symbol that libkrun calls.
    fn read(file: &File, offset: i64, sizes: [usize; 2]) -> io::Result<Vec<u8>> {
        let mut places = sizes.map(|size| vec![0; size]);
        let vectors = places
            .each_mut()
            .map(|place| iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() });
        // SAFETY: the places are as large as they say.
        let length = unsafe { libc::preadv64(file.as_raw_fd(), vectors.as_ptr(), 2, offset) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut all = places.concat();
        all.truncate(length);
        Ok(all)
    }

    #[test]
    fn a_file_of_proc_seems_to_have_contents_for_libkrun_alone() {
        let file = File::open("/proc/self/maps").unwrap();
        assert_eq!(sizes(&file, LIBKRUNS), [u64::from(SEEMING); 2]);
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert_eq!(sizes(&File::open("/proc/self").unwrap(), LIBKRUNS)[0], 0);
        let empty = tempfile::tempfile().unwrap();
        assert_eq!(sizes(&empty, LIBKRUNS), [0; 2]);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "12345").unwrap();
        assert_eq!(sizes(&File::open(dir.path().join("file")).unwrap(), LIBKRUNS), [5; 2]);
    }

    #[test]
    fn a_read_ends_where_the_file_does() {
        // The kernel gives less than a page of it at a time.
        let file = File::open("/proc/self/mountinfo").unwrap();
        let long = File::open("/proc/kallsyms").unwrap();
        for file in [&file, &long] {
            let all = read(file, 0, [100, 100_000]).unwrap();
            let rest = read(file, 50, [7, 1 << 16]).unwrap();
            assert!(all.len() > 50);
            assert_eq!(rest, all[50..all.len().min(50 + 7 + (1 << 16))]);
        }
        assert!(read(&long, 0, [100, 100_000]).unwrap().len() == 100_100);
        assert!(read(&file, 1 << 20, [1, 1]).unwrap().is_empty());
    }

    #[test]
    fn errors_and_parts_are_as_the_kernels() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(&File::open(dir.path()).unwrap(), 0, [1, 1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EISDIR));
        fs::write(dir.path().join("file"), "0123456789").unwrap();
        let file = File::open(dir.path().join("file")).unwrap();
        assert_eq!(read(&file, 2, [3, 2]).unwrap(), b"23456");
        assert_eq!(read(&file, 8, [1, 5]).unwrap(), b"89");
        assert_eq!(read(&file, 0, [0, 4]).unwrap(), b"0123");
    }
}
