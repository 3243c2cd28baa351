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
    config::{Config, Roots, Size},
    error::Result,
    files::{
        disk::VmDisk, follow::Follower, mount::ReadOnly, pin::Pinned, share::SharedRoot, status::PodName,
        watch::Watched,
    },
    network::{Backend, Choice, Dialer, Resolver},
};

/// Whose VM it is.
#[derive(Debug, Clone)]
pub struct Names {
    /// containerd's namespace.
    pub namespace: String,
    /// The sandbox's id.
    pub sandbox: String,
    /// What Kubernetes calls it.
    pub pod: Option<PodName>,
}

/// How a boot went.
#[derive(Debug, Clone)]
pub struct Booted {
    /// How long the guest took to call, from the launch on.
    pub called: Duration,
    /// How long it took to be configured, from its call on.
    pub configured: Duration,
    /// What the guest says of its kernel's version.
    pub kernel: String,
}

/// What is wanted of a container's rootfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootRequest {
    /// Where it is to be.
    pub roots: Roots,
    /// What the container is to its sandbox.
    pub role: Role,
    /// How large a disk for what is written is made, in MiB.
    pub size_mib: u32,
    /// Whether the VM has such a disk, if there is a VM.
    pub has_upper: Option<bool>,
}

/// A container's rootfs.
pub struct Snapshot<Mounts> {
    /// What is undone at its end.
    pub mounts: Mounts,
    /// Its files, as far as the host has them.
    pub root: Pinned,
    /// The disk that its VM is to have for it.
    pub disk: Option<VmDisk>,
    /// What the guest makes of it.
    pub guest: GuestRoot,
}

/// What the guest makes a container's root of.
#[derive(Debug)]
pub struct GuestRoot {
    /// What it finds in the share.
    pub shared: SharedRoot,
    /// Where the container writes.
    pub upper: api::Upper,
    /// The file system that is the whole of it.
    pub image: Option<api::Image>,
}

impl GuestRoot {
    /// What the share has of it, which the container writes to.
    pub fn shared(root: Pinned) -> GuestRoot {
        let shared = SharedRoot::Rootfs(root, ReadOnly::Nothing);
        GuestRoot { shared, upper: api::Upper::UPPER_SHARE, image: None }
    }

    /// Tells it to the guest.
    pub fn describe(&self, request: &mut api::CreateContainerRequest) {
        request.upper = self.upper.into();
        request.image = self.image.clone().into();
        if let SharedRoot::Layers(layers) = &self.shared {
            request.layers = layers.len() as u32;
        }
    }
}

impl<Mounts> Snapshot<Mounts> {
    /// Whether the host knows what the container finds in it: an earlier VM may have written to its disk.
    pub fn is_known(&self) -> bool {
        self.guest.image.is_none() && self.disk.as_ref().is_none_or(|disk| disk.made.is_some())
    }

    /// Apart from what is undone at its end.
    pub fn part(self) -> (Mounts, Snapshot<()>) {
        let Snapshot { mounts, root, disk, guest } = self;
        (mounts, Snapshot { mounts: (), root, disk, guest })
    }
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
    /// What could not be mounted or made; `INVALID_ARGUMENT` when it is no directory, or cannot be as it is wanted.
    fn rootfs(&self, mounts: &[Mount], root: &Root, wanted: &RootRequest) -> Result<Snapshot<Self::Rootfs>>;

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

    /// Hears that a VM of this configuration will be wanted, with this AppArmor profile of its vmm, or that none will be any more. It
    /// may block, for a moment.
    fn expect_machine(&self, wanted: Option<(&Config, Option<&str>)>);

    /// Makes what a VM needs, without launching it. `names` says whose it is, `place` the
    /// pid of a process in the task's network namespace, and the cgroup that this is in, `apparmor_profile` the profile of its vmm, `disks` its disks.
    /// It may block.
    ///
    /// # Errors
    /// What is missing or could not be done; nothing stays behind.
    fn machine(
        &self,
        names: &Names,
        config: &Config,
        place: (u32, Option<&Self::Cgroup>),
        apparmor_profile: Option<&str>,
        disks: Vec<VmDisk>,
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

    /// How much of the files that it has read an idle guest keeps in memory, in MiB.
    fn idle_cache_mib(&self) -> u32;

    /// Whether its guest is to keep the NIC that it has out of sight, for an interface that comes later.
    fn keeps_nic(&self) -> bool;

    /// Whether it has a disk for what containers write to their roots.
    fn has_upper(&self) -> bool;

    /// Shows a container's root and volumes to the guest. It may block.
    ///
    /// # Errors
    /// What could not be shared, naming its path; nothing stays mounted.
    fn share(&self, container: &str, root: &SharedRoot, volumes: &[Volume]) -> Result<Self::Share>;

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

    /// Hears how the boot of a launched VM went.
    fn booted(&self, booted: &Booted);

    /// How the guest is to set up its network, once the VM is launched; none when it has its loopback interface only.
    fn guest_network(&self) -> Option<api::Network>;

    /// Joins the spare NIC of a VM whose guest is up to an interface that the network namespace has got since. It says how the
    /// guest is to set it up; none when there is no interface, or no spare NIC was to be.
    ///
    /// # Errors
    /// When there is an interface, and it cannot be joined.
    async fn join_network(&self, dialer: &Dialer) -> Result<Option<api::Network>>;

    /// Docker's resolver in the network namespace of `anchor`, a pid, if the guest cannot reach it by itself. It may block.
    ///
    /// # Errors
    /// When the namespace cannot be looked into.
    fn resolver(&self, anchor: u32) -> Result<Option<Resolver>>;

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
