//! What crosses from [`crate::Vm::launch`] to the `krun-vmm vm` that it spawns: which descriptors
//! it inherits and what it reads from them. Never anything a third party sees.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::VmConfig;

/// Pipe from which the vmm reads its [`Order`] until end of file.
pub const ORDER_FD: RawFd = 3;

/// Pipe that is never written: its end of file says that the parent is gone.
pub const LIFE_FD: RawFd = 4;

/// Network namespace to enter, if the configuration names one.
pub const NETNS_FD: RawFd = 5;

/// Terminal for the console, if the configuration names a file for its output.
pub const CONSOLE_FD: RawFd = 6;

/// Exit status of a vmm that failed before there was a VM; its stderr says why.
pub const SETUP_FAILED: i32 = 251;

/// Exit status of a vmm whose parent is gone.
pub const ORPHANED: i32 = 252;

/// All that a vmm is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The VM.
    pub config: VmConfig,
    /// Proves to the host that a connection comes from PID 1.
    pub nonce: String,
}
