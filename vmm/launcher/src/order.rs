//! The interface between [`crate::Vm::launch`] and the `krun-vmm vm` that it starts: the descriptors that the vmm inherits,
//! and what it reads from them. Nobody else uses it.

use std::{os::fd::RawFd, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{VmConfig, disk, kernel::Format};

/// Pipe from which the vmm reads its [`Order`], until the end of file.
pub const ORDER_FD: RawFd = 3;

/// Pipe without data: its end of file says that the parent has ended.
pub const LIFE_FD: RawFd = 4;

/// Network namespace that the vmm enters, if the configuration has one.
pub const NETNS_FD: RawFd = 5;

/// Terminal for the console, if the configuration has a file for its output.
pub const CONSOLE_FD: RawFd = 6;

/// The guest's kernel, if the order has one: see [`Kernel`].
pub const KERNEL_FD: RawFd = 7;

/// The first disk, if the order has disks; the next has the next number.
pub const DISK_FD: RawFd = 8;

/// Exit status of a vmm that failed before the VM started; its stderr says why.
pub const SETUP_FAILED: i32 = 251;

/// Exit status of a vmm whose parent has ended.
pub const ORPHANED: i32 = 252;

/// The configuration of a vmm, sent as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The VM.
    pub config: VmConfig,
    /// The kernel in libkrunfw's place, at [`KERNEL_FD`].
    pub kernel: Option<Kernel>,
    /// The disks, from [`DISK_FD`] on.
    pub disks: Vec<disk::Kind>,
    /// The secret that proves that a connection comes from PID 1.
    pub nonce: String,
}

/// A kernel that the vmm inherits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// What it is.
    pub format: Format,
    /// The path that it was opened by; for messages only.
    pub path: PathBuf,
}
