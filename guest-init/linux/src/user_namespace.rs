//! User namespaces in which nobody is: for mounts with other owners, and for containers that join one. Source:
//! user_namespaces(7).

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
};

use nix::{sched::CloneFlags, sys::signal::Signal, unistd::Pid};

use crate::{clone, pidfd::Pidfd};

/// As many lines as the kernel takes. Source: user_namespaces(7), `UID_GID_MAP_MAX_EXTENTS`.
pub const MAX_RANGES: usize = 340;

/// A range of ids, inside of a namespace and outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first id inside.
    pub inside: u32,
    /// The id outside that it is.
    pub outside: u32,
    /// How many ids.
    pub length: u32,
}

/// What the ids of a namespace are outside of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Of users.
    pub users: Vec<Range>,
    /// Of groups.
    pub groups: Vec<Range>,
}

/// Namespaces, which live as long as somebody has them open or is in them.
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace.
    pub user: OwnedFd,
    /// A network namespace that it owns, if one was wanted.
    pub network: Option<OwnedFd>,
}

/// The id outside that `id` is, if any.
pub fn outside(ranges: &[Range], id: u32) -> Option<u32> {
    let of = |range: &Range| {
        let offset = id.checked_sub(range.inside).filter(|offset| *offset < range.length)?;
        range.outside.checked_add(offset)
    };
    ranges.iter().find_map(of)
}

/// Makes a user namespace, and a network namespace that belongs to it if so asked.
///
/// # Errors
/// The kernel's: ENOSPC where the host allows no more of them, EINVAL and EPERM for maps that it does not take.
pub fn make(maps: &IdMaps, network: bool) -> io::Result<Namespaces> {
    let flags = if network { CloneFlags::CLONE_NEWNET } else { CloneFlags::empty() };
    let (pid, pidfd) = hold(CloneFlags::CLONE_NEWUSER | flags)?;
    let made = (|| {
        let directory = format!("/proc/{pid}");
        fs::write(format!("{directory}/uid_map"), text(&maps.users))?;
        fs::write(format!("{directory}/gid_map"), text(&maps.groups))?;
        let open = |kind: &str| File::open(format!("{directory}/ns/{kind}")).map(OwnedFd::from);
        Ok(Namespaces { user: open("user")?, network: network.then(|| open("net")).transpose()? })
    })();
    // It may have gone: then nothing was made.
    let _ = pidfd.signal(Signal::SIGKILL);
    pidfd.reap()?;
    made
}

/// In one write, as the kernel wants it.
fn text(ranges: &[Range]) -> String {
    let line = |range: &Range| format!("{} {} {}\n", range.inside, range.outside, range.length);
    ranges.iter().map(line).collect()
}

/// A child that is in new namespaces until it is killed, or its parent ends.
fn hold(namespaces: CloneFlags) -> io::Result<(Pid, Pidfd)> {
    // SAFETY: the child makes system calls only.
    if let Some(holder) = unsafe { clone::fork(namespaces, None) }? {
        return Ok(holder);
    }
    // SAFETY: plain numbers. The child keeps none of its parent's descriptors.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        loop {
            libc::pause();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsRawFd, process::Command};

    use super::*;

    const RANGES: [Range; 2] =
        [Range { inside: 0, outside: 100_000, length: 1000 }, Range { inside: 5000, outside: 7, length: 1 }];

    #[test]
    fn an_id_is_found_in_its_range() {
        assert_eq!(outside(&RANGES, 999), Some(100_999));
        assert_eq!(outside(&RANGES, 5000), Some(7));
        assert_eq!(outside(&RANGES, 1000), None);
        assert_eq!(outside(&[Range { inside: 0, outside: u32::MAX, length: 2 }], 1), None);
    }

    #[test]
    fn a_namespace_has_its_maps_and_no_process() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: mapping ids needs root");
            return;
        }
        let maps = IdMaps { users: RANGES.to_vec(), groups: RANGES.to_vec() };
        let made = make(&maps, true).unwrap();
        let path = |fd: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        let network = made.network.as_ref().unwrap();
        let enter = [format!("--user={}", path(&made.user)), format!("--net={}", path(network))];
        // Its root may change what belongs to its network namespace.
        let script = "cat /proc/self/uid_map && echo 1 >/proc/sys/net/ipv4/ip_forward && echo mine";
        let shown = Command::new("nsenter").args(enter).args(["sh", "-c", script]).output().unwrap();
        let text = String::from_utf8(shown.stdout.clone()).unwrap();
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!(words, ["0", "100000", "1000", "5000", "7", "1", "mine"], "{shown:?}");
    }

    #[test]
    fn what_overlaps_is_refused() {
        let twice = IdMaps { users: vec![RANGES[0], RANGES[0]], groups: RANGES.to_vec() };
        make(&twice, false).unwrap_err();
    }
}
