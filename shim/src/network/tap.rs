//! Taps: an interface of a namespace whose other side is a NIC of a VM.

use std::{
    fs::File,
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::unistd::Uid;

use crate::error::{Error, Result};

/// The device of all taps.
const DEVICE: &str = "/dev/net/tun";

/// Makes the tap `name` in this thread's network namespace. It persists. This process's user, which is also the vmm's,
/// may open it without capabilities.
///
/// # Errors
/// What could not be done; no tap stays behind.
#[expect(clippy::disallowed_methods, reason = "a constant path of /dev")]
pub fn make(name: &str) -> Result<()> {
    let failed = |what: &str, e: io::Error| Error::internal(format!("tap {name}: {what}")).because(e);
    let device = File::options().read(true).write(true).open(DEVICE).map_err(|e| {
        Error::precondition(format!("network = tap: open {DEVICE}: {e} (is the module tun loaded?)"))
    })?;
    // SAFETY: ifreq is plain data, for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(failed("its name is too long", io::ErrorKind::InvalidInput.into()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: this request reads and writes an ifreq, which names the interface and ends with a zero.
    let made = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    nix::errno::Errno::result(made).map_err(|e| failed("make it", e.into()))?;
    // The kernel removes it with the descriptor until it persists.
    number(device.as_fd(), libc::TUNSETOWNER as _, Uid::effective().as_raw().into())
        .map_err(|e| failed("set its owner", e))?;
    number(device.as_fd(), libc::TUNSETPERSIST as _, 1).map_err(|e| failed("make it persist", e))
}

/// An ioctl that takes a number.
fn number(device: BorrowedFd<'_>, request: libc::c_ulong, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: these requests take numbers.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), request as _, value) };
    nix::errno::Errno::result(done).map(drop).map_err(io::Error::from)
}
