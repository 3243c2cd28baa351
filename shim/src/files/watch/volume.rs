//! A watched volume: marks on its directories, or on the file that it is, and the way from an event back to a path in it.

use std::{
    fs::File,
    io,
    os::{
        fd::AsFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sys::{
    fanotify::{Fanotify, MarkFlags, MaskFlags},
    stat::fstat,
    statfs::fstatfs,
};
use rustix::fs::{Dir, FileType};

use super::{
    NAMES, handle,
    tops::{Top, Tops},
};
use crate::{
    bundle::FileVolume,
    files::{
        mount::{ReadOnly, tree},
        pin,
    },
};

/// What is heard of in a directory.
const IN_DIRECTORY: MaskFlags = NAMES
    .union(MaskFlags::FAN_MODIFY)
    .union(MaskFlags::FAN_ATTRIB)
    .union(MaskFlags::FAN_ONDIR)
    .union(MaskFlags::FAN_EVENT_ON_CHILD);

/// What is heard of a file that is a volume.
const OF_FILE: MaskFlags = MaskFlags::FAN_MODIFY.union(MaskFlags::FAN_ATTRIB);

/// File systems whose changes come from elsewhere, or whose directories are mounted when they are looked at: NFS, CIFS, SMB, Ceph, 9P, FUSE,
/// autofs. Source: statfs(2), linux/magic.h.
const ELSEWHERE: [libc::__fsword_t; 7] =
    [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400, 0x0102_1997, 0x6573_5546, 0x0187];

/// A watched volume.
#[derive(Debug)]
pub struct Volume {
    number: u32,
    top: Arc<Top>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A mount of its own, which is mounted nowhere: what is in it has paths from its top.
    Directory(File),
    /// By its handle.
    File(Vec<u8>),
}

impl Volume {
    /// Has `group` hear of what changes at the top of `volume`.
    ///
    /// # Errors
    /// When its file system cannot be watched.
    pub fn watch(group: &Fanotify, number: u32, volume: &FileVolume, tops: &Tops) -> io::Result<Volume> {
        let stat = fstat(&volume.source)?;
        if ELSEWHERE.contains(&fstatfs(&volume.source)?.filesystem_type().0) {
            return Err(io::Error::other(
                "its file system is another machine's or program's, and tells of its own changes only",
            ));
        }
        let kind = if volume.is_directory {
            // With what is mounted in it: what that hides is none of the guest's business. But a copy of it would keep what the
            // host unmounts in a volume that follows the host.
            let recursive = volume.recursive && !volume.follows;
            let mount = tree::clone(&volume.source, recursive)?;
            tree::restrict(&mount, recursive, ReadOnly::All)?;
            let mount = pin::list(&mount, Path::new(""))?;
            // Else no event leads back to a path.
            handle::open(&mount, &handle::of(&mount)?)?;
            mark(group, &mount, IN_DIRECTORY)?;
            Kind::Directory(mount)
        } else {
            mark(group, &volume.source, OF_FILE)?;
            Kind::File(handle::of(&volume.source)?)
        };
        Ok(Volume { number, top: tops.enter((stat.st_dev, stat.st_ino)), kind })
    }

    /// Its number among the container's volumes.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether the sandbox has other volumes with the same top.
    pub fn is_shared(&self) -> bool {
        self.top.is_shared()
    }

    /// Whether it is the file with this handle.
    pub fn is_file(&self, handle: &[u8]) -> bool {
        matches!(&self.kind, Kind::File(own) if own == handle)
    }

    /// The path of the directory with this handle, if that is in the volume now: what the path leads to is compared.
    pub fn path_of(&self, handle: &[u8]) -> Option<Vec<u8>> {
        let Kind::Directory(mount) = &self.kind else { return None };
        let directory = handle::open(mount, handle).ok()?;
        let path = pin::current_path(&directory).ok()?;
        let path = path.strip_prefix("/").ok()?;
        let there = pin::in_mount(mount, path).ok()?;
        let [one, other] = [fstat(&directory).ok()?, fstat(&there).ok()?];
        let is_same = (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino);
        is_same.then(|| path.as_os_str().as_bytes().to_vec())
    }

    /// Has `group` hear of what changes in the directory `path` and in all below it, `left` at most. `found` is told each name
    /// that is there, with the path of its directory.
    pub fn mark_below(
        &self,
        group: &Fanotify,
        path: &Path,
        left: &mut usize,
        mut found: impl FnMut(&[u8], &[u8]),
    ) {
        let Kind::Directory(mount) = &self.kind else { return };
        let mut directories = vec![path.to_owned()];
        while let Some(path) = directories.pop() {
            if *left == 0 {
                return;
            }
            // What waits to be marked is bounded as what is.
            let room = left.saturating_sub(directories.len() + 1);
            let Ok(below) = self.mark_one(group, mount, &path, room, &mut found) else { continue };
            *left -= 1;
            match below {
                Some(below) => directories.extend(below),
                None => *left = 0,
            }
        }
    }

    /// As [`Volume::mark_below`], for one directory. Gives those in it; none when there are more than `room`.
    fn mark_one(
        &self,
        group: &Fanotify,
        mount: &File,
        path: &Path,
        room: usize,
        found: &mut impl FnMut(&[u8], &[u8]),
    ) -> io::Result<Option<Vec<PathBuf>>> {
        let directory = pin::list(mount, path)?;
        // Before it is read: what is made later is heard of.
        mark(group, &directory, IN_DIRECTORY)?;
        let mut below = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            found(path.as_os_str().as_bytes(), name);
            // Some file systems do not say; whatever is no directory is not opened.
            if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                if below.len() == room {
                    return Ok(None);
                }
                below.push(path.join(std::ffi::OsString::from_vec(name.to_vec())));
            }
        }
        Ok(Some(below))
    }
}

fn mark(group: &Fanotify, open: impl AsFd, mask: MaskFlags) -> io::Result<()> {
    // A descriptor of a file that names it only is taken with its path.
    let path = pin::path_of(&open);
    Ok(group.mark(MarkFlags::FAN_MARK_ADD, mask, nix::fcntl::AT_FDCWD, Some(&path))?)
}
