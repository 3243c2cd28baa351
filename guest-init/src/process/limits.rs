//! The limits of a process (getrlimit(2)).

use anyhow::{Context, Result, anyhow};
use libcontainer::oci_spec::runtime::PosixRlimit;
use libcontainer::syscall::syscall::create_syscall;
use nix::errno::Errno;

/// Sets them for this process.
pub fn set(rlimits: &[PosixRlimit]) -> Result<()> {
    let syscalls = create_syscall();
    for rlimit in rlimits {
        syscalls.set_rlimit(rlimit).with_context(|| format!("set {:?}", rlimit.typ()))?;
    }
    Ok(())
}

/// Raises this process's hard limits to them where they are higher. In a user namespace nobody may.
pub fn allow(rlimits: &[PosixRlimit]) -> Result<()> {
    for rlimit in rlimits {
        raise(rlimit)
            .map_err(|errno| anyhow!("rlimit {} of {}: {}", rlimit.typ(), rlimit.hard(), errno.desc()))?;
    }
    Ok(())
}

fn raise(rlimit: &PosixRlimit) -> nix::Result<()> {
    let kind = rlimit.typ() as libc::__rlimit_resource_t;
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a structure that outlives the call.
    Errno::result(unsafe { libc::getrlimit(kind, &raw mut limits) })?;
    if rlimit.hard() > limits.rlim_max {
        limits.rlim_max = rlimit.hard();
        // SAFETY: a structure that outlives the call.
        Errno::result(unsafe { libc::setrlimit(kind, &raw const limits) })?;
    }
    Ok(())
}
