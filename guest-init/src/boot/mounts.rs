//! The file systems of PID 1's own mount namespace. Containers do not see them: they pivot into a root with the mounts of
//! their spec.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::container::held_mounts;

/// Where cgroup v2 is mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

struct Entry {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
    /// The directory has to be made, on a file system mounted before.
    make: bool,
    /// A kernel may lack it.
    optional: bool,
}

const HIDDEN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
const NO_SETUID: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

const TABLE: &[Entry] = &[
    entry("proc", "/proc", HIDDEN, "", false, false),
    entry("sysfs", "/sys", HIDDEN, "", false, false),
    // EBUSY where the kernel mounted it by itself.
    entry("devtmpfs", "/dev", DEVICES, "mode=755", false, false),
    entry("devpts", "/dev/pts", DEVICES, "newinstance,ptmxmode=0666,mode=620,gid=5", true, false),
    entry("tmpfs", "/dev/shm", NO_SETUID, "mode=1777", true, false),
    entry("mqueue", "/dev/mqueue", HIDDEN, "", true, true),
    entry("tmpfs", "/run", NO_SETUID, "mode=711", false, false),
    entry("tmpfs", "/tmp", NO_SETUID, "mode=1777", false, false),
    entry("cgroup2", CGROUP_ROOT, HIDDEN, "", false, false),
    entry("fusectl", held_mounts::CONNECTIONS, HIDDEN, "", false, true),
];

const fn entry(
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
    make: bool,
    optional: bool,
) -> Entry {
    Entry { kind, target, flags, data, make, optional }
}

/// Mounts everything, and enables every cgroup controller below the root.
pub fn mount_all() -> Result<()> {
    for entry in TABLE {
        mount_one(entry).with_context(|| format!("mount {} on {}", entry.kind, entry.target))?;
    }
    delegate_controllers().context("enable the cgroup controllers")
}

fn mount_one(entry: &Entry) -> Result<()> {
    if entry.make
        && let Err(err) = DirBuilder::new().mode(0o755).create(entry.target)
        && err.kind() != ErrorKind::AlreadyExists
    {
        return Err(err.into());
    }
    match mount(Some(entry.kind), entry.target, Some(entry.kind), entry.flags, Some(entry.data)) {
        Err(Errno::EBUSY) => Ok(()),
        Err(Errno::ENODEV) if entry.optional => Ok(()),
        other => Ok(other?),
    }
}

fn delegate_controllers() -> Result<()> {
    let available = fs::read_to_string(format!("{CGROUP_ROOT}/cgroup.controllers"))?;
    let wanted: Vec<String> = available.split_whitespace().map(|name| format!("+{name}")).collect();
    Ok(fs::write(format!("{CGROUP_ROOT}/cgroup.subtree_control"), wanted.join(" "))?)
}
