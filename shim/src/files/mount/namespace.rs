//! A sandbox's own mount namespace. What is mounted there for the guest is nowhere else: the host's list of mounts does not
//! grow with each volume, a directory of the host's is not busy because a guest sees a mount on it, and all of it
//! goes with the last process that is in it, however that ends.

#![expect(clippy::disallowed_methods, reason = "constant paths of /proc, and the current directory")]

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    fcntl::{OFlag, open, openat},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::stat::Mode,
    unistd::{fchdir, pivot_root},
};

use super::{ReadOnly, Table, tree};
use crate::files::pin::{DESCRIPTORS, Pinned};

/// The calling thread's. Source: proc_thread-self(5), namespaces(7).
const OWN: &str = "/proc/thread-self/ns/mnt";

/// A mount namespace, which lives at least as long as this.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    /// Its top: a mount from which nothing propagates.
    top: OwnedFd,
}

impl Namespace {
    /// A copy of the host's, in which `top` is a mount. What the host mounts and unmounts is so here as well, and nothing
    /// goes back.
    ///
    /// # Errors
    /// That of the step that failed.
    pub fn new(top: &Path) -> io::Result<Namespace> {
        let (file, mount) = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
            let directory = Pinned::open(top)?;
            let tree = tree::clone(&directory, false)?;
            tree::restrict(&tree, false, ReadOnly::Nothing)?;
            tree::attach(&tree, &directory)?;
            Ok((File::open(OWN)?, tree))
        })?;
        Ok(Namespace { file, top: mount })
    }

    /// The namespace of descriptors that another process made of it: its own, and its top's.
    pub fn of_another(namespace: OwnedFd, top: OwnedFd) -> Namespace {
        Namespace { file: namespace.into(), top }
    }

    /// Takes all out of it but its top, which becomes its root: a copy of the host's mounts costs memory, makes every
    /// mount of the host's slower, and would hold what the host unmounts where it does not say so.
    ///
    /// # Errors
    /// That of the step that failed.
    pub fn reduce(&self) -> io::Result<()> {
        self.run(|| {
            fchdir(&self.top)?;
            // Puts the old root on top of the new one (pivot_root(2), "pivot_root(".", ".")").
            pivot_root(".", ".")?;
            umount2(".", MntFlags::MNT_DETACH)
        })?
        .map_err(io::Error::from)
    }

    /// Runs `work` in the namespace, and waits for it. Its current directory is that of this process's descriptors, each by
    /// its number: a namespace that was reduced has no /proc.
    ///
    /// # Errors
    /// When a thread cannot be made, or cannot enter the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_a_thread(|| {
            let descriptors =
                open(DESCRIPTORS, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            // A thread that shares its root and current directory with others cannot enter (setns(2)).
            unshare(CloneFlags::CLONE_FS)?;
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNS)?;
            fchdir(descriptors)?;
            Ok(work())
        })
    }

    /// What is mounted in it.
    ///
    /// # Errors
    /// When a thread cannot enter it, or /proc cannot be read.
    pub fn table(&self) -> io::Result<Table> {
        Table::read(self.open_table()?)
    }

    /// Its table like /proc/self/mountinfo.
    ///
    /// # Errors
    /// As [`Namespace::table`].
    pub fn open_table(&self) -> io::Result<File> {
        on_a_thread(|| {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let thread = open("/proc/thread-self", flags, Mode::empty())?;
            unshare(CloneFlags::CLONE_FS)?;
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNS)?;
            // The table is that of the namespace which the thread is in when the file is opened.
            let table = openat(thread, "mountinfo", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            Ok(File::from(table))
        })
    }

    /// Its top.
    pub fn top(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// Its own descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// A path that leads this process to it.
    pub fn path(&self) -> PathBuf {
        Path::new(DESCRIPTORS).join(self.file.as_raw_fd().to_string())
    }
}

/// A thread that has entered another namespace must not go on to do something else.
fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread in the mount namespace panicked")))
    })
}
