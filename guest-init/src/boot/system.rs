//! Settings of the kernel and of PID 1's own process, made once at boot.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::{Mode, umask};

/// Descriptors that PID 1 and what it starts may have open (the kernel's default `nr_open`).
const MAX_FILES: u64 = 1 << 20;

/// A closed pipe is an error to handle, not a death.
pub fn ignore_sigpipe() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: installs no handler of ours.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &ignore) };
}

/// Fds 0-2, limits, `lo`. Needs /dev and /proc mounted.
pub fn prepare() -> Result<()> {
    umask(Mode::from_bits_truncate(0o022));
    fill_stdio().context("open /dev/null as stdin, stdout and stderr")?;
    setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, MAX_FILES).context("raise RLIMIT_NOFILE")?;
    linux::loopback::bring_up().context("bring up lo")
}

/// A kernel without a console leaves fds 0-2 closed: other files must never end up there.
fn fill_stdio() -> Result<()> {
    loop {
        let null = open("/dev/null", OFlag::O_RDWR, Mode::empty())?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        std::mem::forget(null);
    }
}
