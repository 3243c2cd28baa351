//! What else is asked of a task that is there: where it stands, signals, its terminal, freezing it.

use std::sync::Arc;

use containerd_shim_protos::events::task::{TaskPaused, TaskResumed};
use guest_protocol::api::StatsResponse;

use super::{
    process::{Ended, ProcessState, Status},
    tasks::Tasks,
};
use crate::{
    error::{Error, Result},
    lock::lock,
    sandbox::{ProcessId, Sandbox},
};

impl Tasks {
    /// Where a process stands, and its task's bundle.
    pub fn state(&self, id: &ProcessId) -> Result<(ProcessState, String)> {
        Ok((self.process(id)?.state(), self.task(&id.container)?.bundle.clone()))
    }

    /// Waits for the end of a process.
    pub async fn wait(&self, id: &ProcessId) -> Result<Ended> {
        let process = self.process(id)?;
        Ok(process.ended().await)
    }

    /// Signals a process, or all of its container's.
    ///
    /// # Errors
    /// `NOT_FOUND` when it has ended, `FAILED_PRECONDITION` for an exec before its start.
    pub async fn kill(&self, id: &ProcessId, signal: u32, all: bool) -> Result<()> {
        let process = self.process(id)?;
        match process.status() {
            Status::Stopped => {
                Err(Error::not_found(format!("process {id} has ended: process already finished")))
            }
            Status::Created if !id.is_init() => Err(Error::precondition(format!("exec {id} is not started"))),
            _ => self.sandbox.signal(id, signal, all).await,
        }
    }

    /// The container's pid on the host.
    pub fn pid(&self, container: &str) -> Result<u32> {
        Ok(self.task(container)?.pid)
    }

    /// The sandbox, for a call that needs the process in one of `allowed`.
    fn sandbox_for(&self, id: &ProcessId, allowed: &[Status], what: &str) -> Result<&Arc<dyn Sandbox>> {
        self.process(id)?.require(allowed, what)?;
        Ok(&self.sandbox)
    }

    /// Drops the shim's hold on a process's input. Not an error once the process has ended.
    pub async fn close_stdin(&self, id: &ProcessId) -> Result<()> {
        match self.process(id)?.status() {
            Status::Stopped => Ok(()),
            _ => self.sandbox.close_stdin(id).await,
        }
    }

    /// Sets a terminal's size.
    pub async fn resize(&self, id: &ProcessId, width: u32, height: u32) -> Result<()> {
        let task = self.task(&id.container)?;
        if let Some(exec) = lock(&task.execs).get_mut(&id.exec)
            && exec.process.status() == Status::Created
        {
            exec.size = Some((width, height));
            return Ok(());
        }
        let allowed = [Status::Created, Status::Running, Status::Paused];
        self.sandbox_for(id, &allowed, "resize the terminal of")?.resize(id, width, height).await
    }

    /// Freezes a container.
    pub async fn pause(&self, container: &str) -> Result<()> {
        let id = ProcessId::init(container);
        let process = self.process(&id)?;
        let _gate = process.gate.lock().await;
        self.sandbox_for(&id, &[Status::Running], "pause")?.pause(container).await?;
        process.set_status(Status::Paused);
        self.publish(TaskPaused { container_id: id.container, ..Default::default() });
        Ok(())
    }

    /// Thaws a container.
    pub async fn resume(&self, container: &str) -> Result<()> {
        let id = ProcessId::init(container);
        let process = self.process(&id)?;
        let _gate = process.gate.lock().await;
        self.sandbox_for(&id, &[Status::Paused], "resume")?.resume(container).await?;
        process.set_status(Status::Running);
        self.publish(TaskResumed { container_id: id.container, ..Default::default() });
        Ok(())
    }

    /// Changes a container's limits: an OCI `linux.resources` object as JSON.
    pub async fn update(&self, container: &str, resources: Vec<u8>) -> Result<()> {
        self.live(container, "update")?.update(container, resources).await
    }

    /// A container's resource use.
    pub async fn stats(&self, container: &str) -> Result<StatsResponse> {
        self.live(container, "read the stats of")?.stats(container).await
    }

    /// The sandbox, for a call on a container that has not ended.
    fn live(&self, container: &str, what: &str) -> Result<&Arc<dyn Sandbox>> {
        self.sandbox_for(
            &ProcessId::init(container),
            &[Status::Created, Status::Running, Status::Paused],
            what,
        )
    }
}
