//! Unix sockets of the host: a directory, and a name in it.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, readlinkat},
    sys::stat::{FileStat, SFlag, fstat},
};

use super::{BENEATH, NAMED, kind, open_at};

/// Links that one path may lead through. Source: path_resolution(7).
const LINKS: usize = 40;

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

impl Socket {
    /// Finds the directory and the name of the socket that `path` leads to, which `stat` describes: link by link, each
    /// looked at once.
    pub(super) fn find(path: &Path, stat: &FileStat) -> io::Result<Socket> {
        let (mut parent, mut name) = split(AT_FDCWD, path)?;
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

    /// The socket that has the name now; connect to it by its [path](super::path_of). It may hang with the file system.
    ///
    /// # Errors
    /// When nothing has the name, or something that is no socket: a link above all.
    pub fn open(&self) -> io::Result<OwnedFd> {
        let file = open_at(&*self.parent, Path::new(&self.name), OFlag::O_NOFOLLOW, BENEATH)?;
        match kind(&fstat(&file)?) {
            SFlag::S_IFSOCK => Ok(file),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no longer a socket")),
        }
    }
}

#[cfg(test)]
impl Socket {
    pub(super) fn fake(parent: Arc<OwnedFd>, path: PathBuf) -> Socket {
        Socket { parent, name: "none".into(), path, mode: 0o600, uid: 0, gid: 0 }
    }
}

/// The directory of what `path` names, and its name there.
pub(super) fn split(from: impl AsFd, path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let Some(Component::Normal(name)) = path.components().next_back() else { return Err(changed()) };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = open_at(from, parent, OFlag::O_DIRECTORY, NAMED)?;
    Ok((parent, name.to_owned()))
}

fn changed() -> io::Error {
    io::Error::other("it changed while it was looked up")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{
            fs::symlink,
            net::{UnixListener, UnixStream},
        },
    };

    use super::{
        super::{Source, path_of},
        *,
    };

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
}
