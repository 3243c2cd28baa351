//! Layers: unpacked once, used by many.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock, syncfs},
    io::Errno,
};

use super::{Store, Temp};
use crate::{Digest, Error, Result, digest::HashingReader, limits::Budget, manifest::Blob, unpack::unpack};

/// An unpacked layer. It is locked, so that nobody removes it.
#[derive(Debug)]
pub struct Layer {
    digest: Digest,
    path: PathBuf,
    directory: File,
}

/// Bytes of a layer, packed, and what they were declared with.
pub(crate) struct Fetched<R> {
    pub packed: R,
    /// None where nothing was declared but the digest of the unpacked bytes, or it is checked already.
    pub blob: Option<Blob>,
}

impl Layer {
    /// The digest of its unpacked bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its directory, to be a lower one of an overlay.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory itself. `/proc/self/fd/…` is short: the options of a mount fit in a page, and paths of many layers do
    /// not.
    pub fn directory(&self) -> &File {
        &self.directory
    }

    /// Whether nothing of the layers below it appears.
    pub(super) fn is_opaque(&self) -> bool {
        let mut value = [0];
        let read = rustix::fs::fgetxattr(&self.directory, "trusted.overlay.opaque", &mut value);
        matches!(read, Ok(1)) && value == *b"y"
    }
}

impl Store {
    /// The layer with this digest, if it is there.
    pub(crate) fn layer(&self, digest: &Digest) -> Result<Option<Layer>> {
        let path = self.layer_path(digest);
        let what = || path.display().to_string();
        loop {
            let directory = match File::open(&path) {
                Ok(directory) => directory,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Error::io(what())(error)),
            };
            flock(&directory, FlockOperation::LockShared).map_err(Error::io(what()))?;
            // It may have been removed, and even made anew, before the lock was there.
            let locked = directory.metadata().map_err(Error::io(what()))?;
            match fs::metadata(&path) {
                Ok(found) if (found.dev(), found.ino()) == (locked.dev(), locked.ino()) => {
                    return Ok(Some(Layer { digest: digest.clone(), path, directory }));
                }
                _ => continue,
            }
        }
    }

    /// Unpacks a layer, unless it is there by now. It appears only whole and with its digest.
    pub(crate) fn unpack(
        &self,
        digest: &Digest,
        fetched: Fetched<impl Read>,
        budget: &Budget,
    ) -> Result<Layer> {
        let temp = Temp::new(self)?;
        let top = temp.path().join("layer");
        fs::create_dir(&top).map_err(Error::io(format!("making {}", top.display())))?;
        let mut packed = HashingReader::new(fetched.packed);
        let found = unpack(&mut packed, &top, budget);
        // Wrong bytes are told as such, whatever they unpack to.
        if let Some(blob) = &fetched.blob {
            let (size, digest) = packed.finish().map_err(Error::io(format!("reading {}", blob.digest)))?;
            blob.check_size(size)?;
            blob.digest.check(digest, || blob.digest.to_string())?;
        }
        digest.check(found?, || format!("the layer {digest}, unpacked"))?;
        self.keep(&top, digest)
    }

    fn keep(&self, top: &Path, digest: &Digest) -> Result<Layer> {
        let path = self.layer_path(digest);
        let what = || format!("making {}", path.display());
        loop {
            // Also after a crash of the machine a layer is there whole.
            let directory = File::open(top).map_err(Error::io(what()))?;
            syncfs(&directory).map_err(Error::io(what()))?;
            flock(&directory, FlockOperation::LockShared).map_err(Error::io(what()))?;
            match rustix::fs::rename(top, &path) {
                Ok(()) => return Ok(Layer { digest: digest.clone(), path, directory }),
                // Another process was faster.
                Err(Errno::EXIST | Errno::NOTEMPTY) => match self.layer(digest)? {
                    Some(layer) => return Ok(layer),
                    None => continue,
                },
                Err(errno) => return Err(Error::io(what())(errno)),
            }
        }
    }

    pub(super) fn layer_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("layers").join(digest.file_name())
    }
}
