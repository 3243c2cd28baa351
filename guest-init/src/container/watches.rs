//! What processes of a container watch with inotify, as /proc tells it. Source: proc_pid_fdinfo(5), Documentation/filesystems/proc.rst.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use linux::file_handle::{FileHandle, LONGEST};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};

/// How many are found at most: the rest is told nothing.
const MOST: usize = 4096;

/// How many descriptors of processes are looked at.
const DESCRIPTORS: usize = 1 << 16;

/// What /proc calls an inotify descriptor.
const INOTIFY: &str = "anon_inode:inotify";

/// A watched file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watch {
    /// The kernel's number of its file system.
    device: u64,
    pub ino: u64,
    /// What names it in its file system.
    handle: FileHandle,
}

/// The files that these processes watch.
pub fn find(processes: &[u32]) -> BTreeSet<Watch> {
    let (mut found, mut descriptors) = (BTreeSet::new(), 0);
    for process in processes {
        for descriptor in entries(&format!("/proc/{process}/fd")) {
            descriptors += 1;
            if descriptors > DESCRIPTORS {
                return found;
            }
            let link = fs::read_link(format!("/proc/{process}/fd/{descriptor}"));
            if !link.is_ok_and(|link| link.as_os_str() == INOTIFY) {
                continue;
            }
            let text = fs::read_to_string(format!("/proc/{process}/fdinfo/{descriptor}")).unwrap_or_default();
            found.extend(text.lines().filter_map(parse));
            if found.len() >= MOST {
                return found;
            }
        }
    }
    found
}

/// Those of the file system that `mount` is a mount of. Several volumes may be on one.
pub fn of(mount: BorrowedFd<'_>, all: &BTreeSet<Watch>) -> BTreeSet<Watch> {
    let Ok(stat) = fstat(mount) else { return BTreeSet::new() };
    let device = (u64::from(libc::major(stat.st_dev)) << 20) + u64::from(libc::minor(stat.st_dev));
    all.iter().filter(|watch| watch.device == device).cloned().collect()
}

fn entries(directory: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// A line such as `inotify wd:1 ino:5 sdev:1f mask:fce ignored_mask:0 fhandle-bytes:8 fhandle-type:81 f_handle:…`.
fn parse(line: &str) -> Option<Watch> {
    let line = line.strip_prefix("inotify ")?;
    let field = |name: &str| {
        line.split(' ').find_map(|field| field.strip_prefix(name).and_then(|field| field.strip_prefix(':')))
    };
    let number = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
    let text = field("f_handle")?;
    let byte = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes = (0..text.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?;
    let fits = bytes.len() as u64 == number("fhandle-bytes")? && bytes.len() <= LONGEST;
    let handle = FileHandle { kind: number("fhandle-type")? as i32, bytes };
    fits.then_some(Watch { device: number("sdev")?, ino: number("ino")?, handle })
}

impl Watch {
    /// Opens it for naming it, as one of `mount`, a directory.
    pub fn open(&self, mount: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        self.handle.open(openat(mount, ".", flags, Mode::empty())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_a_line_of_fdinfo() {
        let line = "inotify wd:3 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 \
                    f_handle:7e9e0000640d1b6c";
        let handle = FileHandle { kind: 1, bytes: vec![0x7e, 0x9e, 0, 0, 0x64, 0x0d, 0x1b, 0x6c] };
        assert_eq!(parse(line), Some(Watch { device: 0x800013, ino: 0x9e7e, handle }));
        let cut = &line[..line.len() - 1];
        for other in ["pos:\t0", "inotify wd:1 ino:1 sdev:1", &line.replace("bytes:8", "bytes:9"), cut] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
