//! How processes end. Of the kernel's wait statuses every one is understood: nix, for one, takes a death by a real-time
//! signal for an error, and the process is lost.

use std::{fmt, fs::File, io, os::fd::OwnedFd};

use nix::{
    fcntl::{OFlag, openat},
    sys::{signal::Signal, stat::Mode},
    unistd::Pid,
};
use rustix::{
    io::Errno,
    process::{self, WaitOptions, WaitStatus},
};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
    /// It is gone, and somebody else took its status.
    Unknown,
}

impl ExitStatus {
    /// The status that a shell would show: 128+n for a death by signal n, 255 for an end that is unknown.
    pub fn shell_status(self) -> u8 {
        match self {
            ExitStatus::Exited(status) => status as u8,
            // The kernel's last signal is 64.
            ExitStatus::Killed(signal) => 128 + signal as u8,
            ExitStatus::Unknown => u8::MAX,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Exited(status) => write!(f, "exit status {status}"),
            ExitStatus::Killed(signal) => match Signal::try_from(*signal) {
                Ok(name) => write!(f, "killed by {name}"),
                Err(_) => write!(f, "killed by signal {signal}"),
            },
            ExitStatus::Unknown => write!(f, "status unknown"),
        }
    }
}

impl From<WaitStatus> for ExitStatus {
    /// Takes the status of a process that has ended.
    fn from(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(status), _) => ExitStatus::Exited(status),
            (None, Some(signal)) => ExitStatus::Killed(signal),
            (None, None) => ExitStatus::Unknown,
        }
    }
}

/// Reaps child `pid`, or any child, if it has ended. Does not wait.
///
/// # Errors
/// The kernel's; ECHILD where there is no such child.
pub fn reap_now(pid: Option<Pid>) -> io::Result<Option<(Pid, ExitStatus)>> {
    let pid = pid.map(|pid| process::Pid::from_raw(pid.as_raw()).ok_or(Errno::CHILD)).transpose()?;
    loop {
        // Without a pid, waitpid() would find children of our own process group only.
        let reaped = match pid {
            Some(pid) => process::waitpid(Some(pid), WaitOptions::NOHANG),
            None => process::wait(WaitOptions::NOHANG),
        };
        match reaped {
            Err(Errno::INTR) => {}
            reaped => {
                return Ok(
                    reaped?.map(|(pid, status)| (Pid::from_raw(pid.as_raw_nonzero().get()), status.into()))
                );
            }
        }
    }
}

/// How a process has ended that its parent has not reaped yet, from its directory in /proc. It takes the right to trace it. Source:
/// proc_pid_stat(5), `exit_code`.
///
/// # Errors
/// ESRCH when it was reaped.
pub fn status_of(directory: &OwnedFd) -> io::Result<ExitStatus> {
    let file = openat(directory, "stat", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let text = io::read_to_string(File::from(file))?;
    let status = exit_code(&text).ok_or(io::ErrorKind::InvalidData)?;
    Ok(match libc::WIFSIGNALED(status) {
        true => ExitStatus::Killed(libc::WTERMSIG(status)),
        false => ExitStatus::Exited(libc::WEXITSTATUS(status)),
    })
}

/// Field 52 of a process's stat, which is the last one. The name, field 2, may have any characters.
fn exit_code(stat: &str) -> Option<i32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(52 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::Spawn;

    fn reap(pid: Pid) -> ExitStatus {
        loop {
            if let Some((reaped, how)) = reap_now(Some(pid)).unwrap() {
                assert_eq!(reaped, pid);
                return how;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn every_signal_that_kills_is_told() {
        let deadly = (1..=64).filter(|signal| {
            ![libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH].contains(signal)
                && ![libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(signal)
        });
        for signal in deadly {
            // Its signals are as by default, whatever those of the test are.
            let pid = Spawn::new("/bin/sleep").arg("1000").spawn().unwrap().pid();
            let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: a child of ours that is not reaped yet, and a limit that outlives the call.
            unsafe {
                let set =
                    libc::prlimit(pid.as_raw(), libc::RLIMIT_CORE, &raw const no_core, std::ptr::null_mut());
                assert_eq!(set, 0);
                assert_eq!(libc::kill(pid.as_raw(), signal), 0);
            }
            let how = reap(pid);
            assert_eq!((how, how.shell_status()), (ExitStatus::Killed(signal), 128 + signal as u8));
        }
    }

    #[test]
    fn an_exit_has_its_status() {
        let how = reap(Spawn::new("/bin/sh").arg("-c").arg("exit 255").spawn().unwrap().pid());
        assert_eq!((how, how.shell_status()), (ExitStatus::Exited(255), 255));
    }
}
