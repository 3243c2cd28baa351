//! Files of the host that somebody else named: each path is resolved once, here.
//!
//! A container may be able to write a directory that leads to its own volume, and can put a link there at any time. So a
//! path becomes a descriptor when the container is created, and nothing looks at the path again: it is kept for messages only.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat},
    sys::stat::{FileStat, SFlag, fstat},
};

use super::mount;
use crate::error::{Error, Result};

/// Where this process's descriptors have paths. Source: proc_pid_fd(5).
pub const DESCRIPTORS: &str = "/proc/self/fd";

/// Links that one path may lead through. Source: path_resolution(7).
const LINKS: usize = 40;

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

/// A unix socket: its directory, held by a descriptor, and its name there. A server that starts anew makes a new file of
/// that name.
#[derive(Debug, Clone)]
pub struct Socket {
    parent: Arc<OwnedFd>,
    name: OsString,
    path: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
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
}

impl Pinned {
    /// Opens `path`, which must be absolute, for naming it only. Links are followed, but for those of /proc that lead
    /// anywhere without a path.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(path: &Path) -> io::Result<Pinned> {
        let file = open_at(nix::fcntl::AT_FDCWD, path, OFlag::empty(), ResolveFlag::RESOLVE_NO_MAGICLINKS)?;
        Ok(Pinned { file: Arc::new(file), path: path.to_owned() })
    }

    /// Opens `path` as [`Pinned::open`] does.
    ///
    /// # Errors
    /// The file system's; when it is no directory.
    pub fn open_directory(path: &Path) -> io::Result<Pinned> {
        let opened = Pinned::open(path)?;
        match kind(&fstat(&*opened.file)?) {
            SFlag::S_IFDIR => Ok(opened),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
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

impl Socket {
    /// Finds the directory and the name of the socket that `path` leads to, which `stat` describes: link by link, each
    /// looked at once.
    fn find(path: &Path, stat: &FileStat) -> io::Result<Socket> {
        let (mut parent, mut name) = split(nix::fcntl::AT_FDCWD, path)?;
        for _ in 0..LINKS {
            match readlinkat(&parent, name.as_os_str()) {
                Ok(target) => (parent, name) = split(&parent, Path::new(&target))?,
                Err(Errno::EINVAL) => {
                    let socket = Socket {
                        parent: Arc::new(parent),
                        name,
                        path: path.to_owned(),
                        mode: stat.st_mode & 0o777,
                        uid: stat.st_uid,
                        gid: stat.st_gid,
                    };
                    let found = fstat(socket.open()?)?;
                    let same = (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino);
                    return if same { Ok(socket) } else { Err(changed()) };
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::ELOOP.into())
    }

    /// The path by which it was found, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket that has the name now; connect to it by its path among [`DESCRIPTORS`]. It may hang with the file system.
    ///
    /// # Errors
    /// When nothing has the name, or something that is no socket: a link above all.
    pub fn open(&self) -> io::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let file = open_at(&*self.parent, Path::new(&self.name), OFlag::O_NOFOLLOW, resolve)?;
        match kind(&fstat(&file)?) {
            SFlag::S_IFSOCK => Ok(file),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no longer a socket")),
        }
    }
}

/// The path that leads this process to what is open.
pub fn path_of(open: impl AsFd) -> PathBuf {
    Path::new(DESCRIPTORS).join(open.as_fd().as_raw_fd().to_string())
}

/// Opens `path` below `top`, through mounts but not through links.
pub fn beneath(top: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    open_at(top, path, OFlag::empty(), resolve)
}

/// The directory of what `path` names, and its name there.
fn split(from: impl AsFd, path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let Some(Component::Normal(name)) = path.components().next_back() else { return Err(changed()) };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = open_at(from, parent, OFlag::O_DIRECTORY, ResolveFlag::RESOLVE_NO_MAGICLINKS)?;
    Ok((parent, name.to_owned()))
}

fn open_at(from: impl AsFd, path: &Path, flags: OFlag, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags).resolve(resolve);
    Ok(openat2(from, path, how)?)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn changed() -> io::Error {
    io::Error::other("it changed while it was looked up")
}

/// The path of what is open, as the kernel knows it now; for comparing it with others of the kernel's.
pub fn current_path(open: impl AsFd) -> io::Result<PathBuf> {
    let path = fs::read_link(path_of(open))?;
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

    /// As [`file`], a socket.
    pub fn socket(path: &str) -> Socket {
        let Pinned { file: parent, path } = file(path);
        Socket { parent, name: "none".into(), path, mode: 0o600, uid: 0, gid: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{
        fs::symlink,
        net::{UnixListener, UnixStream},
    };

    use super::*;

    fn socket(path: &Path) -> Socket {
        match Source::resolve(path).unwrap() {
            Source::Socket(socket) => socket,
            other => panic!("{other:?} is no socket"),
        }
    }

    #[test]
    fn a_socket_is_found_through_links_and_dialled() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        let server = UnixListener::bind(dir.path().join("real/server.sock")).unwrap();
        symlink("real", dir.path().join("linked")).unwrap();
        symlink("linked/server.sock", dir.path().join("short")).unwrap();
        let open = socket(&dir.path().join("short")).open().unwrap();
        UnixStream::connect(path_of(&open)).unwrap();
        server.accept().unwrap();
    }

    #[test]
    fn a_server_may_make_its_socket_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.sock");
        drop(UnixListener::bind(&path).unwrap());
        let socket = socket(&path);
        fs::remove_file(&path).unwrap();
        assert!(socket.open().is_err());
        let _server = UnixListener::bind(&path).unwrap();
        let open = socket.open().unwrap();
        UnixStream::connect(path_of(&open)).unwrap();
    }

    #[test]
    fn a_socket_that_became_a_link_or_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("server.sock"), dir.path().join("other.sock"));
        let _servers = [UnixListener::bind(&path).unwrap(), UnixListener::bind(&other).unwrap()];
        let socket = socket(&path);
        for replace in [|path: &Path| symlink("other.sock", path), |path: &Path| fs::write(path, "")] {
            fs::remove_file(&path).unwrap();
            replace(&path).unwrap();
            assert!(socket.open().is_err());
        }
    }

    #[test]
    fn a_socket_stays_the_one_of_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["run", "secret"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let _server = UnixListener::bind(dir.path().join("run/server.sock")).unwrap();
        let secret = UnixListener::bind(dir.path().join("secret/server.sock")).unwrap();
        secret.set_nonblocking(true).unwrap();
        let socket = socket(&dir.path().join("run/server.sock"));
        fs::rename(dir.path().join("run"), dir.path().join("moved")).unwrap();
        symlink("secret", dir.path().join("run")).unwrap();
        let open = socket.open().unwrap();
        UnixStream::connect(path_of(&open)).unwrap();
        assert_eq!(secret.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

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
