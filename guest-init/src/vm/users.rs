//! The VM's user namespace, for containers that are to have one. It owns the VM's network, so that their root may change that as
//! it may elsewhere.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use guest_protocol::api::Network;
use libcontainer::oci_spec::runtime::{LinuxIdMapping, Spec};
use linux::netlink::Netlink;
use linux::user_namespace::{self, IdMaps, Range};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};

use crate::net::nics;

/// Where it is.
pub const PATH: &str = "/run/krun-users";

/// Makes it, and moves PID 1 and the NICs of `network` to its network namespace.
pub fn make(maps: &IdMaps, network: Option<&Network>) -> Result<()> {
    ensure!(!Path::new(PATH).exists(), "there is one");
    let made = user_namespace::make(maps, true)?;
    let its_network = made.network.context("it has no network")?;
    if let Some(network) = network {
        let mut netlink = Netlink::open().context("open netlink")?;
        nics::give_away(&mut netlink, network, &its_network).context("move the NICs to it")?;
    }
    setns(&its_network, CloneFlags::CLONE_NEWNET).context("enter its network")?;
    linux::loopback::bring_up().context("bring up its lo")?;
    pin(&made.user).with_context(|| format!("bind it to {PATH}"))
}

/// Keeps it at its path.
fn pin(namespace: &OwnedFd) -> Result<()> {
    File::create_new(PATH)?;
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    Ok(mount(Some(source.as_str()), PATH, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// The VM's id of `uid`, a user in the container of `spec`.
pub fn outside(spec: &Spec, uid: u32) -> Result<u32> {
    let mappings = spec.linux().as_ref().and_then(|linux| linux.uid_mappings().as_deref());
    find(mappings, uid).with_context(|| format!("process.user.uid {uid}: linux.uidMappings has no such user"))
}

/// The VM's ids of root's user and group in the container of `spec`.
pub fn root_outside(spec: &Spec) -> Result<(u32, u32)> {
    let linux = spec.linux().as_ref();
    let user = find(linux.and_then(|linux| linux.uid_mappings().as_deref()), 0);
    let group = find(linux.and_then(|linux| linux.gid_mappings().as_deref()), 0);
    user.zip(group).context("linux.uidMappings, linux.gidMappings: there is no root")
}

fn find(mappings: Option<&[LinuxIdMapping]>, id: u32) -> Option<u32> {
    let Some(mappings) = mappings else { return Some(id) };
    let range =
        |of: &LinuxIdMapping| Range { inside: of.container_id(), outside: of.host_id(), length: of.size() };
    let ranges: Vec<_> = mappings.iter().map(range).collect();
    user_namespace::outside(&ranges, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_outside_is_that_of_its_range() {
        let of = |linux: serde_json::Value, uid| {
            let spec = serde_json::json!({"ociVersion": "1.1.0", "linux": linux});
            outside(&serde_json::from_value(spec).unwrap(), uid).map_err(|err| err.to_string())
        };
        assert_eq!(of(serde_json::json!({}), 7).unwrap(), 7);
        let mapped = serde_json::json!({"uidMappings": [
            {"containerID": 0, "hostID": 100_000, "size": 10}, {"containerID": 50, "hostID": 7, "size": 1},
        ]});
        assert_eq!(of(mapped.clone(), 9).unwrap(), 100_009);
        assert_eq!(of(mapped.clone(), 50).unwrap(), 7);
        assert!(of(mapped, 10).unwrap_err().contains("uid 10"));
    }
}
