//! A sandbox's VM: its directory and share on the host, its vmm, and the way to its guest.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use guest_protocol::api;
use log::{error, info, warn};
use tokio::{sync::watch, task::spawn_blocking};
use vm_launcher::{Guest, Vm, VmConfig, VmEnd, find};

use crate::{
    cgroup::{HostCgroup, OomKills},
    clock,
    config::{Config, Size},
    error::{Error, Result},
    files::{share::Share, state_dir::StateDir},
    network::{Boot, Choice, Links, Localhost, Netns, Numbers, Reach, Way},
    sandbox::Exit,
};

/// How long a VM may take from its launch to its guest's first words. A guest boots in half a
/// second; on an emulated machine under load it has been seen to take twenty.
const BOOT: Duration = Duration::from_secs(120);

/// How long the guest may take over a call that does not wait for anything.
pub const CALL: Duration = Duration::from_secs(60);

/// A sandbox's VM. Ends with all that belongs to it when it is dropped.
pub struct Machine {
    // Dropped in this order: the vmm must be dead before its taps and its share go.
    vm: OnceLock<Vm>,
    /// What tells whether the host's kernel ended the vmm for memory.
    oom: OnceLock<OomKills>,
    localhost: OnceLock<Localhost>,
    links: OnceLock<Links>,
    boot: watch::Sender<Boot>,
    /// How others reach the guest.
    reach: Reach,
    /// How the guest reaches the network.
    pub network: Choice,
    /// As far as it is known before the launch.
    plan: VmConfig,
    vmm: Option<PathBuf>,
    sandbox: String,
    pub share: Share,
    _state: StateDir,
}

impl Machine {
    /// Makes what a VM of `sandbox` needs, without launching it.
    ///
    /// # Errors
    /// What is missing or could not be done; nothing stays behind.
    pub fn new((namespace, sandbox): (&str, &str), config: &Config, network: Choice) -> Result<Machine> {
        vm_launcher::probe::device().map_err(|e| Error::precondition(chain(e)))?;
        let missing = |e: find::NotFound| Error::precondition(chain(e));
        let libkrunfw = find::libkrunfw(config.libkrunfw.as_deref()).map_err(missing)?;
        let guest_init = find::guest_init(config.guest_init.as_deref()).map_err(missing)?;
        let state = StateDir::create(namespace, sandbox)?;
        let share = Share::create(state.path(), state.share())?;
        let plan = VmConfig {
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            mount_namespace: Some(share.namespace().path()),
            debug: log::max_level() >= log::LevelFilter::Debug,
            debug_console: config.debug_console.as_ref().map(|dir| dir.join(format!("{sandbox}.log"))),
            ..VmConfig::new(share.path(), state.sockets(), libkrunfw, guest_init)
        };
        let (boot, watched) = watch::channel(Boot::Awaited);
        Ok(Machine {
            vm: OnceLock::new(),
            oom: OnceLock::new(),
            localhost: OnceLock::new(),
            links: OnceLock::new(),
            boot,
            reach: Reach { boot: watched, numbers: Numbers::default(), addresses: Arc::default() },
            network,
            plan,
            vmm: config.vmm.clone(),
            sandbox: sandbox.to_owned(),
            share,
            _state: state,
        })
    }

    /// Launches the VM in `cgroup`, where there is one, which `anchor` is in, and in the network namespace of `anchor`, a
    /// pid; it boots on after this returns. To be called once, unless it failed.
    ///
    /// # Errors
    /// What is missing or could not be done; no process and no tap stays behind.
    pub async fn launch(self: &Arc<Self>, anchor: u32, cgroup: Option<&HostCgroup>) -> Result<()> {
        let netns = Netns::of(anchor)?;
        let links = match self.network {
            Choice::Tap | Choice::TapAtStart => Some(self.join_interfaces(netns).await?),
            Choice::Tsi | Choice::None => None,
        };
        let vm_config = VmConfig {
            netns: Some(PathBuf::from(format!("/proc/{anchor}/ns/net"))),
            network: match (&links, self.network) {
                (Some((links, _)), _) => vm_launcher::Network::Tap(links.taps.clone()),
                (None, Choice::None) => vm_launcher::Network::None,
                (None, _) => vm_launcher::Network::Tsi,
            },
            cgroup: cgroup.map(|cgroup| cgroup.path().to_owned()),
            ..self.plan.clone()
        };
        info!(
            "VM of {}: {} cpus, {} MiB, network {:?}",
            self.sandbox, vm_config.cpus, vm_config.memory_mib, vm_config.network
        );
        let vm = launch(self.vmm.as_deref(), vm_config).await.map_err(|e| Error::internal(chain(e)))?;
        if let Some(oom) = cgroup.and_then(HostCgroup::oom_kills) {
            let _ = self.oom.set(oom);
        }
        let reduced = self.share.namespace().reduce();
        reduced.map_err(|e| Error::internal(format!("reduce the mount namespace: {e}")))?;
        let again = || Error::precondition(format!("the VM of {} was launched before", self.sandbox));
        if let Some((links, localhost)) = links {
            let _ = self.reach.addresses.set(links.addresses.clone());
            if let Some(localhost) = localhost {
                self.localhost.set(localhost).map_err(|_| again())?;
            }
            self.links.set(links).map_err(|_| again())?;
        }
        self.vm.set(vm).map_err(|_| again())?;
        // One that was killed before this has a reason already.
        self.boot.send_if_modified(|boot| match boot {
            Boot::Awaited => {
                *boot = Boot::UnderWay;
                true
            }
            _ => {
                self.kill();
                false
            }
        });
        let booting = self.clone();
        tokio::spawn(async move {
            let guest = booting.boot().await;
            // The machine goes when its containers do; its clock's keeper must not hold it.
            drop(booting);
            if let Some(guest) = guest
                && let Err(error) = clock::keep(&guest).await
            {
                warn!("the guest's clock no longer follows the host's: {error}");
            }
        });
        Ok(())
    }

    /// Makes taps for the interfaces of `netns`, and takes what dials localhost there.
    async fn join_interfaces(&self, netns: Netns) -> Result<(Links, Option<Localhost>)> {
        let joined = spawn_blocking(move || Links::join(&netns).map(|links| (links, netns))).await;
        let (links, netns) = joined.map_err(|e| Error::internal(format!("join the interfaces: {e}")))??;
        let localhost = Localhost::start(&netns, &self.reach);
        let failed = |e: &io::Error| {
            warn!("what dials localhost in the network namespace does not reach the guest: sk_lookup: {e}")
        };
        Ok((links, localhost.inspect_err(failed).ok()))
    }

    /// Where published ports of a container lead, whose anchor is in the task's network namespace.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn way(&self, anchor: u32) -> Result<Way> {
        match self.network {
            Choice::Tap | Choice::TapAtStart => Ok(Way::Guest(self.reach.clone())),
            Choice::Tsi | Choice::None => Ok(Way::Namespace(Netns::of(anchor)?.into())),
        }
    }

    /// Whether nobody has launched it, nor killed it.
    pub fn awaits_launch(&self) -> bool {
        matches!(*self.boot.borrow(), Boot::Awaited)
    }

    /// Takes the guest's call and tells it what it needs to know; run once, beside all else.
    async fn boot(&self) -> Option<Guest> {
        let launched = Instant::now();
        match self.greet().await {
            Ok(guest) => {
                info!("boot: guest answered after {} us", launched.elapsed().as_micros());
                self.boot.send_replace(Boot::Done(guest.clone()));
                Some(guest)
            }
            Err(error) => {
                error!("the VM did not come up: {error}");
                self.kill();
                self.boot.send_replace(Boot::Failed(error.to_string()));
                None
            }
        }
    }

    async fn greet(&self) -> Result<Guest> {
        let vm = self.vm.get().ok_or_else(|| Error::precondition("the VM was not launched"))?;
        let guest = vm.guest(BOOT).await.map_err(|e| Error::internal(chain(e)))?;
        let request = api::ConfigureRequest {
            realtime_ns: clock::now_ns(),
            network: self.links.get().map(|links| links.guest.clone()).into(),
            ..Default::default()
        };
        let configured = guest.client.configure(ttrpc::context::with_duration(CALL), &request).await?;
        info!("guest kernel {}", configured.kernel);
        Ok(guest)
    }

    /// What it has of CPUs and memory.
    pub fn size(&self) -> Size {
        Size { cpus: self.plan.cpus, memory_mib: self.plan.memory_mib }
    }

    /// The guest, once it is up.
    ///
    /// # Errors
    /// Why it did not come up.
    pub async fn guest(&self) -> Result<Guest> {
        self.reach.clone().guest().await
    }

    /// The VM's stream numbers.
    pub fn numbers(&self) -> Numbers {
        self.reach.numbers.clone()
    }

    /// Has the host's kernel end it sooner (up to 1000) or later (down to -1000) than others when memory runs out.
    pub fn rank(&self, oom_score_adj: i32) {
        if let Some(Err(error)) = self.vm.get().map(|vm| vm.set_oom_score_adj(oom_score_adj)) {
            warn!("set the vmm's oom_score_adj to {oom_score_adj}: {error}");
        }
    }

    /// Ends the VM at once, also one that is not launched yet. Idempotent.
    pub fn kill(&self) {
        if let Some(vm) = self.vm.get() {
            vm.kill();
            return;
        }
        self.boot.send_if_modified(|boot| match boot {
            Boot::Awaited => {
                *boot = Boot::Failed("the VM was killed before it was launched".to_owned());
                true
            }
            _ => false,
        });
    }

    /// Waits until the vmm process is gone, or will never be.
    pub async fn ended(&self) -> VmEnd {
        let mut changes = self.boot.subscribe();
        loop {
            if let Some(vm) = self.vm.get() {
                return vm.ended().await;
            }
            if let Boot::Failed(reason) = &*changes.borrow_and_update() {
                return VmEnd {
                    status: vm_launcher::ExitStatus::Unknown,
                    last_lines: Vec::new(),
                    reason: reason.clone(),
                };
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// Waits for an end of the VM before which nothing was heard of how a process ended, and says
    /// what that means for it.
    pub async fn died(&self) -> (Exit, String) {
        let end = self.ended().await;
        let killed = end.status == vm_launcher::ExitStatus::Killed(libc::SIGKILL);
        if killed && self.oom.get().is_some_and(OomKills::more) {
            let reason =
                format!("{}: the memory that its cgroup may use on the host was not enough", end.reason);
            return (Exit { oom_killed: true, ..Exit::KILLED }, reason);
        }
        let status = if killed { Exit::KILLED.status } else { 255 };
        (Exit { status, oom_killed: false }, end.reason)
    }
}

/// Launches the configured vmm, or the one in its usual place.
async fn launch(vmm: Option<&Path>, vm: VmConfig) -> Result<Vm, vm_launcher::LaunchError> {
    match vmm {
        Some(vmm) => Vm::launch_with(vmm, vm).await,
        None => Vm::launch(vm).await,
    }
}

/// An error with all that caused it, in one line.
fn chain(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
