//! How much of a disk layers take.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat},
    io::Errno,
};

use super::{Record, Store};
use crate::{Error, Result};

/// The unit of a file's blocks. Source: stat(2), st_blocks.
const BLOCK: u64 = 512;

impl Store {
    /// The bytes on disk of each image's layers. A layer that several images have counts for each of them.
    ///
    /// # Errors
    /// The file system's.
    pub fn sizes(&self, records: &[Record]) -> Result<Vec<u64>> {
        let mut known = HashMap::new();
        for digest in records.iter().flat_map(|record| &record.layers) {
            if !known.contains_key(digest) {
                known.insert(digest, tree_size(&self.layer_path(digest))?);
            }
        }
        let size = |record: &Record| {
            let layers: HashSet<_> = record.layers.iter().collect();
            layers.iter().filter_map(|digest| known.get(digest)).sum()
        };
        Ok(records.iter().map(size).collect())
    }
}

/// The bytes on disk of a tree, of which anything may be removed meanwhile.
pub(super) fn tree_size(path: &Path) -> Result<u64> {
    let tree =
        open(CWD, path).and_then(|top| top.map_or(Ok(0), |top| of_directory(top, &mut HashSet::new())));
    tree.map_err(Error::io(format!("measuring {}", path.display())))
}

/// Not by paths: those of deep directories are longer than any may be.
fn of_directory(directory: OwnedFd, linked: &mut HashSet<(u64, u64)>) -> rustix::io::Result<u64> {
    let mut sum = bytes_on_disk(&fstat(&directory)?);
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        let found = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            found => found?,
        };
        if FileType::from_raw_mode(found.st_mode).is_dir() {
            if let Some(below) = open(&directory, name)? {
                sum += of_directory(below, linked)?;
            }
        } else if found.st_nlink < 2 || linked.insert((found.st_dev, found.st_ino)) {
            sum += bytes_on_disk(&found);
        }
    }
    Ok(sum)
}

/// The bytes that a file takes on its disk.
fn bytes_on_disk(found: &Stat) -> u64 {
    u64::try_from(found.st_blocks).unwrap_or(0) * BLOCK
}

fn open(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(at, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        opened => opened.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_file_counts_once_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (top, other) = (dir.path().join("top"), dir.path().join("other"));
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir(&other).unwrap();
        let empty = tree_size(&top).unwrap();
        fs::write(other.join("file"), vec![1; 1 << 20]).unwrap();
        fs::write(top.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        let one = tree_size(&top).unwrap() - empty;
        assert!((1 << 20..2 << 20).contains(&one), "{one}");
        fs::hard_link(top.join("a/b/file"), top.join("twice")).unwrap();
        std::os::unix::fs::symlink(&other, top.join("link")).unwrap();
        assert!(tree_size(&top).unwrap() - empty - one < 1 << 20);
        assert_eq!(tree_size(&dir.path().join("none")).unwrap(), 0);
    }
}
