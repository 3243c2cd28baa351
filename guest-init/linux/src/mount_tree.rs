//! Mounts that are nowhere yet: copied, and given their flags before they are put anywhere. Source: open_tree(2),
//! mount_setattr(2).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use nix::errno::Errno;

/// What changes of a mount: attributes (`MOUNT_ATTR_…`) that are set and cleared, and its propagation (`MS_PRIVATE` and its like, 0
/// for none).
#[derive(Debug, Default, Clone, Copy)]
pub struct Attributes {
    /// Set.
    pub set: u64,
    /// Cleared.
    pub clear: u64,
    /// The new propagation.
    pub propagation: u64,
}

fn recursively(recursive: bool) -> libc::c_int {
    if recursive { libc::AT_RECURSIVE } else { 0 }
}

/// A detached copy of what is open: a directory, with what is mounted below it if so asked, or a file.
///
/// # Errors
/// The kernel's.
pub fn clone(source: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_EMPTY_PATH | recursively(recursive)) as libc::c_uint;
    let source = source.as_fd().as_raw_fd();
    // SAFETY: the path is a C string that outlives the call.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, source, c"".as_ptr(), flags) };
    let tree = Errno::result(tree)?;
    // SAFETY: the call gave a descriptor that is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(tree as RawFd) })
}

/// Changes the mount whose root is open, with those below it if so asked.
///
/// # Errors
/// The kernel's.
pub fn set_attributes(root: impl AsFd, recursive: bool, change: Attributes) -> io::Result<()> {
    let Attributes { set, clear, propagation } = change;
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    change_mount(root, recursive, &attributes)
}

/// Has the files of a tree that is nowhere yet, with what is mounted below it if so asked, belong to others: an id of the file system
/// is what it is outside of the user namespace.
///
/// # Errors
/// The kernel's: EINVAL for a file system that cannot, EPERM for a mount that has such owners already.
pub fn map_owners(tree: impl AsFd, recursive: bool, users: impl AsFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_fd().as_raw_fd() as u64,
    };
    change_mount(tree, recursive, &attributes)
}

fn change_mount(root: impl AsFd, recursive: bool, attributes: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: an empty C string, and a structure of the size that is given with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            root.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursively(recursive),
            &raw const *attributes,
            size_of_val(attributes),
        )
    };
    Errno::result(result)?;
    Ok(())
}
