//! Forks of PID 1 in which libcontainer, setns and slow syncs run.
//!
//! PID 1 has one thread, so a fork of it is a whole process and needs no exec. A fork ends here: it must never return into
//! the runtime that it is a copy of. It must never log, and it keeps only the descriptors that it is given.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use linux::pidfd::Pidfd;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::process::reaper::{Exit, Reaper};
use crate::rpc::fault::Refusal;

/// The fork's end of the report pipe, after fds 0-2.
const REPORT_FD: RawFd = 3;

/// The first of the `extra` ones.
pub const EXTRA_FD: RawFd = 4;

/// Sources of a fork's descriptors are first moved up here, out of the way of the targets.
const SCRATCH_FD: RawFd = 256;

/// What a fork tells PID 1, one line each.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A process was made: its pid in PID 1's namespace.
    Pid(i32),
    /// Why there is none.
    Failed(Refusal),
}

/// A running fork.
pub struct Fork {
    pid: i32,
    reports: pipe::Receiver,
    exit: tokio::sync::oneshot::Receiver<Exit>,
}

/// In the fork: the way to report.
pub struct Reporter(OwnedFd);

impl Reporter {
    pub fn send(&self, report: &Report) {
        let mut line = serde_json::to_vec(report).unwrap_or_default();
        line.push(b'\n');
        // SAFETY: the descriptor stays open for the life of the fork; the File must not close it.
        let mut pipe = std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(self.0.as_raw_fd()) });
        let _ = pipe.write_all(&line);
    }
}

/// Runs `child` in a fork whose fds 0-2 are `stdio` and whose fds from 4 on are `extra`. The fork ends with the status
/// that `child` returns.
pub fn fork(
    reaper: &Reaper,
    stdio: [BorrowedFd<'_>; 3],
    extra: &[BorrowedFd<'_>],
    child: impl FnOnce(Reporter) -> i32,
) -> io::Result<Fork> {
    let (ours, theirs) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let mut descriptors = stdio.to_vec();
    descriptors.push(theirs.as_fd());
    descriptors.extend_from_slice(extra);
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = catch_unwind(AssertUnwindSafe(|| {
                if settle(&descriptors).is_err() {
                    return 125;
                }
                // SAFETY: settle() has put the report pipe there, and nobody else owns it.
                child(Reporter(unsafe { OwnedFd::from_raw_fd(REPORT_FD) }))
            }));
            // SAFETY: ends the process, with none of the parent's exit handlers.
            unsafe { libc::_exit(status.unwrap_or(125)) }
        }
        pid => {
            drop(theirs);
            Ok(Fork { pid, reports: pipe::Receiver::from_owned_fd(ours)?, exit: reaper.claim(pid) })
        }
    }
}

/// As [`fork`], where fds 0-2 are /dev/null.
pub fn fork_quietly(
    reaper: &Reaper,
    extra: &[BorrowedFd<'_>],
    child: impl FnOnce(Reporter) -> i32,
) -> io::Result<Fork> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    fork(reaper, [null.as_fd(), null.as_fd(), null.as_fd()], extra, child)
}

/// Detaches a fork from what it copied of PID 1: the logger, the signal mask, the descriptors.
fn settle(descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
    log::set_max_level(log::LevelFilter::Off);
    std::panic::set_hook(Box::new(|_| {}));
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: installs no handler of ours.
    unsafe { sigaction(Signal::SIGPIPE, &default) }?;
    SigSet::empty().thread_set_mask()?;
    let mut scratch = Vec::with_capacity(descriptors.len());
    for fd in descriptors {
        // SAFETY: a plain duplicate of an open descriptor.
        scratch.push(nix::errno::Errno::result(unsafe {
            libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, SCRATCH_FD)
        })?);
    }
    for (target, source) in (0..).zip(&scratch) {
        let flags = if target < REPORT_FD { 0 } else { libc::O_CLOEXEC };
        // SAFETY: what was open there belongs to the parent's objects, none of which is used here.
        nix::errno::Errno::result(unsafe { libc::dup3(*source, target, flags) })?;
    }
    // SAFETY: as above.
    nix::errno::Errno::result(unsafe { libc::close_range(descriptors.len() as u32, libc::c_uint::MAX, 0) })?;
    Ok(())
}

impl Fork {
    /// Waits for its end.
    pub async fn end(self) -> u32 {
        self.exit.await.map_or(255, |exit| exit.status)
    }

    /// What kills it when it is dropped, if it still runs.
    pub fn kill_on_drop(&self) -> io::Result<KillOnDrop> {
        Pidfd::open(Pid::from_raw(self.pid)).map(KillOnDrop)
    }

    /// The first report; a failure when the fork ends without one. Its own children may keep the pipe open, so the end of
    /// the fork counts as well as the pipe's.
    pub async fn first(mut self) -> Report {
        let mut text = Vec::new();
        let mut ended = false;
        loop {
            if let Some(report) = parse(&text).into_iter().next() {
                return report;
            }
            tokio::select! {
                biased;
                read = self.reports.read_buf(&mut text) => {
                    if !matches!(read, Ok(n) if n > 0) {
                        return Report::Failed(Refusal::other("the helper process ended without an answer"));
                    }
                }
                exit = &mut self.exit, if !ended => {
                    ended = true;
                    while matches!(self.reports.try_read_buf(&mut text), Ok(n) if n > 0) {}
                    if parse(&text).is_empty() {
                        let status = exit.map_or(255, |exit| exit.status);
                        let text = format!("the helper process ended with status {status} and no answer");
                        return Report::Failed(Refusal::other(text));
                    }
                }
            }
        }
    }

    /// All reports. They are complete when each process that could report has ended or has executed its program.
    pub async fn all(mut self) -> Vec<Report> {
        let mut text = Vec::new();
        while matches!(self.reports.read_buf(&mut text).await, Ok(n) if n > 0) {}
        parse(&text)
    }
}

/// Kills a fork when it is dropped.
pub struct KillOnDrop(Pidfd);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.signal(Signal::SIGKILL);
    }
}

/// The whole lines of `text`; a line that is no report is a failure in itself.
fn parse(text: &[u8]) -> Vec<Report> {
    text.split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n"))
        .map(|line| {
            serde_json::from_slice(line)
                .unwrap_or_else(|_| Report::Failed(Refusal::other(String::from_utf8_lossy(line).trim_end())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_lines_whatever_they_hold() {
        let report = Report::Failed(Refusal::other("two\nlines \"quoted\""));
        let mut text = serde_json::to_vec(&report).unwrap();
        text.push(b'\n');
        text.extend(b"{\"Pid\":4");
        assert_eq!(parse(&text), [report]);
    }
}
