//! In a fork: has the kernel look again at files that the host changed, and tell who watches them.
//!
//! The kernel keeps names and attributes of virtiofs for a time that nobody can set. A `mkdir` looks at its name anew, because
//! it must not find what another made a moment ago; through a read-only mount it makes nothing. With the answer come
//! the attributes, and pages of a file that has other times go. A change of the owner to [`UNCHANGED_OWNER`] does nothing on the
//! host, and tells who watches the file, or its directory, that its attributes changed (IN_ATTRIB).
//!
//! Each of these asks the host, so where many names changed, none is done for those that the kernel has not kept and nobody
//! watches. Nothing here leaves a volume, follows a link, or opens a file.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use guest_protocol::api::{Changed, LookAgainRequest};
use guest_protocol::boot::UNCHANGED_OWNER;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};

use super::look_cgroup::LookCgroup;
use super::watches::{self, Watch};
use crate::cgroup::Cgroup;
use crate::process::fork::EXTRA_FD;

/// The extended attribute that a change of owner takes away, be it to no other one. Source: capabilities(7).
const CAPABILITIES: &CStr = c"security.capability";

/// As many names are looked at in any case, or because somebody watches files. Each is a request to the host.
const FEW_NAMES: usize = 16;
const WATCHED_NAMES: usize = 128;

/// How many names are told to who watches their directories. For more, they hear that the directory changed.
const TOLD: usize = 64;

/// With more watched files, one that lost its name is told of by its directory alone.
const FEW_WATCHES: usize = 64;

/// A volume's two mounts, as `volumes` says, and what of it is watched.
struct Volume {
    number: u32,
    mount: BorrowedFd<'static>,
    read_only: BorrowedFd<'static>,
    watches: BTreeSet<Watch>,
}

/// Looks again at all that is named, then wakes those who watch it: whoever wakes sees all of it. The extra descriptors are the
/// mounts of the volumes with these `numbers`. The watches are those of the processes in `cgroup`.
pub fn run(request: &LookAgainRequest, numbers: &[u32], (cgroup, own): (&Cgroup, &LookCgroup)) -> i32 {
    let descriptor = |number: usize| {
        // SAFETY: the fork's extra descriptors are open for its whole life.
        unsafe { BorrowedFd::borrow_raw(EXTRA_FD + number as RawFd) }
    };
    // The container has made the files, and may have made many watches.
    if own.join().is_err() {
        return 1;
    }
    let all = watches::find(&cgroup.processes().unwrap_or_default());
    let of = |(at, number): (usize, &u32)| {
        let mount = descriptor(2 * at);
        Volume {
            number: *number,
            mount,
            read_only: descriptor(2 * at + 1),
            watches: watches::of(mount, &all),
        }
    };
    let volumes: Vec<Volume> = numbers.iter().enumerate().map(of).collect();
    let find = |number: u32| volumes.iter().find(|volume| volume.number == number);

    for volume in &volumes {
        let names_changed = |changed: &Changed| changed.volume == volume.number && changed.itself;
        if volume.watches.len() <= FEW_WATCHES && request.changed.iter().any(names_changed) {
            // Files that lost their names, while the kernel still knows these: then it tells their end.
            volume.watches.iter().filter_map(|watch| watch.open(volume.mount).ok()).for_each(look_at_open);
        }
    }
    if !request.all.is_empty() {
        forget_all();
    }
    let mut asked = 0;
    let looked: Vec<_> = request
        .changed
        .iter()
        .filter_map(|changed| {
            find(changed.volume).map(|volume| (volume, changed, volume.look_at(changed, &mut asked)))
        })
        .collect();
    let mut told = 0;
    for (volume, changed, names) in looked {
        volume.wake(changed, &names, &mut told);
    }
    for volume in request.all.iter().filter_map(|number| find(*number)) {
        look_at_open(volume.mount);
        if fstat(volume.mount).is_ok_and(|stat| volume.watches.iter().any(|watch| watch.ino == stat.st_ino)) {
            wake(volume.mount, c"");
        }
        for file in volume.watches.iter().filter_map(|watch| watch.open(volume.mount).ok()) {
            look_at_open(&file);
            wake(&file, c"");
        }
    }
    0
}

impl Volume {
    /// Looks again at the names that changed. Gives those that there are, as far as anybody may watch them.
    fn look_at(&self, changed: &Changed, asked: &mut usize) -> Vec<CString> {
        let Ok(directory) = below(self.read_only, &changed.directory) else { return Vec::new() };
        let names = changed.names.iter().filter_map(|name| CString::new(name.as_slice()).ok());
        // One that is not kept may lead to a file that is open, and whose attributes are.
        let most = if self.watches.is_empty() { FEW_NAMES } else { WATCHED_NAMES };
        let mut looks = || {
            *asked += 1;
            *asked <= most
        };
        let names = names.filter(|name| is_kept(&directory, name) || looks());
        names.filter(|name| look_at(&directory, name)).collect()
    }

    /// Tells who watches these `names`, or the directory that they are in.
    fn wake(&self, changed: &Changed, names: &[CString], told: &mut usize) {
        let Ok(directory) = below(self.mount, &changed.directory) else { return };
        if changed.itself {
            look_at_open(&directory);
        }
        if self.watches.is_empty() {
            return;
        }
        let is_watched = |ino: u64| self.watches.iter().any(|watch| watch.ino == ino);
        let Ok(stat) = fstat(&directory) else { return };
        let all = is_watched(stat.st_ino);
        let mut is_told = changed.itself;
        for name in names {
            if all && *told < TOLD {
                *told += 1;
            } else {
                is_told |= all;
                let stat = fstatat(&directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
                if !stat.is_ok_and(|stat| is_watched(stat.st_ino)) {
                    continue;
                }
            }
            wake(&directory, name);
        }
        // Also those who watch the directory that it is in.
        if is_told {
            wake(&directory, c"");
        }
    }
}

/// Has the kernel forget all names that are not in use.
fn forget_all() {
    // No line in the log each time; then dentries and inodes, of which those that were used lately stay once. Source:
    // Documentation/admin-guide/sysctl/vm.rst.
    for what in ["4", "2", "2"] {
        let _ = fs::write("/proc/sys/vm/drop_caches", what);
    }
}

/// The directory `path` of a volume, or the volume itself.
fn below(volume: BorrowedFd<'_>, path: &[u8]) -> nix::Result<OwnedFd> {
    if path.is_empty() {
        return volume.try_clone_to_owned().map_err(|_| Errno::EMFILE);
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat2(volume, path, OpenHow::new().flags(flags).resolve(IN_VOLUME))
}

const IN_VOLUME: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS)
    .union(ResolveFlag::RESOLVE_NO_XDEV);

/// Whether the kernel has kept what a name leads to, and would not ask the host about it.
fn is_kept(directory: &OwnedFd, name: &CStr) -> bool {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED));
    openat2(directory, name, how).is_ok()
}

/// Has the kernel look at a name anew; whether it leads to something.
fn look_at(read_only: &OwnedFd, name: &CStr) -> bool {
    matches!(mkdirat(read_only, name, Mode::empty()), Err(Errno::EEXIST))
}

/// Has the kernel look at an open file's attributes anew.
fn look_at_open(file: impl AsFd) {
    let mut stat = std::mem::MaybeUninit::<libc::statx>::uninit();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: an open descriptor, a C string, and room for what the call writes, which nobody reads.
    unsafe { libc::statx(fd, c"".as_ptr(), flags, libc::STATX_BASIC_STATS, stat.as_mut_ptr()) };
}

/// Has the kernel tell who watches `name` in `directory`, or the directory itself for an empty name.
fn wake(directory: impl AsFd, name: &CStr) {
    let (directory, mut flags) = (directory.as_fd(), AtFlags::AT_SYMLINK_NOFOLLOW);
    let stat = if name.is_empty() {
        flags |= AtFlags::AT_EMPTY_PATH;
        fstat(directory)
    } else {
        fstatat(directory, name, flags)
    };
    let Ok(stat) = stat else { return };
    let is_file = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    // A change of owner takes other users' rights from a program, be it to no other one.
    let gives_rights =
        stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0 || has_capabilities(directory, name);
    if is_file && gives_rights {
        return;
    }
    let (uid, gid) = (Uid::from_raw(UNCHANGED_OWNER), Gid::from_raw(UNCHANGED_OWNER));
    let _ = fchownat(directory, name, Some(uid), Some(gid), flags);
}

/// Whether a program has capabilities. Then it is left alone: the kernel would have the host take them away.
fn has_capabilities(directory: BorrowedFd<'_>, name: &CStr) -> bool {
    let mut path = format!("/proc/self/fd/{}", directory.as_raw_fd()).into_bytes();
    let get = if name.is_empty() {
        libc::getxattr
    } else {
        path.push(b'/');
        path.extend(name.to_bytes());
        libc::lgetxattr
    };
    let Ok(path) = CString::new(path) else { return true };
    // SAFETY: two C strings; with no room for the value the call tells its size only.
    let size = unsafe { get(path.as_ptr(), CAPABILITIES.as_ptr(), std::ptr::null_mut(), 0) };
    !matches!(Errno::result(size), Err(Errno::ENODATA | Errno::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_a_volume() {
        let top = std::env::temp_dir().join(format!("look-again-{}", std::process::id()));
        fs::create_dir_all(top.join("volume/a/b")).unwrap();
        std::os::unix::fs::symlink("..", top.join("volume/out")).unwrap();
        std::os::unix::fs::symlink("a", top.join("volume/link")).unwrap();
        let volume = fs::File::open(top.join("volume")).unwrap();
        assert!(below(volume.as_fd(), b"").is_ok());
        assert!(below(volume.as_fd(), b"a/b").is_ok());
        for path in ["..", "out", "link", "link/b", "a/../..", "/", "a/b/../../.."] {
            assert!(below(volume.as_fd(), path.as_bytes()).is_err(), "{path}");
        }
        fs::remove_dir_all(top).unwrap();
    }
}
