//! Settings of the kernel and of PID 1's own process, made once at boot.

use std::fs;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::{Mode, umask};

/// Descriptors that PID 1 and what it starts may have open (the kernel's default `nr_open`).
const MAX_FILES: u64 = 1 << 20;

/// Makes a write to a closed pipe an error instead of a death.
pub fn ignore_sigpipe() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: installs no handler of ours.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &ignore) };
}

/// Prepares fds 0-2, limits and `lo`. Needs /dev and /proc.
pub fn prepare() -> Result<()> {
    umask(Mode::from_bits_truncate(0o022));
    fill_stdio().context("open /dev/null as stdin, stdout and stderr")?;
    setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, MAX_FILES).context("raise RLIMIT_NOFILE")?;
    raise_pid_max().context("raise pid_max")?;
    linux::loopback::bring_up().context("bring up lo")
}

/// Allows as many processes and threads as memory has room for. A small kernel begins with 4096 numbers for them. Source:
/// proc_sys_kernel(5), `pid_max`.
fn raise_pid_max() -> std::io::Result<()> {
    const FILE: &str = "/proc/sys/kernel/pid_max";
    // What a small kernel allows is 32,768.
    fs::write(FILE, "4194304").or_else(|_| fs::write(FILE, "32768"))
}

/// Opens fds 0-2, which a kernel without a console leaves closed, so that no other file gets their numbers.
fn fill_stdio() -> Result<()> {
    loop {
        let null = open("/dev/null", OFlag::O_RDWR, Mode::empty())?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        std::mem::forget(null);
    }
}
