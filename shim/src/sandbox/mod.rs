//! What the task service needs of a sandbox: one VM and the containers in it.
//!
//! The trait is small enough to fake, so the whole task state machine is tested without a VM.

pub mod host;
pub mod krun;

use std::path::PathBuf;

use async_trait::async_trait;
use containerd_shim_protos::types::mount::Mount;
use guest_protocol::api::{ExitRecord, StatsResponse};

pub use crate::id::ProcessId;
use crate::{config::RuntimeOptions, error::Result, stdio::StdioPaths};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0-255; 128+n for death by signal n.
    pub status: u32,
    /// The kernel killed it for memory.
    pub oom_killed: bool,
}

impl Exit {
    /// Killed by SIGKILL.
    pub const KILLED: Exit = Exit { status: 137, oom_killed: false };

    /// Nobody knows how. Source: containerd's `runtime/v2`, which tells the same of a shim that died.
    pub const UNKNOWN: Exit = Exit { status: 255, oom_killed: false };
}

impl From<&ExitRecord> for Exit {
    /// What a guest says of it, which may be anything.
    fn from(record: &ExitRecord) -> Exit {
        Exit { status: record.status & 0xff, oom_killed: record.oom_killed }
    }
}

/// What is asked for when a container is made.
#[derive(Debug, Clone, Default)]
pub struct NewContainer {
    /// The container's id.
    pub id: String,
    /// Its bundle directory on the host.
    pub bundle: PathBuf,
    /// What containerd wants mounted as its rootfs; empty when the spec's root is there already.
    pub rootfs: Vec<Mount>,
    /// Where its input and output go.
    pub stdio: StdioPaths,
    /// What containerd says of our configuration.
    pub options: RuntimeOptions,
}

/// What is asked for when a process is added to a running container.
#[derive(Debug, Clone, Default)]
pub struct NewProcess {
    /// An OCI process object as JSON.
    pub process: Vec<u8>,
    /// Whether it is an operator's: it runs in the VM, outside of its containers.
    pub is_operators: bool,
}

/// A sandbox: one VM and the containers in it.
///
/// Every call may be made at any time and by several callers at once, except that a container's
/// `create` comes first and its `delete` last. No call is cancelled half way by its caller.
#[async_trait]
pub trait Sandbox: Send + Sync + 'static {
    /// Makes a container, which waits for its start, and gives its pid on the host.
    async fn create(&self, new: NewContainer) -> Result<u32>;

    /// Makes a process in a running container, and starts it.
    async fn exec(&self, id: &ProcessId, new: NewProcess, stdio: StdioPaths) -> Result<()>;

    /// Starts a created container's process. When that fails, the container ends.
    async fn start(&self, container: &str) -> Result<()>;

    /// Waits for the end of a process, and of its output; also when its VM dies, or never came up.
    async fn wait(&self, id: &ProcessId) -> Exit;

    /// Waits until more of a container's processes have been OOM-killed than the `known`, and answers how many; none when that
    /// cannot be known any more.
    async fn oom_kills(&self, container: &str, known: u64) -> Option<u64>;

    /// Signals one process, or all of the container.
    async fn signal(&self, id: &ProcessId, signal: u32, all: bool) -> Result<()>;

    /// Drops the shim's own hold on a process's input, so that its client's end is the end.
    async fn close_stdin(&self, id: &ProcessId) -> Result<()>;

    /// Sets a terminal's size, in characters.
    async fn resize(&self, id: &ProcessId, width: u32, height: u32) -> Result<()>;

    /// Freezes a container.
    async fn pause(&self, container: &str) -> Result<()>;

    /// Thaws a container.
    async fn resume(&self, container: &str) -> Result<()>;

    /// Changes a container's limits: an OCI `linux.resources` object as JSON.
    async fn update(&self, container: &str, resources: Vec<u8>) -> Result<()>;

    /// A container's resource use.
    async fn stats(&self, container: &str) -> Result<StatsResponse>;

    /// Forgets an ended exec; waits for the end of its output, within bounds.
    async fn delete_exec(&self, id: &ProcessId);

    /// Removes a container with all that was made for it. Does what it can: what fails is logged.
    async fn delete(&self, container: &str);
}
