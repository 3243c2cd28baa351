//! The vmm's user namespace, in which every id is the host's. The vmm's capabilities then hold for files, which have owners,
//! and for nothing else of the host: not for its devices, network, clocks, limits or kernel.
//!
//! And the vmm's user: its effective uid stays root's, by which files are opened and made; its real uid becomes one that
//! nobody else has. What the kernel counts for a user, it counts for the real uid, in some cases in all user namespaces
//! together: what a vmm uses up is then not root's, nor another vmm's.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, PipeReader, Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
};

use anyhow::{Context, Result, ensure};
use linux::process_uid;
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sched::{CloneFlags, unshare},
    sys::{
        stat::Mode,
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork},
};

/// Every id but the last, which means "no id". Source: user_namespaces(7).
const EVERY_ID: &[u8] = b"0 0 4294967295\n";

/// The files of /proc/<pid> that map ids.
const MAPS: [&str; 2] = ["uid_map", "gid_map"];

/// "Leave it as it is", of setresuid(2).
const UNCHANGED: libc::uid_t = libc::uid_t::MAX;

/// This process's directory in the host's /proc, which the jail's root does not have.
pub struct Proc {
    directory: OwnedFd,
    /// The pid that the host has for it.
    pid: u32,
}

impl Proc {
    /// Opens it.
    pub fn open() -> Result<Proc> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        let directory = options.open("/proc/self").context("opening /proc/self")?.into();
        let pid = fs::read_link("/proc/self").context("reading /proc/self")?;
        let pid = pid.to_str().and_then(|pid| pid.parse().ok()).context("/proc/self leads to no pid")?;
        Ok(Proc { directory, pid })
    }

    /// Opens one of its files.
    pub fn open_for_writing(&self, name: &str) -> nix::Result<File> {
        let file = openat(&self.directory, name, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(File::from(file))
    }
}

/// Gives this process a real uid of its own. It must have one thread, and keep its capabilities whatever its uids are.
pub fn become_own(proc: &Proc) -> Result<()> {
    // SAFETY: numbers.
    Errno::result(unsafe { libc::setresuid(process_uid::of(proc.pid), UNCHANGED, UNCHANGED) })
        .context("setresuid")?;
    Ok(())
}

/// Enters a new user namespace. Says whether the host allows any: some have them turned off, and the rest of the jail holds
/// without one.
///
/// The process must have one thread. It keeps its capabilities, but only within the new namespace.
pub fn enter(proc: &Proc) -> Result<bool> {
    let (entered_read, mut entered_write) = io::pipe().context("pipe")?;
    // Only a process outside of the namespace may map the ids of others: a child that stays behind.
    // SAFETY: this process has one thread, so that its child may do anything.
    let mapper = match unsafe { fork() }.context("fork")? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(entered_write);
            let status = i32::from(map(proc, entered_read).is_err());
            // SAFETY: ends the child, without handlers.
            unsafe { libc::_exit(status) }
        }
    };
    drop(entered_read);
    let entered = unshare(CloneFlags::CLONE_NEWUSER);
    if entered.is_ok() {
        entered_write.write_all(&[1]).context("asking the mapper")?;
    }
    drop(entered_write);
    let mapped = waitpid(mapper, None).context("waitpid")?;
    match entered {
        Ok(()) => ensure!(mapped == WaitStatus::Exited(mapper, 0), "mapping its ids: {mapped:?}"),
        Err(Errno::ENOSPC | Errno::EUSERS | Errno::EINVAL | Errno::EPERM) => return Ok(false),
        Err(errno) => return Err(errno).context("unshare"),
    }
    Ok(true)
}

/// In the child: maps the ids once the parent has entered its namespace. Does nothing if the parent could not.
fn map(proc: &Proc, mut entered: PipeReader) -> io::Result<()> {
    if entered.read(&mut [0])? == 0 {
        return Ok(());
    }
    for name in MAPS {
        // Not before: an open file maps the ids of the namespace in which the process was when it was opened.
        proc.open_for_writing(name)?.write_all(EVERY_ID)?;
    }
    Ok(())
}
