//! A network namespace, and doing something in it: in a thread of its own, as a thread that has
//! entered another namespace must not go on to do something else.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    thread,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sched::{CloneFlags, setns},
};

use crate::error::{Error, Result};

/// The shim's own, which is the host's.
const OWN: &str = "/proc/self/ns/net";

/// A network namespace; it lives at least as long as this.
pub struct Netns {
    file: File,
}

/// Says that a VM's cards are in a network namespace. It goes with its holder, however that ends.
pub struct Claim(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

impl Netns {
    /// The namespace at `path`, such as `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// The file system's, naming the path.
    pub fn open(path: &Path) -> Result<Netns> {
        let file = File::open(path)
            .map_err(|e| Error::internal(format!("open network namespace {}: {e}", path.display())))?;
        Ok(Netns { file })
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// As of [`Netns::open`].
    pub fn of(pid: u32) -> Result<Netns> {
        Netns::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// Whether it is the host's.
    ///
    /// # Errors
    /// The file system's.
    pub fn is_host(&self) -> io::Result<bool> {
        // Source: namespaces(7): the same device and inode are the same namespace.
        let (own, this) = (std::fs::metadata(OWN)?, self.file.metadata()?);
        Ok((own.dev(), own.ino()) == (this.dev(), this.ino()))
    }

    /// Claims it for a VM's cards; `None` when another shim has.
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

    /// Its descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs `work` in the namespace, and waits for it. For what does not block.
    ///
    /// # Errors
    /// When a thread cannot be made, or cannot enter the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let entered = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })?;
            entered.join().unwrap_or_else(|_| Err(io::Error::other("a thread in it panicked")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_is_the_hosts() {
        assert!(Netns::of(std::process::id()).unwrap().is_host().unwrap());
    }

    #[test]
    fn a_claim_is_one_shims_until_it_ends() {
        // A file stands in for a namespace: tests that run at once share theirs.
        let file = tempfile::NamedTempFile::new().unwrap();
        let (one, other) = (Netns::open(file.path()).unwrap(), Netns::open(file.path()).unwrap());
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
}
