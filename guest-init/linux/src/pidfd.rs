//! Processes by descriptor. A pidfd stays with its process; the process's number may become another's.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::{
    dir::Dir,
    fcntl::{OFlag, openat},
    sys::{signal::Signal, stat::Mode},
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{self, PidfdFlags, WaitId, WaitIdOptions},
};
use tokio::io::{Interest, unix::AsyncFd};

pub use crate::wait::ExitStatus;

/// A process. Dropping it leaves the process alone.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// Opens the process that has this number now.
    ///
    /// # Errors
    /// The kernel's: ESRCH when there is none.
    pub fn open(pid: Pid) -> io::Result<Pidfd> {
        let pid =
            Some(pid.as_raw()).filter(|pid| *pid > 0).and_then(process::Pid::from_raw).ok_or(Errno::SRCH)?;
        Ok(Pidfd(process::pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Another descriptor of the same process.
    ///
    /// # Errors
    /// When there are too many files open.
    pub fn try_clone(&self) -> io::Result<Pidfd> {
        Ok(Pidfd(self.0.try_clone()?))
    }

    /// The number that the process has here. Source: proc_pid_fdinfo(5).
    ///
    /// # Errors
    /// ESRCH when it has been reaped, or is in none of our pid namespaces.
    pub fn pid(&self) -> io::Result<Pid> {
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()))?;
        let pid = about.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        Ok(Pid::from_raw(pid.filter(|pid| *pid > 0).ok_or(Errno::SRCH)?))
    }

    /// Its directory in /proc, which stays its own.
    ///
    /// # Errors
    /// ESRCH when it has ended.
    pub fn proc(&self) -> io::Result<OwnedFd> {
        let directory = File::open(format!("/proc/{}", self.pid()?))?;
        // The directory belongs to the process that had the number when it was opened: this one, if it is there still.
        match self.ends_within(Duration::ZERO)? {
            true => Err(Errno::SRCH.into()),
            false => Ok(directory.into()),
        }
    }

    /// The numbers in one of the directories below that: its threads in `task`, its descriptors in `fd`.
    ///
    /// # Errors
    /// ESRCH when it has ended; the kernel's.
    pub fn numbers(&self, directory: &str) -> io::Result<Vec<i32>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut entries = Dir::from_fd(openat(self.proc()?, directory, flags, Mode::empty())?)?;
        let names = entries.iter().filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok());
        Ok(names.collect())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The kernel's: ESRCH when the process has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let signal = process::Signal::from_named_raw(signal as i32).ok_or(Errno::INVAL)?;
        Ok(process::pidfd_send_signal(&self.0, signal)?)
    }

    /// Blocks until the process has ended, for at most `patience`, and says whether it has.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn ends_within(&self, patience: Duration) -> io::Result<bool> {
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        Ok(poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&patience))? > 0)
    }

    /// Waits until the process has ended. Any number may wait.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub async fn ended(&self) -> io::Result<()> {
        // A copy, because one descriptor can be registered only once.
        let copy = self.0.try_clone()?;
        // SAFETY: an OwnedFd keeps to the rules of I/O safety: one open descriptor, always the same.
        let watched = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }?;
        let _readable = watched.readable().await?;
        Ok(())
    }

    /// Blocks until the process, a child of ours, has ended, and takes its status.
    ///
    /// # Errors
    /// When the wait fails.
    pub fn reap(&self) -> io::Result<ExitStatus> {
        let ended = loop {
            match process::waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return Ok(ExitStatus::Unknown),
                done => break done?,
            }
        };
        let Some(ended) = ended else { return Ok(ExitStatus::Unknown) };
        Ok(match (ended.exit_status(), ended.terminating_signal()) {
            (Some(status), _) => ExitStatus::Exited(status),
            (None, Some(signal)) => ExitStatus::Killed(signal),
            (None, None) => ExitStatus::Unknown,
        })
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Pidfd {
    /// Takes a descriptor that is a pidfd.
    fn from(fd: OwnedFd) -> Self {
        Pidfd(fd)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn shell(script: &str) -> (Child, Pidfd) {
        let child = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        let pidfd = Pidfd::open(Pid::from_raw(child.id() as i32)).unwrap();
        (child, pidfd)
    }

    #[test]
    fn a_process_is_signalled_watched_and_reaped() {
        let (_child, pidfd) = shell("exec sleep 1000");
        assert!(!pidfd.ends_within(Duration::ZERO).unwrap());
        pidfd.signal(Signal::SIGTERM).unwrap();
        assert!(pidfd.ends_within(Duration::from_secs(60)).unwrap());
        assert_eq!(pidfd.reap().unwrap(), ExitStatus::Killed(libc::SIGTERM));
        assert_eq!(pidfd.reap().unwrap(), ExitStatus::Unknown);
        assert_eq!(pidfd.signal(Signal::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_process_has_its_number_and_its_directory_until_its_end() {
        let (child, pidfd) = shell("exec sleep 1000");
        assert_eq!(pidfd.pid().unwrap().as_raw(), child.id() as i32);
        let directory = pidfd.proc().unwrap();
        pidfd.signal(Signal::SIGKILL).unwrap();
        assert!(pidfd.ends_within(Duration::from_secs(60)).unwrap());
        assert_eq!(pidfd.proc().unwrap_err().raw_os_error(), Some(libc::ESRCH));
        pidfd.reap().unwrap();
        assert_eq!(pidfd.pid().unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert!(
            nix::fcntl::openat(directory, "stat", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty())
                .is_err()
        );
    }

    #[test]
    fn a_death_by_a_real_time_signal_is_told() {
        let (_child, pidfd) = shell("kill -40 $$");
        let how = pidfd.reap().unwrap();
        assert_eq!((how, how.to_string().as_str()), (ExitStatus::Killed(40), "killed by signal 40"));
    }

    #[test]
    fn no_process_is_esrch() {
        // The last is beyond the kernel's PID_MAX_LIMIT.
        for pid in [-1, 0, i32::MAX] {
            let error = Pidfd::open(Pid::from_raw(pid)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "{pid}");
        }
    }
}
