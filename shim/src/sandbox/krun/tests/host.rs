//! A host that makes nothing and keeps a diary of it.

use std::{
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use containerd_shim_protos::types::mount::Mount;
use guest_protocol::{api, boot::UPPER_DISK};
use oci_spec::runtime::LinuxResources;
use tokio::sync::watch;
use vm_launcher::Guest;

use super::guest::FakeGuest;
use crate::{
    bundle::{NetworkNamespace, Role, Root, Volume},
    config::{Config, Roots, Size},
    error::{Error, Result},
    files::{
        disk::{NewDisk, VmDisk},
        follow::Follower,
        mount::ReadOnly,
        pin::{Pinned, fake},
        share::SharedRoot,
        watch::Watched,
    },
    network::{Backend, Choice, Dialer, Resolver},
    sandbox::{
        Exit,
        host::{self, Booted, Ended, GuestRoot, Host, Names, RootRequest, Snapshot},
    },
};

/// The pid of every container on this host.
pub const PID: u32 = 4711;

/// A host. Clones share everything.
#[derive(Clone)]
pub struct FakeHost(pub Arc<Shared>);

pub struct Shared {
    diary: Mutex<Vec<String>>,
    /// The step that fails.
    pub fails: Mutex<&'static str>,
    pub guest: FakeGuest,
    /// The guest never dials.
    pub mute: AtomicBool,
    /// The guest's streams carry what the test writes.
    pub broken: AtomicBool,
    /// The vmm does not go when it is killed.
    pub undead: AtomicBool,
    pub network: Mutex<Choice>,
    /// The network namespace has an interface by the start.
    pub interface_has_come: AtomicBool,
    pub oom_score_adj: AtomicI32,
    ended: watch::Sender<Option<Ended>>,
    anchors: watch::Sender<Vec<String>>,
    anchors_linger: AtomicBool,
}

impl FakeHost {
    pub fn new() -> FakeHost {
        FakeHost(Arc::new(Shared {
            diary: Mutex::default(),
            fails: Mutex::new(""),
            guest: FakeGuest::default(),
            mute: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            undead: AtomicBool::new(false),
            network: Mutex::new(Choice::Tsi),
            interface_has_come: AtomicBool::new(false),
            oom_score_adj: AtomicI32::new(i32::MIN),
            ended: watch::Sender::new(None),
            anchors: watch::Sender::default(),
            anchors_linger: AtomicBool::new(false),
        }))
    }

    /// What was made, and what was undone after a "-".
    pub fn diary(&self) -> Vec<String> {
        self.0.diary.lock().unwrap().clone()
    }

    /// What was made and not undone.
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for entry in self.diary() {
            match entry.strip_prefix('-') {
                Some(undone) => left.retain(|made| made != undone),
                None => left.push(entry),
            }
        }
        left
    }

    /// From now on a kill does not end an anchor at once.
    pub fn let_anchors_linger(&self) {
        self.0.anchors_linger.store(true, Ordering::Release);
    }

    /// Ends the anchor of `container`, as somebody on the host may.
    pub fn kill_anchor(&self, container: &str) {
        self.0.anchors.send_modify(|dead| dead.push(container.to_owned()));
    }

    /// Ends the vmm.
    pub fn end_vm(&self, exit: Exit, reason: &str) {
        self.0.ended.send_replace(Some(Ended { exit, reason: reason.to_owned() }));
        self.0.guest.vanish();
    }

    /// Whether the vmm was killed or has ended.
    pub fn is_over(&self) -> bool {
        self.0.ended.borrow().is_some()
    }

    fn step(&self, what: &'static str) -> Result<Made> {
        if *self.0.fails.lock().unwrap() == what {
            return Err(Error::internal(format!("{what} fails")));
        }
        self.0.diary.lock().unwrap().push(what.to_owned());
        Ok(Made { host: self.clone(), what })
    }
}

/// Something that was made.
pub struct Made {
    host: FakeHost,
    what: &'static str,
}

impl Drop for Made {
    fn drop(&mut self) {
        self.host.0.diary.lock().unwrap().push(format!("-{}", self.what));
    }
}

pub struct FakeCgroup(Made);

impl host::Cgroup for FakeCgroup {
    type Seat = Made;

    fn limit(&self, _: &LinuxResources) -> Result<()> {
        self.0.host.step("limit").map(drop)
    }

    fn seat(&self) -> Result<Made> {
        self.0.host.step("seat")
    }
}

pub struct FakeAnchor {
    made: Made,
    container: String,
}

#[async_trait]
impl host::Anchor for FakeAnchor {
    fn pid(&self) -> u32 {
        PID
    }

    fn kill(&self) {
        if !self.made.host.0.anchors_linger.load(Ordering::Acquire) {
            self.made.host.kill_anchor(&self.container);
        }
    }

    async fn ended(&self) {
        let mut dead = self.made.host.0.anchors.subscribe();
        dead.wait_for(|dead| dead.contains(&self.container)).await.unwrap();
    }
}

pub struct FakeShare(#[expect(dead_code, reason = "it is there to be dropped")] Made, Follower);

impl host::Share for FakeShare {
    fn follower(&self) -> &Follower {
        &self.1
    }
}

pub struct FakeMachine {
    made: Made,
    launched: Mutex<Option<Made>>,
    network: Choice,
    has_upper: bool,
}

#[async_trait]
impl host::Machine<FakeCgroup> for FakeMachine {
    type Share = FakeShare;

    fn size(&self) -> Size {
        Size { cpus: 1, memory_mib: 1024 }
    }

    fn network(&self) -> Choice {
        self.network
    }

    fn idle_cache_mib(&self) -> u32 {
        0
    }

    fn keeps_nic(&self) -> bool {
        self.network == Choice::Spare
    }

    fn has_upper(&self) -> bool {
        self.has_upper
    }

    fn share(&self, _: &str, root: &SharedRoot, _: &[Volume]) -> Result<FakeShare> {
        let what =
            if matches!(root, SharedRoot::Rootfs(_, ReadOnly::All)) { "share read-only" } else { "share" };
        Ok(FakeShare(self.made.host.step(what)?, Follower::default()))
    }

    fn watch(&self, _: &str, _: &[Volume]) -> Vec<Watched> {
        Vec::new()
    }

    fn vmm(&self) -> Option<u32> {
        None
    }

    async fn launch(&self, anchor: u32, _: Option<&FakeCgroup>, _: &Dialer) -> Result<()> {
        assert_eq!(anchor, PID);
        *self.launched.lock().unwrap() = Some(self.made.host.step("launch")?);
        Ok(())
    }

    async fn guest(&self, patience: Duration) -> Result<Guest> {
        let host = &self.made.host.0;
        if host.mute.load(Ordering::Relaxed) {
            let mut ended = host.ended.subscribe();
            return match tokio::time::timeout(patience, ended.wait_for(Option::is_some)).await {
                Ok(_) => Err(Error::internal("the VM ended")),
                Err(_) => Err(Error::internal("the guest did not dial")),
            };
        }
        Ok(host.guest.dial(host.broken.load(Ordering::Relaxed)).await)
    }

    fn booted(&self, _: &Booted) {}

    fn guest_network(&self) -> Option<api::Network> {
        None
    }

    async fn join_network(&self, _: &Dialer) -> Result<Option<api::Network>> {
        let has_come = self.made.host.0.interface_has_come.load(Ordering::Relaxed);
        if self.network != Choice::Spare || !has_come {
            return Ok(None);
        }
        self.made.host.step("join").map(|_| Some(api::Network::new()))
    }

    fn resolver(&self, _: u32) -> Result<Option<Resolver>> {
        Ok(None)
    }

    fn backend(&self, _: u32, dialer: &Dialer) -> Result<Backend> {
        self.made.host.step("way")?;
        Ok(Backend::Guest(dialer.clone()))
    }

    fn set_oom_score_adj(&self, score: i32) {
        self.made.host.0.oom_score_adj.store(score, Ordering::Relaxed);
    }

    fn kill(&self) {
        let host = &self.made.host;
        if host.0.undead.load(Ordering::Relaxed) {
            return;
        }
        host.0.ended.send_if_modified(|ended| {
            let lived = ended.is_none();
            if lived {
                *ended = Some(Ended { exit: Exit::KILLED, reason: "it was killed".to_owned() });
            }
            lived
        });
        host.0.guest.vanish();
    }

    async fn ended(&self) -> Ended {
        let mut ended = self.made.host.0.ended.subscribe();
        ended.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }
}

#[async_trait]
impl Host for FakeHost {
    type Cgroup = FakeCgroup;
    type Rootfs = Made;
    type Anchor = FakeAnchor;
    type Machine = FakeMachine;

    fn cgroup(&self, _: &Path, _: &Path, _: Role) -> Result<FakeCgroup> {
        Ok(FakeCgroup(self.step("cgroup")?))
    }

    fn rootfs(&self, _: &[Mount], root: &Root, wanted: &RootRequest) -> Result<Snapshot<Made>> {
        let (mounts, root) = (self.step("rootfs")?, fake::file(&root.path.display().to_string()));
        let mut guest = GuestRoot::shared(root.clone());
        if wanted.roots != Roots::Block {
            return Ok(Snapshot { mounts, root, disk: None, guest });
        }
        guest.shared = SharedRoot::Rootfs(root.clone(), ReadOnly::All);
        guest.upper = api::Upper::UPPER_SCRATCH;
        let disk = (wanted.role != Role::Member).then(|| VmDisk {
            name: UPPER_DISK.to_owned(),
            read_only: false,
            file: root.as_fd().try_clone_to_owned().unwrap(),
            made: Some(NewDisk::fake(root.clone(), root.as_fd().try_clone_to_owned().unwrap())),
            durable: wanted.role == Role::Lone,
        });
        Ok(Snapshot { mounts, root, disk, guest })
    }

    async fn anchor(
        &self,
        container: &str,
        _: &Pinned,
        _: &NetworkNamespace,
        _: Option<Arc<FakeCgroup>>,
    ) -> Result<FakeAnchor> {
        self.0.anchors.send_modify(|dead| dead.retain(|id| id != container));
        Ok(FakeAnchor { made: self.step("anchor")?, container: container.to_owned() })
    }

    fn expect_machine(&self, _: Option<(&Config, Option<&str>)>) {}

    fn machine(
        &self,
        _: &Names,
        _: &Config,
        _: (u32, Option<&FakeCgroup>),
        _: Option<&str>,
        disks: Vec<VmDisk>,
    ) -> Result<FakeMachine> {
        let made = self.step("machine")?;
        self.0.ended.send_replace(None);
        let network = *self.0.network.lock().unwrap();
        Ok(FakeMachine { made, launched: Mutex::default(), network, has_upper: !disks.is_empty() })
    }
}
