//! A NIC for an interface that may come later. It stays in the kernel's first network namespace, which PID 1 leaves for a new one,
//! so that no container sees it. RPC: Join.

use std::fs::File;

use anyhow::{Context, Result};
use guest_protocol::api::Network;
use linux::netlink::Netlink;
use nix::sched::{CloneFlags, unshare};

use crate::net::nics;

/// A way back to the namespace that has the NIC.
pub struct Spare(Netlink);

impl Spare {
    /// Remembers the namespace of this thread, which must be the kernel's first.
    pub fn remember() -> Result<Spare> {
        Ok(Spare(Netlink::open().context("open netlink")?))
    }

    /// Takes the NIC to the namespace of this thread, and sets it up there.
    pub fn join(mut self, network: &Network) -> Result<()> {
        let own = File::open("/proc/self/ns/net").context("open the own network namespace")?;
        nics::give_away(&mut self.0, network, &own).context("take the NIC")?;
        nics::configure(network)
    }
}

/// Leaves for a new namespace that holds a loopback interface alone. PID 1 has one thread at this time.
pub fn leave() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    linux::loopback::bring_up().context("bring up its lo")
}
