//! The capabilities that virtiofs needs, for good: files of any owner, made and changed on behalf
//! of the guest's users. The guest's kernel decides permissions.

use std::io;

use anyhow::{Context, Result};
use nix::{errno::Errno, sys::prctl, unistd::setgroups};

/// The capabilities that are kept, with their numbers (linux/capability.h).
const KEPT: [(&str, u32); 10] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("DAC_READ_SEARCH", 2),
    ("FOWNER", 3),
    ("FSETID", 4),
    ("SETGID", 6),
    ("SETUID", 7),
    // A guest's server on a port below 1024, when its sockets are ours.
    ("NET_BIND_SERVICE", 10),
    ("MKNOD", 27),
    ("SETFCAP", 31),
];

/// libkrun changes the effective uid to make files for a guest's user; without this, that would
/// clear the effective capabilities, and with them access to set-group-id directories.
/// (linux/securebits.h: each bit with its lock.)
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = (1 << 2) | (1 << 3);

/// No capabilities from being uid 0.
const SECBIT_NOROOT: libc::c_ulong = 1 | (1 << 1);

/// No ambient capabilities.
const SECBIT_NO_CAP_AMBIENT_RAISE: libc::c_ulong = (1 << 6) | (1 << 7);

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h).
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Drops all other capabilities of this thread and the ways to get them back.
pub fn drop() -> Result<()> {
    setgroups(&[]).context("setgroups")?;
    for capability in 0..64 {
        if KEPT.iter().any(|(_, kept)| *kept == capability) {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, capability.into()) {
            // The kernel has no such capability, nor any beyond it.
            Err(Errno::EINVAL) => break,
            result => result.context("PR_CAPBSET_DROP")?,
        }
    }
    prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT | SECBIT_NO_CAP_AMBIENT_RAISE)
        .context("PR_SET_SECUREBITS")?;
    set(KEPT.iter().fold(0, |set, (_, number)| set | 1 << number)).context("capset")?;
    prctl::set_no_new_privs().context("PR_SET_NO_NEW_PRIVS")
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> nix::Result<()> {
    // SAFETY: these options take numbers.
    Errno::result(unsafe { libc::prctl(option, argument, 0, 0, 0) }).map(std::mem::drop)
}

fn set(kept: u64) -> io::Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [kept as u32, (kept >> 32) as u32].map(|half| Data {
        effective: half,
        permitted: half,
        inheritable: 0,
    });
    // SAFETY: version 3 reads a header and two data structures.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
