//! A new network namespace, and running code in it.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use crate::error::{Error, Result};

/// A network namespace, which lives at least as long as this.
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new one.
    pub fn new() -> Result<Netns> {
        let made = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made.map_err(Error::at("make a network namespace (it needs root)"))?;
        Ok(Netns { file })
    }

    /// Its descriptor.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `work` in it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        in_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// Mounts it at `path`, in this thread's mount namespace.
    pub fn mount(&self, path: &Path) -> Result<Mount> {
        let failed = || format!("mount the VM's network namespace on {}", path.display());
        File::options().write(true).create_new(true).open(path).map_err(Error::at(failed()))?;
        // From now on the file is removed when this fails.
        let mut made = Mount { path: path.to_owned(), is_mounted: false };
        let from = format!("/proc/self/fd/{}", self.fd());
        mount(Some(from.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(Error::at(failed()))?;
        made.is_mounted = true;
        Ok(made)
    }
}

/// A file that a namespace is mounted on; both go when this is dropped.
pub struct Mount {
    path: PathBuf,
    is_mounted: bool,
}

impl Mount {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = match self.is_mounted {
            true => {
                umount2(&self.path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(io::Error::from)
            }
            false => Ok(()),
        };
        if let Err(error) = unmounted.and_then(|()| fs::remove_file(&self.path)) {
            log::warn!("remove the mount of a network namespace, {}: {error}", self.path.display());
        }
    }
}

/// Runs `work` in a thread of its own: one that is in another namespace must do nothing else afterwards.
fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread in a network namespace panicked")))
    })
}
