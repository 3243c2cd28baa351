//! The directory that a layer is unpacked into.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, XattrFlags, fsetxattr, mkdirat, openat, openat2,
        statat, unlinkat,
    },
    io::Errno,
};

use super::name::Name;
use crate::{error::EntryError, limits::Budget};

/// What has a name before an entry gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    Directory,
    Whiteout,
    Other,
}

/// A directory that is reached by itself only, never by a path of an archive.
pub(super) struct Tree<'a> {
    top: OwnedFd,
    budget: &'a Budget,
}

impl<'a> Tree<'a> {
    pub fn open(top: &Path, budget: &'a Budget) -> io::Result<Tree<'a>> {
        let top = openat(CWD, top, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // Unless the layer says otherwise. The store keeps others out.
        rustix::fs::fchmod(&top, Mode::from_raw_mode(0o755))?;
        Ok(Tree { top, budget })
    }

    pub fn top(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// The directory that `name` is in. It must be there.
    pub fn parent(&self, name: &Name) -> Result<OwnedFd, EntryError> {
        beneath(&self.top, &name.parent).map_err(|errno| match errno {
            Errno::LOOP => EntryError::Link,
            Errno::NOTDIR => EntryError::NotDirectory,
            errno => errno.into(),
        })
    }

    /// The directory that `name` is in. What is missing on the way is made.
    pub fn make_parent(&self, name: &Name) -> Result<OwnedFd, EntryError> {
        match beneath(&self.top, &name.parent) {
            Ok(found) => return Ok(found),
            // A whiteout may be on the way, of which the layer has a directory after all.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(_) => return self.parent(name),
        }
        let mut directory = beneath(&self.top, ".".as_ref())?;
        for part in name.parents() {
            let before = before(&directory, part)?;
            if matches!(before, Before::Nothing | Before::Whiteout) {
                self.budget.entry().map_err(io::Error::other)?;
                make_directory(&directory, part, before)?;
            }
            directory = match beneath(&directory, part) {
                Ok(found) => found,
                Err(Errno::LOOP) => return Err(EntryError::Link),
                Err(Errno::NOTDIR) => return Err(EntryError::NotDirectory),
                Err(errno) => return Err(errno.into()),
            };
        }
        Ok(directory)
    }
}

/// Makes an empty directory, in the place of a whiteout if there is one: then nothing of the layers below appears in it.
/// Returns it open for changing it.
pub(super) fn make_directory(parent: &OwnedFd, last: &OsStr, before: Before) -> Result<OwnedFd, EntryError> {
    if before == Before::Whiteout {
        unlinkat(parent, last, AtFlags::empty())?;
    }
    mkdirat(parent, last, Mode::from_raw_mode(0o755))?;
    let made = open_directory(parent, last)?;
    // The process's mask does not count.
    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
    if before == Before::Whiteout {
        make_opaque(&made)?;
    }
    Ok(made)
}

/// Opens a directory for changing it.
pub(super) fn open_directory(parent: &OwnedFd, last: &OsStr) -> Result<OwnedFd, EntryError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, last, flags, Mode::empty())?)
}

/// Nothing of the layers below appears in `directory`.
pub(super) fn make_opaque(directory: &OwnedFd) -> Result<(), EntryError> {
    Ok(fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())?)
}

/// What is at `last`, itself if it is a link.
pub(super) fn before(parent: &OwnedFd, last: &OsStr) -> Result<Before, EntryError> {
    let found = match statat(parent, last, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(Before::Nothing),
        Err(errno) => return Err(errno.into()),
    };
    Ok(match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => Before::Directory,
        FileType::CharacterDevice if found.st_rdev == 0 => Before::Whiteout,
        _ => Before::Other,
    })
}

/// The directory at `path`, for naming what is in it: below `top`, through no link.
fn beneath(top: &OwnedFd, path: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(top, path, flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_top_directory_or_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let top = OwnedFd::from(std::fs::File::open(dir.path().join("a")).unwrap());
        beneath(&top, "b".as_ref()).unwrap();
        for out in ["..", "../a", "b/../..", "/", "/etc"] {
            assert_eq!(beneath(&top, out.as_ref()).err(), Some(Errno::XDEV), "{out}");
        }
        let above = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        for link in ["link", "link/b"] {
            assert!(matches!(beneath(&above, link.as_ref()), Err(Errno::LOOP | Errno::NOTDIR)), "{link}");
        }
    }
}
