//! The vmm's network namespace: the one it is given, or a new one in which only `lo` is there.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

/// Enters `given`, or a new namespace.
pub fn enter(given: Option<OwnedFd>) -> Result<()> {
    match given {
        Some(netns) => setns(netns, CloneFlags::CLONE_NEWNET).context("setns"),
        None => {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare")?;
            raise_loopback().context("setting lo up")
        }
    }
}

fn raise_loopback() -> io::Result<()> {
    // SAFETY: the arguments are numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else knows.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: ifreq is plain data, for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: this request reads an ifreq, which names the interface and ends with a zero.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
