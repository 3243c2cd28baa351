//! The vmm's network namespace: the one of the configuration, or a new one with only `lo`.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
};

use anyhow::{Context, Result};
use linux::loopback;
use nix::sched::{CloneFlags, setns, unshare};

/// The first port on which any process may listen. Source: Documentation/networking/ip-sysctl.rst.
const FIRST_PORT: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Enters `given`, or a new namespace. Says whether that is another than the parent's, which is the host's.
pub fn enter(given: Option<OwnedFd>) -> Result<bool> {
    let parents = current()?;
    match given {
        Some(netns) => setns(netns, CloneFlags::CLONE_NEWNET).context("setns")?,
        None => {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare")?;
            loopback::bring_up().context("setting lo up")?;
        }
    }
    Ok(current()? != parents)
}

/// Lets every process of this namespace listen on every port: a guest's servers on ports below 1024, whose sockets are the
/// vmm's, need no capability of the vmm then.
pub fn open_all_ports() -> Result<()> {
    fs::write(FIRST_PORT, "0").with_context(|| format!("writing {FIRST_PORT}"))
}

/// What tells the namespace of this process from others.
fn current() -> Result<(u64, u64)> {
    let namespace = fs::metadata("/proc/self/ns/net").context("/proc/self/ns/net")?;
    Ok((namespace.dev(), namespace.ino()))
}
