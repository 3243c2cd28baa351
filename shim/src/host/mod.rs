//! The real host of a sandbox: Linux, with mounts, cgroups, namespaces and the vmm.

pub mod anchor;
mod apparmor;
mod machine;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use containerd_shim_protos::types::mount::Mount;
use oci_spec::runtime::LinuxResources;

use self::{anchor::Anchor, machine::KrunMachine};
use crate::{
    bundle::{NetworkNamespace, Role, Root},
    cgroup::{HostCgroup, Seat},
    config::Config,
    error::{Error, Result},
    files::{
        mount::{Mounted, lower_of},
        pin::Pinned,
        share::ContainerShare,
        upper::UpperDisk,
    },
    sandbox::host::{self, Cgroup, Host, Snapshot, Writes},
};

/// This host.
pub struct Linux;

#[async_trait]
impl Host for Linux {
    type Cgroup = HostCgroup;
    type Rootfs = Vec<Mounted>;
    type Anchor = Anchor;
    type Machine = KrunMachine;

    fn cgroup(&self, path: &Path, bundle: &Path, role: Role) -> Result<HostCgroup> {
        HostCgroup::make(path, bundle, role)
    }

    fn rootfs(&self, mounts: &[Mount], root: &Root, writes: Writes) -> Result<Snapshot<Vec<Mounted>>> {
        if writes == Writes::Snapshot {
            let (mounts, root) = match mounts {
                [] => (Vec::new(), root.open()?),
                mounts => Mounted::rootfs(mounts, &root.bundle, &root.path)?,
            };
            return Ok(Snapshot { mounts, root, upper: None });
        }
        let (image, snapshot) = lower_of(mounts)?;
        let (mounts, root) = Mounted::rootfs(&image, &root.bundle, &root.path)?;
        let upper = match writes {
            Writes::Disk { size_mib, durable } => {
                let snapshot = Pinned::open_directory(&snapshot).map_err(|e| {
                    Error::internal(format!("open the snapshot {}", snapshot.display())).because(e)
                })?;
                Some(UpperDisk::open(&snapshot, size_mib, durable)?)
            }
            Writes::Snapshot | Writes::VmsDisk => None,
        };
        Ok(Snapshot { mounts, root, upper })
    }

    async fn anchor(
        &self,
        container: &str,
        rootfs: &Pinned,
        network: &NetworkNamespace,
        cgroup: Option<Arc<HostCgroup>>,
    ) -> Result<Anchor> {
        Anchor::start(container, rootfs, network, cgroup).await
    }

    fn machine(
        &self,
        sandbox: (&str, &str),
        config: &Config,
        anchor: u32,
        apparmor_profile: Option<&str>,
        upper: Option<UpperDisk>,
    ) -> Result<KrunMachine> {
        KrunMachine::new(sandbox, config, anchor, apparmor_profile, upper)
    }
}

impl Cgroup for HostCgroup {
    type Seat = Seat;

    fn limit(&self, limits: &LinuxResources) -> Result<()> {
        HostCgroup::limit(self, limits)
    }

    fn seat(&self) -> Result<Seat> {
        HostCgroup::seat(self)
    }
}

#[async_trait]
impl host::Anchor for Anchor {
    fn pid(&self) -> u32 {
        Anchor::pid(self)
    }

    fn kill(&self) {
        Anchor::kill(self);
    }

    async fn ended(&self) {
        Anchor::ended(self).await;
    }
}

impl host::Share for ContainerShare {
    fn follower(&self) -> &crate::files::follow::Follower {
        ContainerShare::follower(self)
    }
}
