//! Makes what an entry says, in its parent.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, chmodat, chownat, linkat, makedev, mknodat, openat, symlinkat,
    unlinkat, utimensat,
};

use super::{
    kind::Kind,
    meta::{Meta, times},
    name::Name,
    pax::Records,
    tree::{Before, Tree, before, make_directory, open_directory},
    whiteout::Whiteout,
};
use crate::{
    error::EntryError,
    limits::{Budget, MAX_NAMES},
};

/// The parts of a device's number that the kernel keeps.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// Unpacks one entry after the other.
pub(super) struct Unpacker<'a> {
    tree: Tree<'a>,
    budget: &'a Budget,
    /// Directories get their times at the end: what is made in them changes these.
    directories: Vec<(Vec<u8>, Timespec)>,
    /// How many bytes their names have.
    names: usize,
    buffer: Box<[u8]>,
}

impl<'a> Unpacker<'a> {
    pub fn new(tree: Tree<'a>, budget: &'a Budget) -> Self {
        Unpacker { tree, budget, directories: Vec::new(), names: 0, buffer: vec![0; 128 << 10].into() }
    }

    pub fn unpack<R: Read>(
        &mut self,
        entry: &mut tar::Entry<R>,
        records: &Records,
    ) -> Result<(), EntryError> {
        self.budget.entry().map_err(io::Error::other)?;
        let bytes = match records.get("path") {
            Some(path) => path.to_vec(),
            None => entry.path_bytes().into_owned(),
        };
        let kind = Kind::new(entry.header().entry_type(), &bytes)?;
        if kind == Kind::Ignored {
            return Ok(());
        }
        if records.with_prefix("GNU.sparse.").next().is_some() {
            return Err(EntryError::Header("a sparse file in PAX format; those in GNU format are allowed"));
        }
        let sparse = entry.header().entry_type() == tar::EntryType::GNUSparse;
        if !sparse && records.number("size")?.is_some_and(|size| size != entry.size()) {
            return Err(EntryError::Header("two sizes that differ"));
        }
        let meta = Meta::new(entry.header(), records)?;
        let Some(name) = Name::parse(&bytes)? else {
            if kind != Kind::Directory {
                return Err(EntryError::Top);
            }
            meta.apply(self.tree.top())?;
            return self.later(bytes, meta.mtime);
        };
        if Whiteout::parse(&name)?.apply(&self.tree, &name)? {
            return Ok(());
        }
        let parent = self.tree.make_parent(&name)?;
        let (last, before) = (name.last.as_os_str(), before(&parent, &name.last)?);
        match kind {
            Kind::Directory => {
                directory(&parent, last, before, &meta)?;
                return self.later(bytes, meta.mtime);
            }
            _ => clear(&parent, last, before)?,
        }
        match kind {
            Kind::File => self.file(entry, &parent, last, &meta, sparse),
            Kind::Symlink => symlink(&link_name(entry, records)?, &parent, last, &meta),
            Kind::HardLink => self.hard_link(&link_name(entry, records)?, &parent, last),
            Kind::Character => node(&parent, last, FileType::CharacterDevice, device(entry.header())?, &meta),
            Kind::Block => node(&parent, last, FileType::BlockDevice, device(entry.header())?, &meta),
            _ => node(&parent, last, FileType::Fifo, 0, &meta),
        }
    }

    /// Keeps the time of a directory.
    fn later(&mut self, name: Vec<u8>, mtime: Timespec) -> Result<(), EntryError> {
        self.names += name.len();
        if self.names > MAX_NAMES {
            return Err(EntryError::Header(
                "directories with more than 256 MiB of names; no more are allowed",
            ));
        }
        self.directories.push((name, mtime));
        Ok(())
    }

    /// What is left when all entries are there. An error comes with the entry's name.
    pub fn finish(self) -> Result<(), (Vec<u8>, EntryError)> {
        for (bytes, mtime) in self.directories {
            let done = match Name::parse(&bytes) {
                Ok(None) => rustix::fs::futimens(self.tree.top(), &times(mtime)).map_err(EntryError::from),
                Ok(Some(name)) => self.tree.parent(&name).and_then(|parent| {
                    Ok(utimensat(&parent, &name.last, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
                }),
                Err(why) => Err(why),
            };
            done.map_err(|why| (bytes, why))?;
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut tar::Entry<R>,
        parent: &OwnedFd,
        last: &OsStr,
        meta: &Meta,
        sparse: bool,
    ) -> Result<(), EntryError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(parent, last, flags, Mode::from_raw_mode(0o600))?);
        let size = entry.size();
        if sparse {
            // Its holes are not in the archive, but who reads it gets them.
            self.budget.bytes(size).map_err(io::Error::other)?;
        }
        let mut written = 0;
        loop {
            let read = match entry.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let bytes = &self.buffer[..read];
            if sparse && bytes.iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Current(read as i64))?;
            } else {
                file.write_all(bytes)?;
            }
            written += read as u64;
        }
        if written != size {
            return Err(EntryError::Header("content that is cut off"));
        }
        if sparse {
            file.set_len(size)?;
        }
        meta.apply(&file)
    }

    /// The same file under another name: one of this layer's, itself if it is a link.
    fn hard_link(&self, target: &[u8], parent: &OwnedFd, last: &OsStr) -> Result<(), EntryError> {
        let target = Name::parse(target)?.ok_or(EntryError::Top)?;
        let directory = self.tree.parent(&target)?;
        Ok(linkat(&directory, &target.last, parent, last, AtFlags::empty())?)
    }
}

/// Makes a directory, or takes the one that is there.
fn directory(parent: &OwnedFd, last: &OsStr, before: Before, meta: &Meta) -> Result<(), EntryError> {
    let directory = match before {
        Before::Directory => open_directory(parent, last)?,
        before => {
            if before == Before::Other {
                unlinkat(parent, last, AtFlags::empty())?;
            }
            make_directory(parent, last, before)?
        }
    };
    meta.apply(&directory)
}

/// Takes away what has the name of an entry: the later one of an archive counts.
fn clear(parent: &OwnedFd, last: &OsStr, before: Before) -> Result<(), EntryError> {
    match before {
        Before::Nothing => Ok(()),
        Before::Directory => Err(EntryError::Replaces),
        Before::Whiteout | Before::Other => Ok(unlinkat(parent, last, AtFlags::empty())?),
    }
}

fn symlink(target: &[u8], parent: &OwnedFd, last: &OsStr, meta: &Meta) -> Result<(), EntryError> {
    if target.contains(&0) {
        return Err(EntryError::Nul);
    }
    symlinkat(OsStr::from_bytes(target), parent, last)?;
    own(parent, last, meta)?;
    Ok(utimensat(parent, last, &meta.times(), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn node(parent: &OwnedFd, last: &OsStr, kind: FileType, number: u64, meta: &Meta) -> Result<(), EntryError> {
    mknodat(parent, last, kind, Mode::empty(), number)?;
    own(parent, last, meta)?;
    // It was made just now, in a directory of nobody else: it is no link.
    chmodat(parent, last, meta.mode, AtFlags::empty())?;
    Ok(utimensat(parent, last, &meta.times(), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn own(parent: &OwnedFd, last: &OsStr, meta: &Meta) -> Result<(), EntryError> {
    Ok(chownat(parent, last, Some(meta.uid), Some(meta.gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn device(header: &tar::Header) -> Result<u64, EntryError> {
    const BAD: EntryError = EntryError::Header("a device without a number that the kernel knows");
    let part = |number: io::Result<Option<u32>>, most| {
        number.ok().flatten().filter(|number| *number <= most).ok_or(BAD)
    };
    Ok(makedev(part(header.device_major(), MAX_MAJOR)?, part(header.device_minor(), MAX_MINOR)?))
}

fn link_name<R: Read>(entry: &tar::Entry<R>, records: &Records) -> Result<Vec<u8>, EntryError> {
    match (records.get("linkpath"), entry.link_name_bytes()) {
        (Some(name), _) => Ok(name.to_vec()),
        (None, Some(name)) => Ok(name.into_owned()),
        (None, None) => Err(EntryError::Header("a link to no name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_directories_are_limited() {
        let (top, budget) = (tempfile::tempdir().unwrap(), Budget::new(0));
        let mut unpacker = Unpacker::new(Tree::open(top.path(), &budget).unwrap(), &budget);
        let mtime = Timespec { tv_sec: 0, tv_nsec: 0 };
        unpacker.names = MAX_NAMES - 1;
        unpacker.later(vec![b'a'], mtime).unwrap();
        assert!(matches!(unpacker.later(vec![b'a'], mtime), Err(EntryError::Header(_))));
    }
}
