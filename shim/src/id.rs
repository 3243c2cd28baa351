//! The names and numbers that every part of the shim uses: the runtime's name, a process's, and a VM's stream numbers.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use guest_protocol::mux;

/// The runtime's name, as in `ctr run --runtime`.
pub const RUNTIME: &str = "io.containerd.krun.v2";

/// Names a process: a container's own, or an exec in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The container's id, which is also its task's.
    pub container: String,
    /// The exec's id; empty for the container's own process.
    pub exec: String,
}

impl ProcessId {
    /// The container's own process.
    pub fn init(container: &str) -> Self {
        ProcessId { container: container.to_owned(), exec: String::new() }
    }

    /// Whether this is the container's own process.
    pub fn is_init(&self) -> bool {
        self.exec.is_empty()
    }
}

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.is_init() {
            true => f.write_str(&self.container),
            false => write!(f, "{}/{}", self.container, self.exec),
        }
    }
}

/// Hands out the stream numbers of one VM. Clones share the count.
#[derive(Debug, Clone)]
pub struct StreamNumbers(Arc<AtomicU32>);

impl Default for StreamNumbers {
    fn default() -> Self {
        StreamNumbers(Arc::new(AtomicU32::new(mux::FIRST_STREAM)))
    }
}

impl StreamNumbers {
    /// One that was never used in this VM.
    pub fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}
