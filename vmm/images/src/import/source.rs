//! The files of a layout or archive, by their names in it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Seek},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use tar::EntryType;

use crate::{
    Error, Result, Store,
    limits::{Budget, MAX_DOCUMENT},
    store::Temp,
    unpack::{Guarded, decompressed},
};

/// The most files of an archive, and bytes of a name: all names are kept.
const MAX_MEMBERS: usize = 20_000;
const MAX_NAME: usize = 1024;
/// How many links one after the other lead to a file.
const MAX_LINKS: usize = 8;

/// Where files come from. Nothing in it is believed.
pub(super) struct Source {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Directory(File),
    Archive { file: Arc<File>, members: HashMap<String, Member> },
}

#[derive(Clone, Debug)]
enum Member {
    File { offset: u64, size: u64 },
    Link(String),
}

impl Source {
    /// Opens it. An archive may be packed; then it has at most `unpacked` bytes when it is not.
    pub fn open(store: &Store, path: &Path, unpacked: u64) -> Result<Source> {
        let what = || path.display().to_string();
        let source = |kind| Source { path: path.to_owned(), kind };
        // A FIFO would wait for its other end.
        let open = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
        let file = open.map_err(Error::io(what()))?;
        let kind = file.metadata().map_err(Error::io(what()))?.file_type();
        if kind.is_dir() {
            return Ok(source(Kind::Directory(file)));
        }
        if !kind.is_file() {
            return Err(source(Kind::Directory(file)).no_image("neither a file nor a directory"));
        }
        let file = plain(store, file, unpacked)?;
        let members = members(&file).map_err(|error| match Error::tar(error) {
            Error::Tar(error) => {
                // The rest is what is in the file.
                let why = error.to_string().lines().next().map(|why| format!("no tar archive: {why}"));
                Error::NoImage { path: path.to_owned(), why: why.unwrap_or_default() }
            }
            own => own,
        })?;
        Ok(source(Kind::Archive { file: Arc::new(file), members }))
    }

    /// Where it is, from anywhere.
    pub fn path(&self) -> PathBuf {
        std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone())
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> Result<bool> {
        Ok(self.find(name)?.is_some())
    }

    /// A small file.
    pub fn document(&self, name: &str) -> Result<Vec<u8>> {
        let (reader, size) = self.get(name)?;
        if size > MAX_DOCUMENT {
            return Err(Error::DocumentSize { what: name.to_owned(), size });
        }
        let mut bytes = Vec::new();
        reader.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(Error::io(format!("reading {name}")))?;
        Ok(bytes)
    }

    /// A file and its size.
    pub fn get(&self, name: &str) -> Result<(Slice, u64)> {
        self.find(name)?.ok_or_else(|| self.no_image(&format!("{name:?}, which it needs, is not in it")))
    }

    pub fn no_image(&self, why: &str) -> Error {
        Error::NoImage { path: self.path.clone(), why: why.to_owned() }
    }

    fn find(&self, name: &str) -> Result<Option<(Slice, u64)>> {
        match &self.kind {
            Kind::Directory(top) => self.beneath(top, name),
            Kind::Archive { file, members } => {
                let mut name = clean(name);
                for _ in 0..=MAX_LINKS {
                    match name.as_ref().and_then(|name| members.get(name)) {
                        None => return Ok(None),
                        Some(Member::Link(target)) => name = clean(target),
                        Some(Member::File { offset, size }) => {
                            let slice = Slice { file: file.clone(), position: *offset, left: *size };
                            return Ok(Some((slice, *size)));
                        }
                    }
                }
                Err(self.no_image(&format!("more than {MAX_LINKS} links one after the other")))
            }
        }
    }

    fn beneath(&self, top: &File, name: &str) -> Result<Option<(Slice, u64)>> {
        let what = || format!("{} in {}", name, self.path.display());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = match openat2(top, name, flags, Mode::empty(), resolve) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(self.no_image(&format!("{name:?} is a symbolic link, which is not followed")));
            }
            Err(errno) => return Err(Error::io(what())(errno)),
        };
        let found = file.metadata().map_err(Error::io(what()))?;
        if !found.is_file() {
            return Err(self.no_image(&format!("{name:?} is no file")));
        }
        let size = found.len();
        Ok(Some((Slice { file: Arc::new(file), position: 0, left: size }, size)))
    }
}

/// A part of a file. Several are read at a time.
pub(super) struct Slice {
    file: Arc<File>,
    position: u64,
    left: u64,
}

impl Read for Slice {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut into[..most], self.position)?;
        self.position += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// An archive that is not packed: this one, or a copy without a name.
fn plain(store: &Store, mut file: File, unpacked: u64) -> Result<File> {
    let what = "unpacking the archive";
    let mut head = [0; 4];
    let read = file.read_at(&mut head, 0).map_err(Error::io(what))?;
    if read < 4 || !(head.starts_with(&[0x1f, 0x8b]) || head == [0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(file);
    }
    let temp = Temp::new(store)?;
    let path = temp.path().join("archive");
    let mut copy =
        File::options().read(true).write(true).create_new(true).open(&path).map_err(Error::io(what))?;
    fs::remove_file(&path).map_err(Error::io(what))?;
    let mut bytes = decompressed(&mut file).map_err(Error::io(what))?.take(unpacked.saturating_add(1));
    let copied = io::copy(&mut bytes, &mut copy).map_err(Error::io(what))?;
    if copied > unpacked {
        return Err(Error::TooBig { allowed: unpacked });
    }
    copy.rewind().map_err(Error::io(what))?;
    Ok(copy)
}

/// Where the files of an archive are.
fn members(file: &File) -> io::Result<HashMap<String, Member>> {
    let (guarded, headers) = Guarded::new(io::BufReader::with_capacity(128 << 10, file), None::<&Budget>);
    let mut archive = tar::Archive::new(guarded);
    let mut members = HashMap::new();
    let mut entries = archive.entries()?;
    loop {
        headers.begin();
        let Some(entry) = entries.next() else { break };
        headers.cancel();
        let mut entry = entry?;
        if members.len() == MAX_MEMBERS {
            return Err(io::Error::other(format!("more than {MAX_MEMBERS} files; no more are allowed")));
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let link = || String::from_utf8_lossy(&entry.link_name_bytes().unwrap_or_default()).into_owned();
        if name.len() > MAX_NAME || link().len() > MAX_NAME {
            return Err(io::Error::other(format!(
                "a name of more than {MAX_NAME} bytes; no more are allowed"
            )));
        }
        let member = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                Some(Member::File { offset: entry.raw_file_position(), size: entry.size() })
            }
            EntryType::Link => Some(Member::Link(link())),
            EntryType::Symlink => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                Some(Member::Link(format!("{directory}/{}", link())))
            }
            _ => None,
        };
        if let (Some(name), Some(member)) = (clean(&name), member) {
            members.insert(name, member);
        }
        io::copy(&mut entry, &mut io::sink())?;
    }
    Ok(members)
}

/// A name in an archive, without what leads nowhere. None if it leads out.
fn clean(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_an_archive_does_not_lead_out() {
        assert_eq!(clean("./a//b/../c").as_deref(), Some("a/c"));
        assert_eq!(clean("/a").as_deref(), Some("a"));
        for out in ["..", "a/../..", "", "."] {
            assert_eq!(clean(out), None, "{out}");
        }
    }
}
