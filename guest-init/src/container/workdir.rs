//! A working directory that a container lacks. runc makes it, as root, when all is mounted and before the root becomes read-only.
//! libcontainer does not, so a container that was refused for it is made once more, with a [hook](super::hook) that does.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Makes a directory and those above it, beneath a root whose owner may have put links anywhere.
pub fn make(root: &Path, path: &Path) -> io::Result<()> {
    let root = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(root)?;
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => drop(names.pop()),
            _ => {}
        }
    }
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(resolve);
    let mut parent = openat2(&root, ".", how)?;
    for end in 1..=names.len() {
        let path: std::path::PathBuf = names[..end].iter().collect();
        parent = match openat2(&root, &path, how) {
            Err(Errno::ENOENT) => {
                mkdirat(parent.as_fd(), names[end - 1], Mode::from_bits_truncate(0o755))?;
                openat2(&root, &path, how)?
            }
            opened => opened?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_missing_is_made_beneath_the_root() {
        let root = std::env::temp_dir().join(format!("krun-workdir-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("there")).unwrap();
        symlink("/there", root.join("link")).unwrap();
        symlink("/nowhere", root.join("dangling")).unwrap();
        for path in ["/a/b", "there/../c/d", "/link/e", "/there"] {
            make(&root, Path::new(path)).unwrap();
        }
        for made in ["a/b", "c/d", "there/e"] {
            assert_eq!(fs::metadata(root.join(made)).unwrap().permissions().mode() & 0o777, 0o755, "{made}");
        }
        assert!(make(&root, Path::new("/dangling/x")).is_err());
        fs::remove_dir_all(&root).unwrap();
    }
}
