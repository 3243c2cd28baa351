//! The one container of the VM, and calls about it.

use anyhow::Result;
use guest_protocol::{
    api::{CreateContainerRequest, ProcessRef, SignalRequest, Stdio},
    failure::CallError,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use vm_launcher::Guest;

use crate::vm::call;

/// Its id.
pub const CONTAINER: &str = "run";

/// Makes the container, whose process then waits for [`start`].
///
/// # Errors
/// The guest's.
pub async fn create(guest: &Guest, spec: &Value, stdio: Stdio) -> Result<()> {
    let mut request = CreateContainerRequest::new();
    request.container_id = CONTAINER.to_owned();
    request.spec = serde_json::to_vec(spec)?;
    request.stdio = Some(stdio).into();
    guest.client.create_container(call(), &request).await.map_err(CallError::from)?;
    Ok(())
}

/// Starts its process.
///
/// # Errors
/// The guest's.
pub async fn start(guest: &Guest) -> Result<()> {
    guest.client.start(call(), &process("")).await.map_err(CallError::from)?;
    Ok(())
}

/// Names the process of an exec, or with "" the container's own.
pub fn process(exec: &str) -> ProcessRef {
    let mut process = ProcessRef::new();
    process.container_id = CONTAINER.to_owned();
    process.exec_id = exec.to_owned();
    process
}

/// Waits for the end of a process, and answers its exit status.
///
/// # Errors
/// The guest's.
pub async fn wait(guest: &Guest, process: &ProcessRef) -> Result<u8> {
    let wait = guest.client.wait(ttrpc::context::Context::default(), process);
    let record = wait.await.map_err(CallError::from)?;
    Ok(u8::try_from(record.status).unwrap_or(u8::MAX))
}

/// Sends a signal to the container's own process, or to all. One that has ended meanwhile needs none.
pub async fn signal(guest: &Guest, signal: Signal, all: bool) {
    let mut request = SignalRequest::new();
    request.container_id = CONTAINER.to_owned();
    request.signal = signal as u32;
    request.all = all;
    let _ = guest.client.signal(call(), &request).await;
}
