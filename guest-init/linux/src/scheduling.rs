//! When a process gets the CPU: with all others, or only while nobody else wants it. Source: sched(7), `SCHED_IDLE`.

use std::{collections::HashSet, io, os::fd::OwnedFd};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use crate::pidfd::Pidfd;

/// A policy of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Its share, as every process.
    Normal,
    /// What others leave.
    Idle,
}

/// How often the list of threads is read until it has none that is new: what they start meanwhile has their policy.
const READS: usize = 8;

/// Gives a policy to every thread that a process has, and by that to those that they start.
///
/// # Errors
/// ESRCH when it has ended; the kernel's.
pub fn set(process: &Pidfd, policy: Policy) -> io::Result<()> {
    let directory = process.proc()?;
    let mut known = HashSet::new();
    for _ in 0..READS {
        let mut are_new = false;
        for thread in threads(&directory)? {
            if known.insert(thread) {
                are_new = true;
                set_thread(thread, policy)?;
            }
        }
        if !are_new {
            break;
        }
    }
    Ok(())
}

fn threads(process: &OwnedFd) -> io::Result<Vec<libc::pid_t>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut tasks = Dir::from_fd(openat(process, "task", flags, Mode::empty())?)?;
    let named = tasks.iter().filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok());
    Ok(named.collect())
}

fn set_thread(thread: libc::pid_t, policy: Policy) -> io::Result<()> {
    let policy = match policy {
        Policy::Normal => libc::SCHED_OTHER,
        Policy::Idle => libc::SCHED_IDLE,
    };
    // SAFETY: sched_param is plain data; these policies want 0 as the priority.
    let parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: a valid sched_param.
    match Errno::result(unsafe { libc::sched_setscheduler(thread, policy, &raw const parameter) }) {
        // It has ended.
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_process_waits_for_the_others_and_no_longer() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as libc::pid_t;
        let pidfd = Pidfd::open(Pid::from_raw(pid)).unwrap();
        // SAFETY: numbers.
        let current = || unsafe { libc::sched_getscheduler(pid) };
        set(&pidfd, Policy::Idle).unwrap();
        assert_eq!(current(), libc::SCHED_IDLE);
        set(&pidfd, Policy::Normal).unwrap();
        assert_eq!(current(), libc::SCHED_OTHER);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(set(&pidfd, Policy::Idle).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
