//! What containerd's clients name by a path: FIFOs, logs, network namespaces. Each is looked at before it is opened, and what
//! is opened is what was looked at.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, OpenHow, openat2},
    sys::{
        stat::{FileStat, Mode, SFlag, fstat, makedev},
        statfs::{NSFS_MAGIC, PROC_SUPER_MAGIC, fstatfs},
    },
};

use super::{ANY, BENEATH, NAMED, Pinned, below::directory_for, kind, open_at, reopen, socket::split};

/// How often a log's file may come and go while it is opened.
const TRIES: usize = 8;

/// The device /dev/null, which takes a log that nobody wants. Source: admin-guide/devices.txt of the kernel.
const NULL: (u64, u64) = (1, 3);

/// Finds the FIFO `path`. Open it with [`reopen`].
///
/// # Errors
/// When it is something else; and the file system's.
pub fn fifo(path: &Path) -> io::Result<Pinned> {
    let found = Pinned::open(path)?;
    match kind(&fstat(&found)?) {
        SFlag::S_IFIFO => Ok(found),
        _ => Err(io::Error::other("not a FIFO")),
    }
}

/// Finds the block device with these numbers, by the name that the kernel gives it. Open it with [`reopen`].
///
/// # Errors
/// When there is none, or /dev has another one by that name; and the file system's.
pub fn block_device(major: u64, minor: u64) -> io::Result<Pinned> {
    let told = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"))?;
    let none = || io::Error::from(io::ErrorKind::NotFound);
    let name = told.lines().find_map(|line| line.strip_prefix("DEVNAME=")).ok_or_else(none)?;
    let found = Pinned::open(&Path::new("/dev").join(name))?;
    let stat = fstat(&found)?;
    match kind(&stat) == SFlag::S_IFBLK && stat.st_rdev == makedev(major, minor) {
        true => Ok(found),
        false => Err(io::Error::other(format!("/dev/{name} is another device"))),
    }
}

/// Opens the log `path` for appending; it is made, with its directory, unless it is there. A container may be able to write
/// its directory: so a link as the log is refused, as is a device or a FIFO, but for /dev/null.
///
/// # Errors
/// When something else is there; and the file system's.
pub fn log_file(path: &Path) -> io::Result<File> {
    let no_log = || io::Error::new(io::ErrorKind::InvalidInput, "a log must be a file");
    let name = Path::new(path.file_name().ok_or_else(no_log)?);
    let directory = directory_for(path.parent().ok_or_else(no_log)?, 0o777)?;
    for _ in 0..TRIES {
        match open_at(&directory, name, OFlag::O_NOFOLLOW, BENEATH) {
            Ok(found) if takes_a_log(&fstat(&found)?) => {
                return reopen(found, OFlag::O_WRONLY | OFlag::O_APPEND);
            }
            Ok(_) => return Err(no_log()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o666);
        match openat2(&directory, name, OpenHow::new().flags(flags).mode(mode).resolve(BENEATH)) {
            Ok(made) => return Ok(made.into()),
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::ELOOP.into())
}

fn takes_a_log(stat: &FileStat) -> bool {
    match kind(stat) {
        SFlag::S_IFREG => true,
        SFlag::S_IFCHR => stat.st_rdev == makedev(NULL.0, NULL.1),
        _ => false,
    }
}

/// Finds the namespace `path`, and gives none for what is none. A namespace has a place in a file system, or is a link below
/// a process's directory in /proc; another link that leads there is not followed.
///
/// # Errors
/// The file system's.
pub fn namespace(path: &Path) -> io::Result<Option<OwnedFd>> {
    let found = match open_at(AT_FDCWD, path, OFlag::empty(), NAMED) {
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
            let (directory, name) = split(AT_FDCWD, path)?;
            if fstatfs(&directory)?.filesystem_type() != PROC_SUPER_MAGIC {
                return Ok(None);
            }
            open_at(&directory, Path::new(&name), OFlag::empty(), ANY)?
        }
        found => found?,
    };
    Ok(is_namespace(&found)?.then_some(found))
}

fn is_namespace(found: impl AsFd) -> io::Result<bool> {
    Ok(fstatfs(found)?.filesystem_type() == NSFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Write,
        os::unix::fs::{FileTypeExt, symlink},
    };

    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_log_is_made_with_its_directory_and_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a/b/log");
        for line in ["one\n", "two\n"] {
            log_file(&log).unwrap().write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntwo\n");
        log_file(Path::new("/dev/null")).unwrap();
    }

    #[test]
    fn a_log_that_is_a_link_a_fifo_or_a_device_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let prize = dir.path().join("prize");
        fs::write(&prize, "").unwrap();
        symlink(&prize, dir.path().join("link")).unwrap();
        symlink("absent", dir.path().join("dangling")).unwrap();
        symlink("/proc/self", dir.path().join("proc")).unwrap();
        mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        for name in ["link", "dangling", "fifo", "."] {
            log_file(&dir.path().join(name)).unwrap_err();
        }
        for path in ["/dev/zero", "/proc/self/fd/2", "/proc/self/cwd/log", "/"] {
            log_file(Path::new(path)).unwrap_err();
        }
        assert!(!dir.path().join("absent").exists());
    }

    #[test]
    fn a_fifo_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let found = fifo(&path).unwrap();
        // Another is there by now.
        fs::rename(&path, dir.path().join("kept")).unwrap();
        fs::write(&path, "").unwrap();
        let open = reopen(&found, OFlag::O_RDWR | OFlag::O_NONBLOCK).unwrap();
        assert!(open.metadata().unwrap().file_type().is_fifo());
        for other in [path.as_path(), Path::new("/dev/zero"), Path::new("/proc/self/fd/0")] {
            fifo(other).unwrap_err();
        }
    }

    #[test]
    fn a_namespace_is_found_in_proc_and_not_through_a_link_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let own = Path::new("/proc/self/ns/net");
        assert!(namespace(own).unwrap().is_some());
        for (name, target) in [("link", own), ("root", Path::new("/proc/self/root"))] {
            symlink(target, dir.path().join(name)).unwrap();
        }
        assert!(namespace(&dir.path().join("link")).unwrap().is_none());
        assert!(namespace(Path::new("/proc/self/root")).unwrap().is_none());
        assert!(namespace(&dir.path().join("root/etc")).is_err());
        assert!(namespace(dir.path()).unwrap().is_none());
    }
}
