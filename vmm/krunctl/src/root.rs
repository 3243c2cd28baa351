//! The root file system of a VM: a directory of the user's or an image, itself or below a layer that takes what is written.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use images::{Image, ImageConfig, Store};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde::{Deserialize, Serialize};

use crate::{
    bundle::{self, Bundle},
    layer,
};

/// Where a root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A directory of the host.
    Directory(PathBuf),
    /// An image that is in the store, by its reference there.
    Image(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Directory(path) => write!(f, "{}", path.display()),
            Origin::Image(reference) => f.write_str(reference),
        }
    }
}

/// Where what is written goes.
#[derive(Clone, Copy)]
pub enum Writes<'a> {
    /// To the directory itself.
    Through,
    /// To memory, up to so many MiB; it ends with this process.
    Memory(u32),
    /// To a directory of ours.
    Disk(&'a Path),
}

/// A root file system that is mounted in a bundle.
pub struct Root {
    directory: File,
    config: ImageConfig,
    /// Its layers stay as long as this.
    _image: Option<Image>,
}

/// Enters a mount namespace of its own, where the host's mounts still appear, and whose mounts do not appear on the host. The
/// process must have only one thread.
pub fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare of the mount namespace")?;
    change("/", MsFlags::MS_SLAVE | MsFlags::MS_REC)
}

impl Root {
    /// Mounts it where `bundle` has its rootfs. To be called in a [namespace of its own](enter).
    ///
    /// # Errors
    /// When it is not there, or the kernel refuses.
    pub fn mount(origin: &Origin, writes: Writes<'_>, bundle: &Bundle) -> Result<Root> {
        match origin {
            Origin::Directory(path) => Root::of_directory(path, writes, bundle),
            Origin::Image(reference) => Root::of_image(reference, writes, bundle),
        }
    }

    fn of_directory(path: &Path, writes: Writes<'_>, bundle: &Bundle) -> Result<Root> {
        // Once, and in this namespace: whoever can write there may put a link in its place later.
        let failed = || format!("--root {}", path.display());
        let mut options = File::options();
        let directory = options.read(true).custom_flags(libc::O_PATH).open(path).with_context(failed)?;
        ensure!(directory.metadata().with_context(failed)?.is_dir(), "{}: not a directory", failed());
        let place = make(&bundle.rootfs())?;
        match layers(writes, bundle)? {
            Some(layers) => layer::cover(&directory, &place, &layers, Path::new(bundle::BASE))?,
            None => {
                let (source, bind) = (layer::path_of(&directory), MsFlags::MS_BIND | MsFlags::MS_REC);
                mount(Some(&source), &place, None::<&str>, bind, None::<&str>).context("binding --root")?;
            }
        }
        Ok(Root { directory, config: ImageConfig::default(), _image: None })
    }

    fn of_image(reference: &str, writes: Writes<'_>, bundle: &Bundle) -> Result<Root> {
        let store = Store::open(images::DEFAULT_PATH)?;
        let image = store.find(reference)?;
        let image = image
            .with_context(|| format!("the image {reference} is not in {} any more", images::DEFAULT_PATH))?;
        let place = make(&bundle.rootfs())?;
        let layers = layers(writes, bundle)?.context("an image is not written itself")?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&layers)
            .with_context(|| format!("making {}", layers.display()))?;
        if let Some(top) = image.layers().last() {
            layer::make_upper(&layers, top.directory())?;
        }
        // An image without layers is an empty directory.
        let lower = match image.layers() {
            [] => make_in(&layers, "empty")?.display().to_string(),
            _ => image.lowerdir(),
        };
        layer::overlay(&lower, &place, &layers)
            .with_context(|| format!("mounting the layers of {reference}"))?;
        let directory = File::open(&place).with_context(|| format!("opening {}", place.display()))?;
        Ok(Root { directory, config: image.config().clone(), _image: Some(image) })
    }

    /// The directory itself, for what looks into it.
    pub fn directory(&self) -> &File {
        &self.directory
    }

    /// What its image says of a container; nothing without one.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }
}

/// The directory for the parts of a layer, if there is to be one.
fn layers(writes: Writes<'_>, bundle: &Bundle) -> Result<Option<PathBuf>> {
    match writes {
        Writes::Through => Ok(None),
        Writes::Disk(directory) => Ok(Some(directory.to_owned())),
        Writes::Memory(memory_mib) => {
            let layers = make(&bundle.layers())?;
            // One file for each page is more than fits.
            let inodes = u64::from(memory_mib) << (20 - 12);
            let options = format!("mode=0700,size={memory_mib}m,nr_inodes={inodes}");
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(Some("krun-layers"), &layers, Some("tmpfs"), flags, Some(options.as_str()))
                .with_context(|| format!("mounting a tmpfs on {}", layers.display()))?;
            Ok(Some(layers))
        }
    }
}

fn make(directory: &Path) -> Result<PathBuf> {
    fs::create_dir(directory).with_context(|| format!("making {}", directory.display()))?;
    Ok(directory.to_owned())
}

fn make_in(parent: &Path, name: &str) -> Result<PathBuf> {
    let directory = parent.join(name);
    let made = DirBuilder::new().recursive(true).mode(0o755).create(&directory);
    made.with_context(|| format!("making {}", directory.display()))?;
    Ok(directory)
}

fn change(target: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("changing the propagation of {target}"))
}
