//! One process in the guest, as the shim follows it: a container's own, or an exec.

use std::{sync::Arc, time::Duration};

use guest_protocol::api;
use log::warn;
use tokio::sync::{Notify, watch};

use crate::{
    sandbox::{Exit, ProcessId},
    stdio::Pumps,
};

/// How long a process that is being deleted waits for its client to read its output.
const DRAIN: Duration = Duration::from_secs(10);

/// A process that exists in the guest, or is about to.
pub struct Process {
    pub id: ProcessId,
    /// What the guest calls it.
    pub in_guest: ProcessId,
    pumps: watch::Sender<Option<Arc<Pumps>>>,
    exit: watch::Sender<Option<Exit>>,
    finished: watch::Sender<bool>,
    killed: Notify,
}

impl Process {
    pub fn new(id: ProcessId) -> Arc<Self> {
        let in_guest = id.clone();
        Process::in_guest_as(id, in_guest)
    }

    /// One that the guest calls otherwise.
    pub fn in_guest_as(id: ProcessId, in_guest: ProcessId) -> Arc<Self> {
        Arc::new(Process {
            id,
            in_guest,
            pumps: watch::Sender::new(None),
            exit: watch::Sender::new(None),
            finished: watch::Sender::new(false),
            killed: Notify::new(),
        })
    }

    /// Says that it was sent a SIGKILL: its end is expected soon.
    pub fn set_killed(&self) {
        self.killed.notify_one();
    }

    /// Waits until it was sent a SIGKILL. One waits at most.
    pub async fn killed(&self) {
        self.killed.notified().await;
    }

    /// How the guest is asked about it.
    pub fn reference(&self) -> api::ProcessRef {
        api::ProcessRef {
            container_id: self.in_guest.container.clone(),
            exec_id: self.in_guest.exec.clone(),
            ..Default::default()
        }
    }

    pub fn set_pumps(&self, pumps: Pumps) {
        self.pumps.send_replace(Some(Arc::new(pumps)));
    }

    pub fn pumps(&self) -> Option<Arc<Pumps>> {
        self.pumps.borrow().clone()
    }

    /// Records the end; the first one counts.
    pub fn set_exit(&self, exit: Exit) {
        self.exit.send_if_modified(|recorded| match recorded {
            Some(_) => false,
            None => {
                *recorded = Some(exit);
                true
            }
        });
    }

    /// The end, if it came.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for the end.
    pub async fn ended(&self) -> Exit {
        let mut changes = self.exit.subscribe();
        loop {
            if let Some(exit) = *changes.borrow_and_update() {
                return exit;
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// Records the end, and that of the output when it comes.
    pub async fn conclude(&self, exit: Exit) {
        self.set_exit(exit);
        if let Some(pumps) = self.pumps() {
            pumps.finish().await;
        }
        self.set_finished();
    }

    /// Says that nothing more will happen to the process, nor to its output.
    pub fn set_finished(&self) {
        self.finished.send_replace(true);
    }

    /// Waits until nothing more happens to it, for one that is deleted: output that its client
    /// does not read within [`DRAIN`] is given up.
    pub async fn finished(&self) {
        let mut changes = self.finished.subscribe();
        let mut finished = async || {
            // The sender lives in `self`, so this cannot fail.
            let _ = changes.wait_for(|finished| *finished).await;
        };
        if tokio::time::timeout(DRAIN, finished()).await.is_err()
            && let Some(pumps) = self.pumps()
        {
            warn!("the client did not read the output of {} within {DRAIN:?}: the rest is dropped", self.id);
            pumps.abort();
        }
        finished().await;
    }
}
