//! A network namespace, and running code in it. The code runs in a thread of its own: one that has entered another
//! namespace must do nothing else afterwards.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use linux::loopback;
use nix::{
    fcntl::{Flock, FlockArg, OFlag},
    sched::{CloneFlags, setns, unshare},
    sys::stat::fstat,
};

use crate::{
    error::{Error, Result},
    files::pin,
};

/// The shim's own, which is the host's.
const OWN: &str = "/proc/self/ns/net";

/// The calling thread's.
const THREADS: &str = "/proc/thread-self/ns/net";

/// Asks for a namespace's kind. Source: linux/nsfs.h, `NS_GET_NSTYPE`.
const GET_KIND: u32 = 0xb703;

/// A network namespace, which lives at least as long as this.
pub struct Netns {
    file: File,
}

/// Marks a network namespace as one whose interfaces a VM has. The kernel removes the mark when its holder ends.
pub struct Claim(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

impl Netns {
    /// The namespace at `path`, such as `/proc/<pid>/ns/net`. A path to anything else is not opened: opening a FIFO
    /// waits for its writer, and opening a device does what its driver likes.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no network namespace, else the file system's; both name the path.
    pub fn open(path: &Path) -> Result<Netns> {
        let failed =
            |e: io::Error| Error::internal(format!("open network namespace {}", path.display())).because(e);
        let invalid = || {
            let wanted =
                "it is no network namespace; a link to one in /proc is not followed: name that itself";
            Error::invalid(format!("{}: {wanted}", path.display()))
        };
        let found = pin::namespace(path).map_err(failed)?.ok_or_else(invalid)?;
        let file = pin::reopen(found, OFlag::O_RDONLY).map_err(failed)?;
        match kind(&file).map_err(failed)? {
            CloneFlags::CLONE_NEWNET => Ok(Netns { file }),
            _ => Err(invalid()),
        }
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// As of [`Netns::open`].
    pub fn of(pid: u32) -> Result<Netns> {
        Netns::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// A new one that holds a loopback interface alone, which is up.
    ///
    /// # Errors
    /// The kernel's, and when a thread cannot be made.
    pub fn make() -> io::Result<Netns> {
        let made = thread::Builder::new().name("netns".to_owned()).spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            loopback::bring_up()?;
            let own = pin::namespace(Path::new(THREADS))?;
            let own = own.ok_or_else(|| io::Error::other("/proc has no namespaces"))?;
            Ok(Netns { file: pin::reopen(own, OFlag::O_RDONLY)? })
        })?;
        made.join().unwrap_or_else(|_| Err(io::Error::other("a thread in it panicked")))
    }

    /// A path that leads this process to it.
    pub fn path(&self) -> PathBuf {
        Path::new(pin::DESCRIPTORS).join(self.file.as_raw_fd().to_string())
    }

    /// Whether it is the host's.
    ///
    /// # Errors
    /// The file system's.
    pub fn is_host(&self) -> io::Result<bool> {
        // Source: namespaces(7): the same device and inode are the same namespace.
        let own =
            pin::namespace(Path::new(OWN))?.ok_or_else(|| io::Error::other("/proc has no namespaces"))?;
        let (own, this) = (fstat(own)?, fstat(&self.file)?);
        Ok((own.st_dev, own.st_ino) == (this.st_dev, this.st_ino))
    }

    /// Claims its interfaces for a VM; `None` when another shim has them.
    ///
    /// # Errors
    /// The lock's.
    pub fn claim(&self) -> io::Result<Option<Claim>> {
        match Flock::lock(self.file.try_clone()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Claim(lock))),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// Another handle of the same namespace.
    ///
    /// # Errors
    /// When there are too many files open.
    pub fn try_clone(&self) -> io::Result<Netns> {
        Ok(Netns { file: self.file.try_clone()? })
    }

    /// A descriptor of it for another process.
    ///
    /// # Errors
    /// When there are too many files open.
    pub fn to_fd(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// The namespace of a descriptor that another process made of it.
    pub fn from_fd(namespace: OwnedFd) -> Netns {
        Netns { file: namespace.into() }
    }

    /// Its descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs `work` in the namespace, and waits for it: `work` must not block. The shim's threads are in the host's
    /// already.
    ///
    /// # Errors
    /// When a thread cannot be made, or cannot enter the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        if self.is_host()? {
            return Ok(work());
        }
        thread::scope(|scope| {
            let entered = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })?;
            entered.join().unwrap_or_else(|_| Err(io::Error::other("a thread in it panicked")))
        })
    }
}

/// The flag of clone(2) that makes such a namespace as `file` is.
fn kind(file: &File) -> io::Result<CloneFlags> {
    // SAFETY: this request takes no argument and answers a number.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), GET_KIND as _) };
    Ok(CloneFlags::from_bits_retain(nix::errno::Errno::result(kind)?))
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn our_own_namespace_is_the_hosts() {
        assert!(Netns::of(std::process::id()).unwrap().is_host().unwrap());
    }

    #[test]
    fn a_claim_is_one_shims_until_it_ends() {
        // A file stands in for a namespace: tests that run at once share theirs.
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || Netns { file: File::open(file.path()).unwrap() };
        let (one, other) = (open(), open());
        let claim = one.claim().unwrap();
        assert!(claim.is_some() && other.claim().unwrap().is_none());
        drop(claim);
        assert!(other.claim().unwrap().is_some());
    }

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let error = Netns::open(Path::new("/run/netns/absent")).err().unwrap();
        assert!(error.to_string().contains("/run/netns/absent"), "{error}");
    }

    #[test]
    fn what_is_no_network_namespace_is_refused_unopened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for path in [fifo.as_path(), Path::new("/dev/null"), Path::new("/proc/self/ns/uts"), dir.path()] {
            let error = Netns::open(path).err().unwrap().to_string();
            let begin = format!("{}: it is no network namespace;", path.display());
            assert!(error.starts_with(&begin), "{error}");
        }
    }
}
