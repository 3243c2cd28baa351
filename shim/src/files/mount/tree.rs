//! A mount tree that is made and given its flags before it is put anywhere. Source: open_tree(2),
//! mount_setattr(2), move_mount(2).

#![expect(clippy::disallowed_methods, reason = "descriptors with empty paths")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use nix::errno::Errno;

use super::ReadOnly;

fn recursively(recursive: bool) -> libc::c_int {
    if recursive { libc::AT_RECURSIVE } else { 0 }
}

/// A detached copy of what is open: a directory with what is below it, or a file.
pub fn clone(source: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_EMPTY_PATH | recursively(recursive)) as libc::c_uint;
    let source = source.as_fd().as_raw_fd();
    // SAFETY: the path is a C string that outlives the call.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, source, c"".as_ptr(), flags) };
    let tree = Errno::result(tree)?;
    // SAFETY: the call gave a descriptor that is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(tree as i32) })
}

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
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 };
    // SAFETY: an empty C string, and a structure of the size that is given with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            root.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursively(recursive),
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    Errno::result(result)?;
    Ok(())
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
