//! clone3(2) as a fork: the child is a copy of the calling thread's process, with a pidfd for its parent.

use std::{
    io, mem,
    mem::MaybeUninit,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::{sched::CloneFlags, unistd::Pid};

use crate::pidfd::Pidfd;

/// A flag of clone3 alone (linux/sched.h); libc's has too small a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child in new namespaces, and in a cgroup if one is open. The child gets nothing, and all signals blocked: one that arrived
/// would run a handler of its parent's.
///
/// # Safety
/// In the child, a copy of one thread of a threaded process, only async-signal-safe calls are allowed.
pub unsafe fn fork(namespaces: CloneFlags, cgroup: Option<RawFd>) -> io::Result<Option<(Pid, Pidfd)>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain numbers; zero is the kernel's "not used".
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = namespaces.bits() as u64 | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup as u64;
    }
    let parents_mask = block_signals()?;
    // SAFETY: as fork(2): without CLONE_VM the child has its own copy of this stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    if pid == 0 {
        return Ok(None);
    }
    let error = io::Error::last_os_error();
    // SAFETY: restores the mask that `block_signals` returned.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &parents_mask, ptr::null_mut()) };
    if pid < 0 {
        return Err(error);
    }
    // SAFETY: clone3 succeeded, so it stored a new descriptor, which nobody else knows.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some((Pid::from_raw(pid as i32), Pidfd::from(pidfd))))
}

fn block_signals() -> io::Result<libc::sigset_t> {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: sigfillset initialises the set it is given, pthread_sigmask the old mask.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        match libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) {
            0 => Ok(before.assume_init()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}
