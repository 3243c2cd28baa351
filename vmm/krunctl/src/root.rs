//! The root file system of a run: a directory of the user's, itself or below a layer that takes what is written.

use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::{
    bundle::{self, Bundle},
    layer,
};

/// A directory that is there.
pub struct Root {
    directory: File,
    path: PathBuf,
}

impl Root {
    /// Opens `--root`. The process must have only one thread: it enters a mount namespace of its own, where the host's mounts
    /// still appear, and whose mounts do not appear on the host.
    pub fn open(path: &Path) -> Result<Root> {
        unshare(CloneFlags::CLONE_NEWNS).context("unshare of the mount namespace")?;
        change("/", MsFlags::MS_SLAVE | MsFlags::MS_REC)?;
        // Once, and in this namespace: whoever can write there may put a link in its place later.
        let failed = || format!("--root {}", path.display());
        let mut options = File::options();
        let directory = options.read(true).custom_flags(libc::O_PATH).open(path).with_context(failed)?;
        ensure!(directory.metadata().with_context(failed)?.is_dir(), "{}: not a directory", failed());
        Ok(Root { directory, path: path.to_owned() })
    }

    /// A name for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself, for what looks into it.
    pub fn directory(&self) -> &File {
        &self.directory
    }

    /// Puts it where `bundle` has its rootfs: what the guest writes, the host has.
    pub fn bind(&self, bundle: &Bundle) -> Result<()> {
        let place = make(&bundle.rootfs())?;
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&layer::path_of(&self.directory)), &place, None::<&str>, bind, None::<&str>)
            .context("binding --root")
    }

    /// Puts a view of it there: what the guest writes goes to memory, up to `memory_mib`, and ends with this process.
    pub fn cover(&self, bundle: &Bundle, memory_mib: u32) -> Result<()> {
        let (place, layers) = (make(&bundle.rootfs())?, make(&bundle.layers())?);
        // One file for each page is more than fits.
        let inodes = u64::from(memory_mib) << (20 - 12);
        let options = format!("mode=0700,size={memory_mib}m,nr_inodes={inodes}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("krun-layers"), &layers, Some("tmpfs"), flags, Some(options.as_str()))
            .with_context(|| format!("mounting a tmpfs on {}", layers.display()))?;
        layer::cover(&self.directory, &place, &layers, Path::new(bundle::BASE))
    }
}

fn make(directory: &Path) -> Result<PathBuf> {
    fs::create_dir(directory).with_context(|| format!("making {}", directory.display()))?;
    Ok(directory.to_owned())
}

fn change(target: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("changing the propagation of {target}"))
}
