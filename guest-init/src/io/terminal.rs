//! A new terminal in the container that this process is in. The container controls /dev, so /dev/ptmx is checked.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use anyhow::{Context, Result, bail};
use libcontainer::oci_spec::runtime::Box as Size;
use nix::errno::Errno;

use crate::io::console;

const PTMX: &str = "/dev/ptmx";

/// Device number of a ptmx (major 5, minor 2).
const PTMX_DEVICE: u64 = 5 << 8 | 2;

/// Opens a terminal that `uid` owns: its master and its slave.
pub fn open(uid: u32, size: Option<Size>) -> Result<(OwnedFd, OwnedFd)> {
    let master = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(PTMX)
        .with_context(|| format!("open {PTMX}"))?;
    let kind = nix::sys::statfs::fstatfs(&master).with_context(|| format!("look at {PTMX}"))?;
    let device = master.metadata().with_context(|| format!("look at {PTMX}"))?.rdev();
    if kind.filesystem_type().0 != libc::DEVPTS_SUPER_MAGIC || device != PTMX_DEVICE {
        bail!("{PTMX} in the container is not a devpts multiplexer");
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: the request takes an int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) })
        .context("unlock the terminal")?;
    let slave = give(&master, uid)?;
    if let Some(size) = size {
        console::resize(&master, size.width() as u32, size.height() as u32)?;
    }
    Ok((master.into(), slave))
}

/// Gives the other side of a terminal to `uid`, whose processes may then open it by name, as /dev/stdout. Answers that side.
pub fn give(master: &impl AsRawFd, uid: u32) -> Result<OwnedFd> {
    let slave = other_side(master)?;
    nix::unistd::fchown(&slave, Some(uid.into()), None).context("chown the terminal to its user")?;
    Ok(slave)
}

/// The other side of a terminal. As long as somebody has it open, the terminal goes on, also when all processes on it have closed it
/// for a moment.
pub fn other_side(master: &impl AsRawFd) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes plain numbers.
    let slave = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })
        .context("open the terminal's other side")?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(slave) })
}
