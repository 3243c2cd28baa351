//! The jail of a vmm: what is left to it when its guest has taken it over.
//!
//! It is entered once, by a process with one thread, before libkrun is started: everything here
//! holds for threads that are made later. Nothing in it can be undone from inside.

mod bpf;
mod capabilities;
mod limits;
pub mod network;
mod root;
mod seccomp;

use anyhow::{Context, Result};
use vm_launcher::VmConfig;

/// The guest's root, in the jail.
pub const SHARE: &str = "/share";

/// The directory of the socket that the guest dials, in the jail.
pub const SOCKETS: &str = "/sock";

/// Closes the jail around this process.
pub fn enter(config: &VmConfig) -> Result<()> {
    root::change(config).context("changing the root")?;
    limits::set().context("setting limits")?;
    capabilities::drop().context("dropping capabilities")?;
    seccomp::install().context("installing the system call filter")
}
