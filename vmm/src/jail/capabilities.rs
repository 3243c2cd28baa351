//! Drops all capabilities but those that virtiofs needs to make and change files of any owner for the guest's users. The
//! guest's kernel checks the users' permissions.

use std::io;

use anyhow::{Context, Result};
use nix::{errno::Errno, unistd::setgroups};

/// The capabilities that the vmm keeps, with their numbers. Source: linux/capability.h.
///
/// Not DAC_READ_SEARCH, which DAC_OVERRIDE contains but for opening files by handle; and not MKNOD: FIFOs, sockets and
/// overlayfs's whiteouts need no capability, and a device of the host is not the guest's to make.
const KEPT: [(&str, u32); 7] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("FOWNER", 3),
    ("FSETID", 4),
    ("SETGID", 6),
    ("SETUID", 7),
    ("SETFCAP", 31),
];

/// For a guest's server on a port below 1024, whose socket is the vmm's: `NET_BIND_SERVICE`.
const BIND: u32 = 10;

/// libkrun changes its effective uid to make a file for a guest's user. This bit prevents that the change clears the
/// effective capabilities, and with them access to set-group-id directories.
/// Source: linux/securebits.h; each bit with its lock.
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = (1 << 2) | (1 << 3);

/// Being uid 0 gives no capabilities.
const SECBIT_NOROOT: libc::c_ulong = 1 | (1 << 1);

/// No ambient capabilities can be raised.
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

/// Drops all other capabilities of this thread, and prevents that it gets them back. `binds` says that it keeps the one for
/// ports below 1024.
pub fn drop(binds: bool) -> Result<()> {
    setgroups(&[]).context("setgroups")?;
    let kept = KEPT.iter().map(|(_, number)| *number).chain(binds.then_some(BIND));
    let kept = kept.fold(0_u64, |set, number| set | 1 << number);
    for capability in 0..64_u32 {
        if kept & 1 << capability != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, capability.into()) {
            // This number is beyond the kernel's last capability.
            Err(Errno::EINVAL) => break,
            result => result.context("PR_CAPBSET_DROP")?,
        }
    }
    prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT | SECBIT_NO_CAP_AMBIENT_RAISE)
        .context("PR_SET_SECUREBITS")?;
    set(kept).context("capset")
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
