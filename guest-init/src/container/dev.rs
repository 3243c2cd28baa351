//! What a container's /dev has otherwise than runc makes it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat, renameat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{setfsgid, setfsuid};

/// What libcontainer calls the link that is /dev/core everywhere else, and what it leads to.
const LIBCONTAINERS: &str = "kcore";
const NAME: &str = "core";
const TARGET: &str = "/proc/kcore";

/// Gives the link to the kernel's memory its name, in the container of process `pid`, in which nothing runs yet. Where /dev is not the
/// container's own, nothing is changed. `owner` is its root's user and group: a file system of a user namespace takes nothing from
/// users whom the namespace does not have.
pub fn name_core(pid: i32, (user, group): (u32, u32)) -> std::io::Result<()> {
    let root = File::options().read(true).custom_flags(libc::O_PATH).open(format!("/proc/{pid}/root"))?;
    setfsgid(group.into());
    setfsuid(user.into());
    let done = rename(&root);
    setfsuid(0.into());
    setfsgid(0.into());
    done
}

fn rename(root: &File) -> std::io::Result<()> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dev = match openat2(root, "dev", OpenHow::new().flags(flags).resolve(resolve)) {
        Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => return Ok(()),
        opened => opened?,
    };
    let is_own = fstatfs(&dev)?.filesystem_type() == TMPFS_MAGIC;
    if is_own && readlinkat(&dev, LIBCONTAINERS).is_ok_and(|target| Path::new(&target) == Path::new(TARGET)) {
        renameat(&dev, LIBCONTAINERS, &dev, NAME)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dev_that_is_not_there_or_no_directory_is_left_alone() {
        let root = std::env::temp_dir().join(format!("krun-dev-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let open = || File::options().read(true).custom_flags(libc::O_PATH).open(&root).unwrap();
        rename(&open()).unwrap();
        std::os::unix::fs::symlink("/dev", root.join("dev")).unwrap();
        rename(&open()).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
    }
}
