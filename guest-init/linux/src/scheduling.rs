//! When a process gets the CPU: with all others, or only while nobody else wants it. Source: sched(7), `SCHED_IDLE`.

use std::{collections::HashSet, io};

use nix::errno::Errno;

use crate::pidfd::Pidfd;

/// A policy of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Its share, as every process.
    Normal,
    /// What others leave.
    Idle,
}

/// The list of threads is read until it has no new one, this often at most. Threads inherit the policy.
const READS: usize = 8;

/// Gives a policy to every thread that a process has, and by that to those that they start.
///
/// # Errors
/// ESRCH when it has ended; when it starts threads faster than they are found; the kernel's.
pub fn set(process: &Pidfd, policy: Policy) -> io::Result<()> {
    let mut known = HashSet::new();
    for _ in 0..READS {
        let threads = process.numbers("task")?;
        let new: Vec<_> = threads.into_iter().filter(|thread| known.insert(*thread)).collect();
        if new.is_empty() {
            return Ok(());
        }
        new.into_iter().try_for_each(|thread| set_thread(thread, policy))?;
    }
    Err(io::Error::other(format!("it starts threads faster than {READS} looks at its threads find them")))
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
    use std::{process::Command, sync::mpsc, thread};

    use nix::unistd::Pid;

    use super::*;

    /// The policy of a thread.
    fn current(thread: i32) -> i32 {
        // SAFETY: a number.
        unsafe { libc::sched_getscheduler(thread) }
    }

    #[test]
    fn a_process_waits_for_the_others_and_no_longer() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        let pidfd = Pidfd::open(Pid::from_raw(pid)).unwrap();
        set(&pidfd, Policy::Idle).unwrap();
        assert_eq!(current(pid), libc::SCHED_IDLE);
        set(&pidfd, Policy::Normal).unwrap();
        assert_eq!(current(pid), libc::SCHED_OTHER);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(set(&pidfd, Policy::Idle).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn every_thread_is_found() {
        let (stop, stopped) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = stopped.recv();
        });
        let own = Pidfd::open(Pid::this()).unwrap();
        assert!(own.numbers("task").unwrap().contains(&told.recv().unwrap()));
        drop(stop);
        thread.join().unwrap();
    }
}
