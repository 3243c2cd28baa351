//! Where images are kept: a directory of its user's alone, for any number of processes at a time.
//!
//! - `layers/sha256-…/`: unpacked layers, named by the digest of their unpacked bytes
//! - `configs/sha256-…json`: configurations
//! - `refs/…`: which configuration and layers a reference has
//! - `tmp/…`: what is not finished; see [`temp`]
//! - `lock`: held shared while a reference is written, exclusive while something is removed; neither takes long
//!
//! A layer's directory is itself locked, shared, by each process that uses it. Nothing that is locked so is removed.

mod image;
mod layers;
mod refs;
mod remove;
mod size;
mod temp;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::{Digest, Error, Result};
pub use image::Image;
pub(crate) use layers::Fetched;
pub use layers::Layer;
pub use refs::Record;
pub(crate) use refs::parse;
pub use remove::Removed;
pub(crate) use temp::Temp;

/// Where krunctl keeps its images.
pub const DEFAULT_PATH: &str = "/var/lib/krun/images";

/// A directory of images.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Opens the store at `path`, and makes it where there is none. What a killed process left unfinished goes away.
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        let store = Store { path: path.as_ref().to_owned() };
        make(&store.path)?;
        let found = fs::symlink_metadata(&store.path).map_err(Error::io(store.path.display().to_string()))?;
        let refuse = |why: &str| Err(Error::Store { path: store.path.clone(), why: why.to_owned() });
        if !found.is_dir() {
            return refuse("it is no directory");
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return refuse(&format!("it belongs to the user {}", found.uid()));
        }
        if found.mode() & 0o077 != 0 {
            return refuse(&format!("its mode is {:04o}", found.mode() & 0o7777));
        }
        for directory in ["layers", "configs", "refs", "tmp"] {
            make(&store.path.join(directory))?;
        }
        temp::clean(&store)?;
        Ok(store)
    }

    /// The store's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The images that are there, by reference.
    pub fn list(&self) -> Result<Vec<Record>> {
        refs::all(self)
    }

    /// The image of this reference, if it is there. It stays there as long as the result is kept.
    pub fn find(&self, reference: &str) -> Result<Option<Image>> {
        let record = match refs::read(self, &refs::in_full(reference))? {
            Some(record) => Some(record),
            None => refs::read(self, &refs::parse(reference)?.whole())?,
        };
        let Some(record) = record else { return Ok(None) };
        Image::open(self, record)
    }

    fn lock(&self, how: FlockOperation) -> Result<File> {
        let path = self.path.join("lock");
        let what = || format!("locking {}", path.display());
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(Error::io(what()))?;
        flock(&file, how).map_err(Error::io(what()))?;
        Ok(file)
    }

    fn config_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("configs").join(format!("{}.json", digest.file_name()))
    }

    /// Writes a file whole or not at all.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temp = Temp::new(self)?;
        let unfinished = temp.path().join("file");
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, path)
        };
        write().map_err(Error::io(format!("writing {}", path.display())))
    }
}

/// Makes a directory for this user alone, unless it is there.
fn make(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io(format!("making {}", path.display())))
}
