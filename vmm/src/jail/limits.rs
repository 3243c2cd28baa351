//! Resource limits of the vmm, and that nobody of its uid may look into it.

use anyhow::{Context, Result};
use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};

/// libkrun holds a descriptor for each inode that the guest knows. The kernel's default for
/// `fs.nr_open`, the most that can be had.
const MAX_FILES: u64 = 1024 * 1024;

/// Sets them for this process.
pub fn set() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("RLIMIT_NOFILE")?;
    if setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, MAX_FILES).is_err() {
        // This host allows less: all that there is, then.
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("RLIMIT_NOFILE")?;
    }
    // A core would hold the guest's memory.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("RLIMIT_CORE")?;
    prctl::set_dumpable(false).context("PR_SET_DUMPABLE")
}
