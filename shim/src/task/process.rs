//! One process of a task: the container's own, or an exec.

use std::time::SystemTime;

use tokio::sync::{Mutex, watch};

use crate::{
    error::{Error, Result},
    sandbox::{Exit, ProcessId},
    stdio::StdioPaths,
};

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Made, not started.
    Created,
    /// Started.
    Running,
    /// Frozen with its container.
    Paused,
    /// Ended.
    Stopped,
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub exit: Exit,
    /// When the shim learned of it, by the host's clock.
    pub at: SystemTime,
}

/// A view of a process for `State`.
#[derive(Debug, Clone)]
pub struct ProcessState {
    /// Whose.
    pub id: ProcessId,
    /// The pid on the host; 0 before an exec's start.
    pub pid: u32,
    /// Where it stands.
    pub status: Status,
    /// Where its input and output go.
    pub stdio: StdioPaths,
    /// Its end, once stopped.
    pub ended: Option<Ended>,
}

/// One process of a task.
pub(super) struct Process {
    pub id: ProcessId,
    pub stdio: StdioPaths,
    /// Held while the process changes its state, so that a start is published before its exit.
    pub gate: Mutex<()>,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    status: Status,
    /// Its start was asked for, and is under way.
    starting: bool,
    pid: u32,
    ended: Option<Ended>,
}

impl Process {
    pub fn new(id: ProcessId, pid: u32, stdio: StdioPaths) -> Self {
        let state = State { status: Status::Created, starting: false, pid, ended: None };
        Process { id, stdio, gate: Mutex::new(()), state: watch::Sender::new(state) }
    }

    /// A start that is under way, which may take as long as a VM's boot, counts as done: containerd's
    /// restart monitor kills what it finds not running.
    pub fn state(&self) -> ProcessState {
        let state = *self.state.borrow();
        ProcessState {
            id: self.id.clone(),
            pid: state.pid,
            status: match state.status {
                Status::Created if state.starting => Status::Running,
                status => status,
            },
            stdio: self.stdio.clone(),
            ended: state.ended,
        }
    }

    pub fn status(&self) -> Status {
        self.state.borrow().status
    }

    pub fn set_status(&self, status: Status) {
        self.state.send_modify(|state| state.status = status);
    }

    pub fn set_starting(&self) {
        self.state.send_modify(|state| state.starting = true);
    }

    pub fn set_running(&self, pid: u32) {
        self.state.send_modify(|state| {
            state.status = Status::Running;
            state.pid = pid;
        });
    }

    /// Records the end; the first one counts.
    pub fn set_ended(&self, exit: Exit) -> Ended {
        let ended = Ended { exit, at: SystemTime::now() };
        self.state.send_modify(|state| {
            state.status = Status::Stopped;
            state.ended.get_or_insert(ended);
        });
        self.state.borrow().ended.unwrap_or(ended)
    }

    /// Waits for the end.
    pub async fn ended(&self) -> Ended {
        let mut changes = self.state.subscribe();
        loop {
            if let Some(ended) = changes.borrow_and_update().ended {
                return ended;
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// Refuses what needs the process in one of `allowed`.
    pub fn require(&self, allowed: &[Status], what: &str) -> Result<()> {
        let status = self.status();
        if allowed.contains(&status) {
            return Ok(());
        }
        let state = format!("{status:?}").to_lowercase();
        Err(Error::precondition(format!("cannot {what} {}: it is {state}", self.id)))
    }
}
