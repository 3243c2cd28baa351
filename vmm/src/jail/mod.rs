//! The jail of a vmm: it limits what a guest can do that has taken over its vmm.
//!
//! A process with one thread enters it once, before libkrun starts, so that it holds for every later thread. Nothing in
//! it can be undone from inside.

mod capabilities;
mod landlock;
mod limits;
pub mod network;
mod root;
mod seccomp;

use anyhow::{Context, Result};
use vm_launcher::VmConfig;

/// The guest's root, in the jail.
pub const SHARE: &str = "/share";

/// The directory of the socket that the guest connects to, in the jail.
pub const SOCKETS: &str = "/sock";

/// Closes the jail around this process.
pub fn enter(config: &VmConfig) -> Result<()> {
    root::change(config).context("changing the root")?;
    limits::set(config.memory_mib).context("setting limits")?;
    capabilities::drop().context("dropping capabilities")?;
    landlock::restrict(&config.network).context("restricting files with Landlock")?;
    seccomp::install(&config.network, config.debug_console.is_some())
        .context("installing the system call filter")
}
