//! A process's input and output on the host, and the pumps that connect them to the guest's streams.
//!
//! containerd's client makes FIFOs and names them. The shim opens an output both for writing and
//! for reading, and an input also for writing, so that a client or containerd that goes away and
//! comes back finds the process undisturbed.

mod endpoint;
mod logger;
mod pump;
pub mod uri;

use guest_protocol::api;

pub use pump::{Endpoints, Pumps};

/// Where a process's input and output go, as containerd names it: a FIFO's path, a URI, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StdioPaths {
    /// Read by the process; empty for none.
    pub stdin: String,
    /// Written by the process; empty for none.
    pub stdout: String,
    /// Written by the process; empty for none, and with a terminal.
    pub stderr: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// Numbers the streams of one process, for the guest.
pub fn streams(paths: &StdioPaths, mut next: impl FnMut() -> u32) -> api::Stdio {
    let mut number = |wanted: bool| if wanted { next() } else { 0 };
    api::Stdio {
        stdin: number(!paths.stdin.is_empty()),
        stdout: number(!paths.stdout.is_empty() || paths.terminal),
        stderr: number(!paths.stderr.is_empty() && !paths.terminal),
        terminal: paths.terminal,
        ..Default::default()
    }
}
