//! The vmm's network namespace: the one of the configuration, or a new one with only `lo`.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use linux::loopback;
use nix::sched::{CloneFlags, setns, unshare};

/// Enters `given`, or a new namespace.
pub fn enter(given: Option<OwnedFd>) -> Result<()> {
    match given {
        Some(netns) => setns(netns, CloneFlags::CLONE_NEWNET).context("setns"),
        None => {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare")?;
            loopback::bring_up().context("setting lo up")
        }
    }
}
