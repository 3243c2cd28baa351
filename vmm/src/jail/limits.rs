//! Resource limits of the vmm, and that no process of its uid may inspect it.

use anyhow::{Context, Result};
use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};

/// libkrun holds a descriptor for each inode that the guest knows. An inode of FUSE and its dentry take 1 KiB of the guest's
/// memory (832 and 192 bytes), so a guest that uses half of its memory for them knows this many per MiB.
const INODES_PER_MIB: u64 = 512;

/// Descriptors for all else: devices, and the guest's sockets with TSI.
const OTHER_FILES: u64 = 4096;

/// The kernel's default of `fs.nr_open`, the maximum of any limit. Source: proc_sys_fs(5).
const MAX_FILES: u64 = 1024 * 1024;

/// The maximum number of open files of a vmm whose guest has this much memory.
fn files(memory_mib: u32) -> u64 {
    (OTHER_FILES + INODES_PER_MIB * u64::from(memory_mib)).min(MAX_FILES)
}

/// Threads, of which a vmm has some thirty. The shim's cgroup for it has the same limit.
const THREADS: u64 = 1024;

/// Signals that may be pending: those that stop vCPUs, one or two for each. The kernel counts them for the vmm's user
/// namespace, and for the user who made that, root, as well.
const PENDING_SIGNALS: u64 = 256;

/// Limits what the kernel counts for this process's user, which must be its own. It must be in its user namespace: a namespace
/// that is made with these limits has them for all of its maker's.
pub fn set_users() -> Result<()> {
    setrlimit(Resource::RLIMIT_NPROC, THREADS, THREADS).context("RLIMIT_NPROC")?;
    setrlimit(Resource::RLIMIT_SIGPENDING, PENDING_SIGNALS, PENDING_SIGNALS).context("RLIMIT_SIGPENDING")
}

/// Sets the other limits of this process.
pub fn set(memory_mib: u32) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("RLIMIT_NOFILE")?;
    let files = files(memory_mib);
    if setrlimit(Resource::RLIMIT_NOFILE, files, files).is_err() {
        // This host allows less, and its maximum must do.
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(files), hard.min(files)).context("RLIMIT_NOFILE")?;
    }
    // A core file would contain the guest's memory.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("RLIMIT_CORE")?;
    prctl::set_dumpable(false).context("PR_SET_DUMPABLE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_files_follows_the_memory_up_to_the_kernels_maximum() {
        assert_eq!(files(128), 4096 + 65_536);
        assert_eq!(files(1024), 4096 + 524_288);
        assert_eq!(files(4096), 1_048_576);
        assert_eq!(files(u32::MAX), 1_048_576);
    }
}
