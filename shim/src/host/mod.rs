//! The real host of a sandbox: Linux, with mounts, cgroups, namespaces and the vmm.

pub mod anchor;
pub mod apparmor;
mod machine;
mod noted;
pub mod parts;
mod pooled;
mod rootfs;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use containerd_shim_protos::types::mount::Mount;
use oci_spec::runtime::LinuxResources;

use self::{anchor::Anchor, machine::KrunMachine};
use crate::{
    bundle::{NetworkNamespace, Role, Root},
    cgroup::{HostCgroup, Seat},
    config::Config,
    error::Result,
    files::{disk::VmDisk, mount::Mounted, pin::Pinned, share::ContainerShare},
    pool::Asked,
    sandbox::host::{self, Cgroup, Host, Names, RootRequest, Snapshot},
};

/// This host.
#[derive(Default)]
pub struct Linux {
    /// The question whether there is a VM that waits.
    asked: Mutex<Option<Asked>>,
}

impl Linux {
    fn asked(&self) -> MutexGuard<'_, Option<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Host for Linux {
    type Cgroup = HostCgroup;
    type Rootfs = Vec<Mounted>;
    type Anchor = Anchor;
    type Machine = KrunMachine;

    fn cgroup(&self, path: &Path, bundle: &Path, role: Role) -> Result<HostCgroup> {
        HostCgroup::make(path, bundle, role)
    }

    fn rootfs(&self, mounts: &[Mount], root: &Root, wanted: &RootRequest) -> Result<Snapshot<Vec<Mounted>>> {
        rootfs::make(mounts, root, wanted)
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

    fn expect_machine(&self, wanted: Option<(&Config, Option<&str>)>) {
        let asked = wanted.and_then(|(config, apparmor_profile)| Asked::of(config, apparmor_profile));
        *self.asked() = asked;
    }

    fn machine(
        &self,
        names: &Names,
        config: &Config,
        place: (u32, Option<&HostCgroup>),
        apparmor_profile: Option<&str>,
        disks: Vec<VmDisk>,
    ) -> Result<KrunMachine> {
        let asked = self.asked().take();
        KrunMachine::new(names, config, place, apparmor_profile, disks, asked)
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
