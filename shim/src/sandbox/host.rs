//! What a sandbox needs of the host it runs on, so that its life can be tested without one: [`crate::host`] is the real host.
//!
//! Whatever a call makes is undone when its result is dropped, which may block.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use containerd_shim_protos::types::mount::Mount;
use guest_protocol::api;
use oci_spec::runtime::LinuxResources;
use vm_launcher::Guest;

use super::Exit;
use crate::{
    bundle::{NetworkNamespace, Role, Root, Volume},
    config::{Config, Size},
    error::Result,
    files::{follow::Follower, mount::ReadOnly, pin::Pinned, upper::UpperDisk, watch::Watched},
    network::{Backend, Choice, Dialer},
};

/// Where a container writes what it writes to its rootfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// To its snapshot on the host.
    Snapshot,
    /// To a disk in its snapshot, which becomes its VM's.
    Disk {
        /// How large it is made, in MiB.
        size_mib: u32,
        /// Whether what it syncs is to outlive a crash of the host.
        durable: bool,
    },
    /// To the disk that the VM has.
    VmsDisk,
}

/// A container's rootfs on the host.
pub struct Snapshot<Mounts> {
    /// What is undone at its end.
    pub mounts: Mounts,
    /// Its files, as far as the host has them.
    pub root: Pinned,
    /// Its disk for a VM.
    pub upper: Option<UpperDisk>,
}

/// The host.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// A cgroup for the processes of a container or a pod.
    type Cgroup: Cgroup;
    /// A mounted rootfs.
    type Rootfs: Send + Sync + 'static;
    /// A container's process on the host.
    type Anchor: Anchor;
    /// A VM.
    type Machine: Machine<Self::Cgroup>;

    /// Makes the cgroup that a spec names for the container with this bundle. It may block.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a path that names none; when it cannot be made.
    fn cgroup(&self, path: &Path, bundle: &Path, role: Role) -> Result<Self::Cgroup>;

    /// Mounts a container's rootfs where it is to be and resolves it; without mounts it is there already. It may block.
    ///
    /// # Errors
    /// What could not be mounted or made; `INVALID_ARGUMENT` when it is no directory, or has no place for a disk.
    fn rootfs(&self, mounts: &[Mount], root: &Root, writes: Writes) -> Result<Snapshot<Self::Rootfs>>;

    /// Starts the process that stands for a container on the host.
    ///
    /// # Errors
    /// What could not be done, naming the path; no process stays behind.
    async fn anchor(
        &self,
        container: &str,
        rootfs: &Pinned,
        network: &NetworkNamespace,
        cgroup: Option<Arc<Self::Cgroup>>,
    ) -> Result<Self::Anchor>;

    /// Makes what a VM needs, without launching it. `sandbox` is containerd's namespace and the sandbox's id, `anchor` the
    /// pid of a process in the task's network namespace, `apparmor_profile` the profile of its vmm, `upper` its disk for what containers write. It may block.
    ///
    /// # Errors
    /// What is missing or could not be done; nothing stays behind.
    fn machine(
        &self,
        sandbox: (&str, &str),
        config: &Config,
        anchor: u32,
        apparmor_profile: Option<&str>,
        upper: Option<UpperDisk>,
    ) -> Result<Self::Machine>;
}

/// A cgroup of the host.
pub trait Cgroup: Send + Sync + 'static {
    /// Returns the shim to the cgroup that it came from.
    type Seat: Send + 'static;

    /// Has the kernel enforce `limits`. It may block.
    ///
    /// # Errors
    /// What the kernel refuses, naming the cgroup.
    fn limit(&self, limits: &LinuxResources) -> Result<()>;

    /// Moves the shim into the cgroup until what this returns is dropped. It may block.
    ///
    /// # Errors
    /// When it cannot be moved.
    fn seat(&self) -> Result<Self::Seat>;
}

/// A process that stands for a container on the host.
#[async_trait]
pub trait Anchor: Send + Sync + 'static {
    /// Its pid.
    fn pid(&self) -> u32;

    /// Ends it. Idempotent.
    fn kill(&self);

    /// Waits for its end. Any number may wait.
    async fn ended(&self);
}

/// A VM, and what it has on the host.
#[async_trait]
pub trait Machine<Cgroup>: Send + Sync + 'static {
    /// A container's files in the VM's share.
    type Share: Share;

    /// Its CPUs and memory.
    fn size(&self) -> Size;

    /// How it reaches the network.
    fn network(&self) -> Choice;

    /// Whether it has a disk for what containers write to their roots.
    fn has_upper(&self) -> bool;

    /// Shows a container's rootfs and volumes to the guest. With the rootfs comes what of it the host makes read-only. It may
    /// block.
    ///
    /// # Errors
    /// What could not be shared, naming its path; nothing stays mounted.
    fn share(&self, container: &str, rootfs: (&Pinned, ReadOnly), volumes: &[Volume]) -> Result<Self::Share>;

    /// Watches a container's volumes for what the host changes in them. It may block.
    fn watch(&self, container: &str, volumes: &[Volume]) -> Vec<Watched>;

    /// The pid of a launched VM's process.
    fn vmm(&self) -> Option<u32>;

    /// Launches the VM in `cgroup`, which `anchor` is in, and in the network namespace of `anchor`, a pid. It boots on after
    /// this returns. To be called once, unless it failed.
    ///
    /// # Errors
    /// What is missing or could not be done; no process and no tap stays behind.
    async fn launch(&self, anchor: u32, cgroup: Option<&Cgroup>, dialer: &Dialer) -> Result<()>;

    /// Waits for the guest of a launched VM to dial. To be called once.
    ///
    /// # Errors
    /// When the VM ends first, or `patience` does.
    async fn guest(&self, patience: Duration) -> Result<Guest>;

    /// How the guest is to set up its network, once the VM is launched; none when it has its loopback interface only.
    fn guest_network(&self) -> Option<api::Network>;

    /// Joins the spare NIC of a VM whose guest is up to an interface that the network namespace has got since. It says how the
    /// guest is to set it up; none when there is no interface, or no spare NIC was to be.
    ///
    /// # Errors
    /// When there is an interface, and it cannot be joined.
    async fn join_network(&self, dialer: &Dialer) -> Result<Option<api::Network>>;

    /// Where published ports of a container lead, whose anchor is in the task's network namespace.
    ///
    /// # Errors
    /// When there is no such namespace.
    fn backend(&self, anchor: u32, dialer: &Dialer) -> Result<Backend>;

    /// Has the host's kernel end it sooner (up to 1000) or later (down to -1000) than others when memory runs out.
    fn set_oom_score_adj(&self, score: i32);

    /// Ends a launched VM at once. Idempotent.
    fn kill(&self);

    /// Waits until the process of a launched VM is gone. Any number may wait.
    async fn ended(&self) -> Ended;
}

/// A container's files in a share.
pub trait Share: Send + Sync + 'static {
    /// What has its volumes follow the host.
    fn follower(&self) -> &Follower;
}

/// The end of a VM's process.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What it means for a process in the guest whose end was not heard of.
    pub exit: Exit,
    /// What happened, for a person.
    pub reason: String,
}
