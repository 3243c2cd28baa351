//! A guest's kernel of the administrator's choice, in libkrunfw's place.
//!
//! Its path is resolved once, by [`Kernel::open`]. From then on only the descriptor counts: a vmm inherits one of a read-only
//! mount, so that a guest that has taken over its vmm cannot change the kernel of later VMs.

mod format;

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use linux::mount_tree::{self, Attributes};

pub use format::Format;

/// Who may write to a file, besides its owner.
const OTHERS_WRITE: u32 = 0o022;

/// An open file that a VM can boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    file: Arc<File>,
    path: PathBuf,
    format: Format,
}

/// The same open file.
impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }
}

impl Eq for Kernel {}

/// Why a file is not booted.
#[derive(Debug, thiserror::Error)]
#[error("kernel = {}: {problem}", path.display())]
pub struct BadKernel {
    /// Its path.
    pub path: PathBuf,
    /// The reason.
    pub problem: Problem,
}

/// What is wrong with the file of a kernel.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The path is relative, to nobody knows which directory.
    #[error("must be an absolute path")]
    Relative,
    /// It cannot be opened.
    #[error("{0}")]
    Open(io::Error),
    /// It cannot be read.
    #[error("reading it: {0}")]
    Read(#[from] io::Error),
    /// It is something other than a regular file.
    #[error("must be a regular file")]
    NoFile,
    /// It is another user's.
    #[error("belongs to uid {0}: must be root's")]
    Owner(u32),
    /// Somebody other than root may write to it.
    #[error("has the mode {0:04o}: nobody but root may write to it (chmod go-w)")]
    Writable(u32),
    /// It is for another kind of CPU.
    #[error("is for {0}: must be for x86_64, as this host")]
    Machine(String),
    /// It is a library, but another one; its SONAME.
    #[error("is the library {0:?}: a library must have the SONAME {soname}", soname = crate::find::LIBKRUNFW)]
    Library(String),
    /// It is a bzImage that libkrun cannot unpack.
    #[error(
        "is a bzImage compressed with {0}, which libkrun cannot unpack: must be gzip, bzip2 or zstd, or the vmlinux in it"
    )]
    Compression(&'static str),
    /// It is a bzImage in which libkrun would take something else for the kernel.
    #[error("is a bzImage whose kernel libkrun does not find: use the vmlinux in it")]
    Hidden,
    /// It is cut off: the loader, or libkrun, would find nothing where the rest should be.
    #[error("is truncated: must be a whole kernel")]
    Truncated,
    /// It is none of what can be booted.
    #[error(
        "is no kernel: must be a {soname}, a vmlinux (ELF), or a bzImage compressed with gzip, bzip2 or zstd",
        soname = crate::find::LIBKRUNFW
    )]
    NoKernel,
}

impl Kernel {
    /// Opens a file and checks that a VM can boot it, as far as that shows from outside, and that it is root's alone.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub fn open(path: &Path) -> Result<Self, BadKernel> {
        Self::open_owned_by(path, 0)
    }

    fn open_owned_by(path: &Path, owner: u32) -> Result<Self, BadKernel> {
        let opened = || {
            if !path.is_absolute() {
                return Err(Problem::Relative);
            }
            // Opening a FIFO must not wait.
            let options =
                File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).to_owned();
            let file = options.open(path).map_err(Problem::Open)?;
            let found = file.metadata()?;
            match found.mode() & 0o7777 {
                _ if !found.is_file() => Err(Problem::NoFile),
                _ if found.uid() != owner => Err(Problem::Owner(found.uid())),
                mode if mode & OTHERS_WRITE != 0 => Err(Problem::Writable(mode)),
                _ => Ok((format::of(&file, found.len())?, file)),
            }
        };
        match opened() {
            Ok((format, file)) => Ok(Kernel { file: Arc::new(file), path: path.to_owned(), format }),
            Err(problem) => Err(BadKernel { path: path.to_owned(), problem }),
        }
    }

    /// What it is.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The path that it was opened by; for messages only.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file for a vmm, in a mount of its own that nobody can write through, whatever they open it by.
    ///
    /// # Errors
    /// The kernel's, which wants CAP_SYS_ADMIN.
    pub(crate) fn read_only(&self) -> io::Result<OwnedFd> {
        let mount = mount_tree::clone(&*self.file, false)?;
        let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        mount_tree::set_attributes(&mount, false, Attributes { set, ..Attributes::default() })?;
        // A link to what is open; nothing is looked up.
        Ok(File::open(format!("/proc/self/fd/{}", mount.as_raw_fd()))?.into())
    }
}

#[cfg(test)]
mod tests;
