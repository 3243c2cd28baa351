//! Where a sandbox's server listens. `start` writes the address into each container's bundle, `delete` reads it there:
//! the directory of the socket is containerd's to choose, and only `start` is told.

#![expect(clippy::disallowed_methods, reason = "sockets and bundles are in directories of containerd's")]

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::fs::FileTypeExt},
    path::{Path, PathBuf},
};

use containerd_shim::socket_address;
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
};

use crate::{
    error::{Error, Result},
    id,
};

/// The file in a bundle. containerd reads it too when it restarts. Source: containerd `core/runtime/v2/shim.go`.
pub const FILE: &str = "address";

/// What an address begins with.
const SCHEME: &str = "unix://";

/// The address of `sandbox`'s server, in `dir` or in containerd's usual directory.
///
/// # Errors
/// `INVALID_ARGUMENT` for a directory that is not an absolute path.
pub fn compute(containerd: &str, namespace: &str, sandbox: &str, dir: Option<&str>) -> Result<String> {
    let usual = socket_address(containerd, namespace, sandbox);
    let Some(dir) = dir else { return Ok(usual) };
    if !dir.starts_with('/') {
        return Err(Error::invalid(format!("socket_dir {dir:?}: must be an absolute path")));
    }
    let name = usual.rsplit('/').next().unwrap_or(&usual);
    Ok(format!("{SCHEME}{}/{name}", dir.trim_end_matches('/')))
}

/// The socket's path.
pub fn socket_path(address: &str) -> &Path {
    Path::new(address.strip_prefix(SCHEME).unwrap_or(address))
}

/// Notes the address in `bundle`.
///
/// # Errors
/// The file system's, naming the file.
pub fn write(bundle: &Path, address: &str) -> Result<()> {
    let file = bundle.join(FILE);
    fs::write(&file, address).map_err(|e| Error::internal(format!("write {}", file.display())).because(e))
}

/// The addresses that were noted for a container: in its own bundle, and in that of its sandbox, which lies beside it.
/// A container's own may be missing, when its `start` was killed.
pub fn noted(bundle: &Path, sandbox: &str) -> Vec<String> {
    // The name comes from an annotation.
    let is_name = id::check("sandbox", sandbox).is_ok();
    let sandboxs = bundle.parent().filter(|_| is_name).map(|dir| dir.join(sandbox));
    let mut found: Vec<_> =
        [Some(bundle.to_owned()), sandboxs].into_iter().flatten().filter_map(read).collect();
    found.dedup();
    found
}

fn read(bundle: PathBuf) -> Option<String> {
    let address = fs::read_to_string(bundle.join(FILE)).ok()?;
    let address = address.trim();
    socket_path(address).is_absolute().then(|| address.to_owned())
}

/// Whether a server listens at `address`. One that is too busy to take the connection does.
pub fn is_served(address: &str) -> bool {
    let connected =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
            .and_then(|client| connect(client.as_raw_fd(), &UnixAddr::new(socket_path(address))?));
    matches!(connected, Ok(()) | Err(Errno::EAGAIN))
}

/// Removes the socket that a dead server left; a file of another kind stays.
///
/// # Errors
/// The file system's.
pub fn remove_socket(address: &str) -> io::Result<()> {
    let path = socket_path(address);
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_keeps_its_name_in_another_directory() {
        let usual = compute("/run/c.sock", "default", "a", None).unwrap();
        let name = usual.rsplit('/').next().unwrap();
        let elsewhere = compute("/run/c.sock", "default", "a", Some("/run/s/")).unwrap();
        assert_eq!(elsewhere, format!("unix:///run/s/{name}"));
        let error = compute("/run/c.sock", "default", "a", Some("s")).unwrap_err().to_string();
        assert!(error.contains("socket_dir \"s\": must be an absolute path"), "{error}");
    }

    #[test]
    fn a_members_address_is_also_its_sandboxs() {
        let tasks = tempfile::tempdir().unwrap();
        let (member, pod) = (tasks.path().join("app"), tasks.path().join("pod"));
        for bundle in [&member, &pod] {
            fs::create_dir(bundle).unwrap();
        }
        assert!(noted(&member, "pod").is_empty());
        write(&pod, "unix:///run/s/a").unwrap();
        assert_eq!(noted(&member, "pod"), ["unix:///run/s/a"]);
        write(&member, "unix:///run/s/b\n").unwrap();
        assert_eq!(noted(&member, "pod"), ["unix:///run/s/b", "unix:///run/s/a"]);
    }

    #[test]
    fn no_annotation_leads_out_of_the_tasks() {
        let root = tempfile::tempdir().unwrap();
        let bundle = root.path().join("tasks/app");
        fs::create_dir_all(&bundle).unwrap();
        write(root.path(), "unix:///run/s/a").unwrap();
        for sandbox in ["..", "../..", "", "."] {
            assert!(noted(&bundle, sandbox).is_empty(), "{sandbox}");
        }
    }

    #[test]
    fn a_busy_server_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("{SCHEME}{}", dir.path().join("s").display());
        assert!(!is_served(&address));
        let listener = UnixListener::bind(socket_path(&address)).unwrap();
        // Nobody accepts: the backlog fills up, and a client that waited would wait for ever.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        for _ in 0..8 {
            assert!(is_served(&address));
        }
        drop(listener);
        assert!(!is_served(&address));
    }

    #[test]
    fn only_sockets_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        remove_socket(&format!("{SCHEME}{}", file.display())).unwrap();
        assert!(file.exists());
        let socket = dir.path().join("socket");
        drop(UnixListener::bind(&socket).unwrap());
        remove_socket(&format!("{SCHEME}{}", socket.display())).unwrap();
        assert!(!socket.exists());
    }
}
