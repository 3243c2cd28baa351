//! What happens to sandboxes, told to `krunctl metrics` if that runs: a datagram each, for which nobody waits.

#![expect(clippy::disallowed_methods, reason = "a socket in a directory that lets in root alone")]

use std::{
    fs::{self, File},
    io,
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt},
        net::UnixDatagram,
    },
};

use log::debug;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};

use crate::{
    files::{state_dir, status::BootTimes},
    sandbox::Exit,
};

/// Where reports are taken.
const SOCKET: &str = "/run/krun/metrics.sock";

/// What whoever takes them has locked.
const LOCK: &str = "/run/krun/metrics.lock";

/// The largest report, in bytes.
const MAX_LENGTH: usize = 512;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// A VM's guest is up.
    Booted {
        /// Whether it was booted before it was wanted.
        warm: bool,
        /// How long that took.
        times: BootTimes,
    },
    /// A VM was of no more use although its containers had not ended.
    Failed(Failure),
    /// A container's process ended.
    Exited(Reason),
    /// containerd was told that processes of a container were killed for memory.
    Oom,
}

/// Why a VM was of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It did not come up.
    Boot,
    /// Its guest did not answer.
    Unresponsive,
    /// Its guest broke the protocol.
    Protocol,
    /// The connection to its guest was lost.
    Connection,
    /// Its process ended.
    Died,
    /// Its process needed more memory than its cgroup has.
    Memory,
}

/// How a container's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// With status 0.
    Success,
    /// With another status.
    Error,
    /// By a signal.
    Signal,
    /// For memory.
    OutOfMemory,
    /// It was never made.
    NotMade,
}

impl From<Exit> for Reason {
    fn from(exit: Exit) -> Reason {
        match exit {
            Exit { oom_killed: true, .. } => Reason::OutOfMemory,
            Exit { status: 0, .. } => Reason::Success,
            // The guest tells 128 and the signal's number.
            Exit { status: 129..=192, .. } => Reason::Signal,
            _ => Reason::Error,
        }
    }
}

/// Tells it to whoever takes reports. It is lost when nobody does, or when too many wait to be taken.
pub fn send(report: Report) {
    let sent = || {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to(&serde_json::to_vec(&report)?, SOCKET)
    };
    match sent() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => debug!("report {report:?}: {error}"),
        _ => {}
    }
}

/// Takes reports, until it is dropped.
#[derive(Debug)]
pub struct Reports {
    socket: tokio::net::UnixDatagram,
    _lock: Flock<File>,
}

impl Reports {
    /// Takes the reports of all shims from now on, on the current runtime.
    ///
    /// # Errors
    /// When another process takes them; the file system's.
    pub fn take() -> io::Result<Reports> {
        // Makes the directory.
        state_dir::root()?;
        let lock = File::options().create(true).append(true).mode(0o600).open(LOCK)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => io::Error::other(format!("another process takes them at {SOCKET}")),
            errno => errno.into(),
        })?;
        if !fs::metadata(LOCK).is_ok_and(|found| lock.metadata().is_ok_and(|ours| ours.ino() == found.ino()))
        {
            return Err(io::Error::other("another process has just ended; try again"));
        }
        // What a killed one has left.
        let _ = fs::remove_file(SOCKET);
        let socket = UnixDatagram::bind(SOCKET)?;
        socket.set_nonblocking(true)?;
        Ok(Reports { socket: tokio::net::UnixDatagram::from_std(socket)?, _lock: lock })
    }

    /// Waits for the next report; none is a datagram that is no report.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn next(&self) -> io::Result<Option<Report>> {
        let mut buffer = [0; MAX_LENGTH];
        let length = self.socket.recv(&mut buffer).await?;
        Ok(serde_json::from_slice(&buffer[..length]).ok())
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        let _ = fs::remove_file(SOCKET);
        let _ = fs::remove_file(LOCK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_report_fits() {
        let times = BootTimes { launch_us: u64::MAX, guest_us: u64::MAX, configure_us: u64::MAX };
        for report in [
            Report::Booted { warm: false, times },
            Report::Failed(Failure::Unresponsive),
            Report::Exited(Reason::OutOfMemory),
            Report::Oom,
        ] {
            let text = serde_json::to_vec(&report).unwrap();
            assert!(text.len() <= MAX_LENGTH);
            assert_eq!(serde_json::from_slice::<Report>(&text).unwrap(), report);
        }
    }

    #[test]
    fn an_end_has_one_reason() {
        let reason = |status, oom_killed| Reason::from(Exit { status, oom_killed });
        assert_eq!(reason(0, false), Reason::Success);
        assert_eq!(reason(1, false), Reason::Error);
        assert_eq!(reason(137, false), Reason::Signal);
        assert_eq!(reason(137, true), Reason::OutOfMemory);
        assert_eq!(reason(255, false), Reason::Error);
    }
}
