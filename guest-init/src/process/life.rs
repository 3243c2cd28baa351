//! The life of a process after it was made: its pumps, its exit, its record. The record comes last; any number may wait
//! for it, before and after.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use guest_protocol::api::ExitRecord;
use tokio::sync::{oneshot, watch};

use crate::io::stdio::Pumps;
use crate::process::reaper::Exit;
use crate::rpc::fault::Fault;

/// A container's or an exec's process.
#[derive(Clone)]
pub struct Process {
    pub pid: i32,
    /// The terminal's master.
    pub master: Option<Arc<OwnedFd>>,
    /// Set when it is reaped: from then on its pid may be another process's.
    ended: watch::Receiver<bool>,
    record: watch::Receiver<Option<ExitRecord>>,
}

impl Process {
    /// Follows child `pid` to its end. `finish` runs between the exit and the record, and says whether the OOM killer
    /// killed it.
    pub fn watch<F>(
        pid: i32,
        exit: oneshot::Receiver<Exit>,
        pumps: Pumps,
        master: Option<Arc<OwnedFd>>,
        finish: impl FnOnce() -> F + Send + 'static,
    ) -> Process
    where
        F: Future<Output = bool> + Send,
    {
        let (set_ended, ended) = watch::channel(false);
        let (set_record, record) = watch::channel(None);
        tokio::spawn(async move {
            let Ok(exit) = exit.await else { return };
            let _ = set_ended.send(true);
            let ((), oom_killed) = tokio::join!(pumps.drain(), finish());
            let mut record = ExitRecord::new();
            record.status = exit.status;
            record.exited_at_ns =
                exit.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
            record.oom_killed = oom_killed;
            log::debug!("process {pid} ended with status {}", exit.status);
            let _ = set_record.send(Some(record));
        });
        Process { pid, master, ended, record }
    }

    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits for the record.
    pub async fn record(&self) -> Result<ExitRecord, Fault> {
        let mut record = self.record.clone();
        let record = record.wait_for(Option::is_some).await;
        record
            .ok()
            .and_then(|record| record.clone())
            .ok_or_else(|| Fault::internal(format!("process {} was lost", self.pid)))
    }

    /// Sends `signal`, if the process has not ended.
    pub fn signal(&self, signal: u32) -> Result<(), Fault> {
        if self.has_ended() {
            return Err(Fault::not_found("process already finished"));
        }
        send(self.pid, signal)
    }
}

/// Sends `signal` to `pid`, which must not have been reaped.
pub fn send(pid: i32, signal: u32) -> Result<(), Fault> {
    // SAFETY: takes plain numbers.
    if unsafe { libc::kill(pid, signal as i32) } == 0 {
        return Ok(());
    }
    let err = std::io::Error::last_os_error();
    match err.raw_os_error() {
        Some(libc::EINVAL) => Err(Fault::invalid(format!("signal {signal} does not exist"))),
        Some(libc::ESRCH) => Err(Fault::not_found("process already finished")),
        _ => Err(Fault::internal(format!("send signal {signal} to process {pid}: {err}"))),
    }
}
