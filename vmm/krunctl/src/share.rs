//! The directory that becomes the guest's root: a tmpfs into which the user's directory is bound, itself or below a layer that
//! takes what is written, in a mount namespace of this process.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use guest_protocol::boot;
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::{container::CONTAINER, layer};

/// The parent of each run's directory.
const BASE: &str = "/run/krun/run";

/// The share of this run. Dropping it removes the empty directory on the host.
pub struct Share {
    directory: PathBuf,
    /// The user's directory.
    rootfs: File,
    /// The lock of the directory: a directory without a lock belongs to a run that was killed.
    _lock: Flock<File>,
}

impl Share {
    /// Makes a share with a place for `rootfs`. The process must have only one thread: it enters a new mount namespace.
    pub fn prepare(rootfs: &Path) -> Result<Share> {
        unshare(CloneFlags::CLONE_NEWNS).context("unshare of the mount namespace")?;
        // Mounts of the host still appear here; mounts made here do not appear on the host.
        change("/", MsFlags::MS_SLAVE | MsFlags::MS_REC)?;
        // Once, and in this namespace: whoever can write there may put a link in its place later.
        let failed = || format!("--root {}", rootfs.display());
        let mut options = File::options();
        let opened = options.read(true).custom_flags(libc::O_PATH).open(rootfs).with_context(failed)?;
        ensure!(opened.metadata().with_context(failed)?.is_dir(), "{}: not a directory", failed());

        let share = Share::directory(opened)?;
        tmpfs(&share.directory, "mode=0700,size=1m")?;
        for directory in [share.root(), share.sockets()] {
            fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        }
        share.fill()?;
        Ok(share)
    }

    /// The guest's root.
    pub fn root(&self) -> PathBuf {
        self.directory.join("share")
    }

    /// The directory for the VM's socket.
    pub fn sockets(&self) -> PathBuf {
        self.directory.join("sock")
    }

    /// Puts the user's directory into its place: what the guest writes, the host has.
    pub fn bind_root(&self) -> Result<()> {
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&layer::path_of(&self.rootfs)), &self.container_root(), None::<&str>, bind, None::<&str>)
            .context("binding --root")
    }

    /// Puts a view of the user's directory into its place: what the guest writes goes to memory, up to `memory_mib`, and ends with
    /// this process.
    pub fn layer_root(&self, memory_mib: u32) -> Result<()> {
        let layers = self.directory.join("layers");
        fs::create_dir(&layers).with_context(|| format!("making {}", layers.display()))?;
        // One file for each page is more than fits.
        let inodes = u64::from(memory_mib) << (20 - 12);
        tmpfs(&layers, &format!("mode=0700,size={memory_mib}m,nr_inodes={inodes}"))?;
        layer::cover(&self.rootfs, &self.container_root(), &layers, Path::new(BASE))
    }

    fn container_root(&self) -> PathBuf {
        self.root().join(boot::rootfs_path(CONTAINER))
    }

    fn directory(rootfs: File) -> Result<Share> {
        let context = || format!("making a directory in {BASE}");
        remove_abandoned();
        for number in 0.. {
            // In each round, because a run that ends removes it if it is empty.
            DirBuilder::new().recursive(true).mode(0o700).create(BASE).with_context(context)?;
            let directory = Path::new(BASE).join(format!("{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
                    continue;
                }
                result => result.with_context(context)?,
            }
            // Another run may remove it before it is locked.
            let locked = File::open(&directory).ok().and_then(|file| lock(file).ok());
            if let Some(_lock) = locked.filter(|_| directory.exists()) {
                return Ok(Share { directory, rootfs, _lock });
            }
        }
        anyhow::bail!("{BASE} is full")
    }

    fn fill(&self) -> Result<()> {
        let (root, inside) = (self.root(), self.container_root());
        tmpfs(&root, "mode=0755,size=1m")?;
        for directory in boot::MOUNT_POINTS {
            fs::create_dir(root.join(directory)).with_context(|| format!("making /{directory}"))?;
        }
        fs::create_dir_all(&inside).with_context(|| format!("making {}", inside.display()))?;
        fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777))?;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // The directory is below a mount, which must go first.
        let _ = nix::mount::umount2(&self.directory, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.directory);
        // Fails while another run has a directory in it.
        let _ = fs::remove_dir(BASE);
    }
}

/// Removes the directories of runs that were killed. They are empty: their mounts ended with their namespaces.
fn remove_abandoned() {
    for entry in fs::read_dir(BASE).into_iter().flatten().flatten() {
        let locked = File::open(entry.path()).ok().and_then(|file| lock(file).ok());
        // The lock is held during the removal, or its owner could lock it in between.
        if let Some(_lock) = locked {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn lock(file: File) -> Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

fn tmpfs(target: &Path, options: &str) -> Result<()> {
    mount(Some("krun-run"), target, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
        .with_context(|| format!("mounting a tmpfs on {}", target.display()))
}

fn change(target: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("changing the propagation of {target}"))
}
