//! A mount tree that is made and given its flags before it is put anywhere. Source: open_tree(2),
//! mount_setattr(2), move_mount(2).

#![expect(clippy::disallowed_methods, reason = "descriptors with empty paths")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use linux::mount_tree::{self, Attributes};
use nix::errno::Errno;

use super::ReadOnly;

pub use linux::mount_tree::{clone, map_owners};

/// Takes devices and set-user-id programs from `tree`, and writing if so asked, and cuts it off
/// from what is mounted below its source later.
pub fn restrict(tree: &OwnedFd, recursive: bool, read_only: ReadOnly) -> io::Result<()> {
    let everywhere = match read_only {
        ReadOnly::All => libc::MOUNT_ATTR_RDONLY,
        ReadOnly::Nothing | ReadOnly::Top => 0,
    };
    let attributes = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | everywhere;
    set_attributes(tree, recursive, attributes, libc::MS_PRIVATE)?;
    match read_only {
        ReadOnly::Top => set_attributes(tree, false, libc::MOUNT_ATTR_RDONLY, 0),
        ReadOnly::Nothing | ReadOnly::All => Ok(()),
    }
}

/// Cuts `tree` off from what is mounted and unmounted elsewhere.
pub fn isolate(tree: &OwnedFd) -> io::Result<()> {
    set_attributes(tree, true, 0, libc::MS_PRIVATE)
}

/// Has what is mounted and unmounted where `tree` was copied from be so in it as well, and nothing go back.
pub fn follow(tree: &OwnedFd) -> io::Result<()> {
    set_attributes(tree, true, 0, libc::MS_SLAVE)
}

/// Has what is mounted on the mount `tree`, in the calling thread's namespace, appear in the namespaces that copy it.
pub fn propagate(tree: &OwnedFd) -> io::Result<()> {
    set_attributes(tree, false, 0, libc::MS_SHARED)
}

/// Sets attributes (`MOUNT_ATTR_…`) and the propagation (`MS_PRIVATE` and its like, 0 for none) of the mount whose root is
/// open, with those below it if so asked.
pub fn set_attributes(root: impl AsFd, recursive: bool, set: u64, propagation: u64) -> io::Result<()> {
    mount_tree::set_attributes(root, recursive, Attributes { set, clear: 0, propagation })
}

/// Mounts `tree` on the directory or file that is open as `target`.
pub fn attach(tree: &OwnedFd, target: impl AsFd) -> io::Result<()> {
    let empty = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: two descriptors with empty C strings for paths.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            empty,
        )
    };
    Errno::result(result)?;
    Ok(())
}
