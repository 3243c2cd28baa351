//! Files of the host that somebody else named: each path is resolved once, here.
//!
//! A container may be able to write a directory that leads to its own volume, and can put a link there at any time. So a
//! path becomes a descriptor when the container is created, and nothing looks at the path again: it is kept for messages only.
//! What is made, opened or removed below a directory is reached from that directory's descriptor, and never through a link.
//!
//! Elsewhere in the shim the functions that take paths are refused by a lint (`shim/clippy.toml`); whoever must use one says
//! there why nobody but the host's root can lead it astray.

#![expect(clippy::disallowed_methods, reason = "this is the module that resolves paths")]

mod below;
mod inside;
mod named;
mod socket;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::{
        stat::{FileStat, Mode, SFlag, fstat},
        statfs::{TMPFS_MAGIC, fstatfs},
    },
};

use super::mount;
use crate::error::{Error, Result};

pub use below::{
    directory_for, has_entries, make_directory, make_file, open_regular, open_regular_to_write, remove,
    rename,
};
pub use inside::{Found, Inside, Mounted};
pub use named::{block_device, fifo, log_file, namespace};
pub use socket::Socket;

/// Where this process's descriptors have paths. Source: proc_pid_fd(5).
pub const DESCRIPTORS: &str = "/proc/self/fd";

/// How what is below a directory is reached: through mounts, but not through links, and not out of it.
const BENEATH: ResolveFlag = ResolveFlag::RESOLVE_BENEATH.union(ResolveFlag::RESOLVE_NO_SYMLINKS);

/// As the kernel does by itself.
const ANY: ResolveFlag = ResolveFlag::empty();

/// How a path is resolved that the host's root wrote down: through links, but not through those of /proc, which lead
/// anywhere without a path.
const NAMED: ResolveFlag = ResolveFlag::RESOLVE_NO_MAGICLINKS;

/// What a bind mount of a spec shows.
#[derive(Debug, Clone)]
pub enum Source {
    /// A directory.
    Directory {
        /// The directory.
        file: Pinned,
        /// Where something is mounted below it, as paths below it.
        mounts: Vec<PathBuf>,
    },
    /// A file, a device or a named pipe.
    File(Pinned),
    /// A unix socket.
    Socket(Socket),
}

/// A file or directory, held by a descriptor that names it only (O_PATH).
#[derive(Debug, Clone)]
pub struct Pinned {
    file: Arc<OwnedFd>,
    path: PathBuf,
}

impl Source {
    /// Resolves `path`, following links as runc does. It may hang with the file system that it leads to.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names the path, when it leads nowhere or through a link of /proc.
    pub fn resolve(path: &Path) -> Result<Source> {
        let failed = |e: io::Error| Error::invalid(format!("mount source {}", path.display())).because(e);
        let file = Pinned::open(path).map_err(failed)?;
        let stat = fstat(&*file.file).map_err(|e| failed(e.into()))?;
        match kind(&stat) {
            SFlag::S_IFDIR => {
                let mounts = mount::below(&file).map_err(failed)?.into_keys().collect();
                Ok(Source::Directory { file, mounts })
            }
            SFlag::S_IFSOCK => Socket::find(path, &stat).map(Source::Socket).map_err(failed),
            _ => Ok(Source::File(file)),
        }
    }

    /// How large a directory's file system in memory may get, in bytes, if it is one that has a limit.
    pub fn size(&self) -> Option<u64> {
        let Source::Directory { file, .. } = self else { return None };
        let found = fstatfs(&*file.file).ok().filter(|found| found.filesystem_type() == TMPFS_MAGIC)?;
        let size = found.blocks().checked_mul(u64::try_from(found.block_size()).ok()?)?;
        Some(size).filter(|size| *size > 0)
    }
}

impl Pinned {
    /// Opens `path`, which must be absolute, for naming it only. Links are followed, but for those of /proc that lead
    /// anywhere without a path.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(path: &Path) -> io::Result<Pinned> {
        let file = open_at(AT_FDCWD, path, OFlag::empty(), NAMED)?;
        Ok(Pinned { file: Arc::new(file), path: path.to_owned() })
    }

    /// Opens `path`, which must be absolute, as [`Pinned::open`] does.
    ///
    /// # Errors
    /// The file system's; when it is no directory.
    pub fn open_directory(path: &Path) -> io::Result<Pinned> {
        let file = open_at(AT_FDCWD, path, OFlag::O_DIRECTORY, NAMED)?;
        Ok(Pinned { file: Arc::new(file), path: path.to_owned() })
    }

    /// The directory that `path` leads to from this one, or from the root when it is absolute. Links are followed as by
    /// [`Pinned::open`].
    ///
    /// # Errors
    /// As of [`Pinned::open_directory`].
    pub fn directory_from(&self, path: &Path) -> io::Result<Pinned> {
        let file = open_at(self, path, OFlag::O_DIRECTORY, NAMED)?;
        Ok(Pinned { file: Arc::new(file), path: self.path.join(path) })
    }

    /// Whether it is a block device.
    ///
    /// # Errors
    /// The file system's.
    pub fn is_device(&self) -> io::Result<bool> {
        Ok(kind(&fstat(self)?) == SFlag::S_IFBLK)
    }

    /// Whether it is a regular file.
    ///
    /// # Errors
    /// The file system's.
    pub fn is_file(&self) -> io::Result<bool> {
        Ok(kind(&fstat(self)?) == SFlag::S_IFREG)
    }

    /// What is at `path` below this directory: see [`beneath`].
    ///
    /// # Errors
    /// As there.
    pub fn beneath(&self, path: &Path) -> io::Result<Pinned> {
        Ok(Pinned { file: Arc::new(beneath(self, path)?), path: self.path.join(path) })
    }

    /// The path by which it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Pinned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The path that leads this process to what is open, as long as that is.
pub fn path_of(open: &impl AsFd) -> PathBuf {
    Path::new(DESCRIPTORS).join(open.as_fd().as_raw_fd().to_string())
}

/// Opens `path` below `top`, through mounts but not through links.
///
/// # Errors
/// When it leads through a link or out of `top`; and the file system's.
pub fn beneath(top: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    open_at(top, path, OFlag::empty(), BENEATH)
}

/// Opens the directory `path` below `top`, through neither mounts nor links, for naming it only.
///
/// # Errors
/// When it is no directory, or leads through a mount, a link or out of `top`; and the file system's.
pub fn in_mount(top: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    open_at(top, path, OFlag::O_DIRECTORY, BENEATH | ResolveFlag::RESOLVE_NO_XDEV)
}

/// As [`in_mount`], for reading the names in it, which leaves no trace.
///
/// # Errors
/// As there.
pub fn list(top: impl AsFd, path: &Path) -> io::Result<File> {
    reopen(in_mount(top, path)?, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOATIME)
}

/// Opens an absolute path of the kernel's own, as /proc lists it: it leads through no link, or is that of something else by
/// now.
///
/// # Errors
/// When it leads through a link; and the file system's.
pub fn listed(path: &Path) -> io::Result<OwnedFd> {
    open_at(AT_FDCWD, path, OFlag::empty(), ResolveFlag::RESOLVE_NO_SYMLINKS)
}

/// Opens what is open for naming it only once more, for reading or writing. What it is must be known: opening a FIFO may
/// wait, and opening a device does what its driver likes.
///
/// # Errors
/// The file system's.
pub fn reopen(named: impl AsFd, flags: OFlag) -> io::Result<File> {
    Ok(open(&path_of(&named), flags | OFlag::O_CLOEXEC, Mode::empty())?.into())
}

fn open_at(from: impl AsFd, path: &Path, flags: OFlag, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags).resolve(resolve);
    Ok(openat2(from, path, how)?)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// The path of what is open, as the kernel knows it now; for comparing it with others of the kernel's.
pub fn current_path(open: impl AsFd) -> io::Result<PathBuf> {
    let path = fs::read_link(path_of(&open))?;
    let is_gone = path.as_os_str().as_bytes().ends_with(OsStr::new(" (deleted)").as_bytes());
    if is_gone { Err(io::Error::from(io::ErrorKind::NotFound)) } else { Ok(path) }
}

#[cfg(test)]
pub mod fake {
    use super::*;

    /// A source of tests: what is called `path`, without being there.
    pub fn file(path: &str) -> Pinned {
        Pinned { path: path.into(), ..Pinned::open(Path::new("/")).unwrap() }
    }

    /// As [`file`], in memory.
    pub fn in_memory(path: &str) -> Pinned {
        Pinned { path: path.into(), ..Pinned::open(Path::new("/dev")).unwrap() }
    }

    /// As [`file`], a socket.
    pub fn socket(path: &str) -> Socket {
        let Pinned { file: parent, path } = file(path);
        Socket::fake(parent, path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_of_proc_is_no_way_to_a_source() {
        let error = Source::resolve(Path::new("/proc/self/cwd")).unwrap_err().to_string();
        assert!(error.contains("mount source /proc/self/cwd"), "{error}");
    }

    #[test]
    fn links_lead_nowhere_beneath() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        symlink("/etc", top.path().join("link")).unwrap();
        symlink("a", top.path().join("inside")).unwrap();
        let top = Pinned::open(top.path()).unwrap();
        assert!(beneath(&top, Path::new("a/b")).is_ok());
        for path in ["link", "link/ssl", "inside/b", "../x", "/etc"] {
            assert!(beneath(&top, Path::new(path)).is_err(), "{path}");
        }
    }
}
