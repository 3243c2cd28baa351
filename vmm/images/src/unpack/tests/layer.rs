//! Layers that tests make, and what is unpacked of them.

use std::{
    ffi::CStr,
    fs::{self, Metadata},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::PathBuf,
};

use tar::{EntryType, Header};
use tempfile::TempDir;

use super::super::*;

/// Only root can give files away, make devices and set `trusted` attributes.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: unpacking a layer: needs root");
    }
    root
}

#[derive(Default)]
pub struct Layer(pub Vec<u8>);

impl Layer {
    pub fn entry(mut self, kind: u8, name: &str, link: &str, data: &[u8]) -> Layer {
        self.0.extend(header(kind, name, link, data.len() as u64).as_bytes());
        self.data(data)
    }

    pub fn data(mut self, data: &[u8]) -> Layer {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn header(mut self, header: &Header) -> Layer {
        self.0.extend(header.as_bytes());
        self
    }

    pub fn file(self, name: &str, data: &str) -> Layer {
        self.entry(b'0', name, "", data.as_bytes())
    }

    pub fn directory(self, name: &str) -> Layer {
        self.entry(b'5', name, "", b"")
    }

    pub fn link(self, name: &str, target: &str) -> Layer {
        self.entry(b'2', name, target, b"")
    }

    pub fn hard(self, name: &str, target: &str) -> Layer {
        self.entry(b'1', name, target, b"")
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Layer {
        let record = |(key, value): &(&str, &[u8])| {
            let rest = key.len() + value.len() + 3;
            let digits = (rest + rest.to_string().len()).to_string().len();
            [format!("{} {key}=", rest + digits).as_bytes(), value, b"\n"].concat()
        };
        let data: Vec<u8> = records.iter().flat_map(record).collect();
        self.entry(b'x', "pax", "", &data)
    }

    pub fn unpack(self) -> Result<Unpacked> {
        self.unpack_within(&Budget::new(1 << 30))
    }

    pub fn unpack_within(self, budget: &Budget) -> Result<Unpacked> {
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let bytes = [self.0.as_slice(), &[0; 1024]].concat();
        let digest = unpack(bytes.as_slice(), top.path(), budget)?;
        assert_eq!(digest, Digest::of(&bytes));
        Ok(Unpacked(top))
    }

    /// The entry that is refused, and why.
    pub fn refused(self) -> (String, EntryError) {
        match self.unpack() {
            Err(Error::Entry { entry, why }) => (entry, why),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it was unpacked"),
        }
    }
}

/// With names as they are: the tar crate would not write the wrong ones.
pub fn header(kind: u8, name: &str, link: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::new(kind));
    header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    header.set_size(size);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    header
}

pub struct Unpacked(pub TempDir);

impl Unpacked {
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn stat(&self, name: &str) -> Metadata {
        fs::symlink_metadata(self.path(name)).unwrap()
    }

    pub fn xattr(&self, name: &str, key: &CStr) -> Option<Vec<u8>> {
        let mut value = vec![0; 100];
        let length = rustix::fs::lgetxattr(self.path(name), key, &mut value).ok()?;
        value.truncate(length);
        Some(value)
    }

    pub fn opaque(&self, name: &str) -> bool {
        self.xattr(name, c"trusted.overlay.opaque").as_deref() == Some(b"y")
    }

    pub fn whiteout(&self, name: &str) -> bool {
        let found = self.stat(name);
        found.file_type().is_char_device() && found.rdev() == 0
    }
}
