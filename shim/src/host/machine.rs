//! A libkrun VM: its directory and share on the host, its taps and its vmm.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use guest_protocol::{api, boot::UPPER_DISK};
use log::{info, warn};
use tokio::task::spawn_blocking;
use vm_launcher::{Disk, Guest, Vm, VmConfig, VmEnd, disk};

use super::{
    apparmor,
    noted::Noted,
    parts::{Parts, chain},
    pooled::{Place, Pooled},
};
use crate::{
    bundle::Volume,
    cgroup::{HostCgroup, OomKills},
    config::{Config, Size},
    error::{Error, Result},
    files::{
        disk::VmDisk,
        share::{ContainerShare, Share, SharedRoot},
        state_dir::{self, StateDir},
        status::{self, Process, Status},
        watch::{Tops, Watched},
    },
    network::{self, Backend, Choice, Dialer, Links, Localhost, Netns, Resolver, Spare},
    pool::Asked,
    sandbox::{
        Exit,
        host::{Booted, Ended, Machine, Names},
    },
};

/// Why the host's kernel killed a vmm.
const OUT_OF_MEMORY: &str = "the memory that its cgroup may use on the host was not enough";

/// A VM. Ends with all that belongs to it when it is dropped.
pub struct KrunMachine {
    // Dropped in this order: the vmm must be dead before its share goes, and killed before its taps do.
    vm: OnceLock<Vm>,
    /// What tells whether the host's kernel ended the vmm for memory.
    oom: OnceLock<OomKills>,
    localhost: OnceLock<Localhost>,
    links: OnceLock<Links>,
    spare: OnceLock<Arc<Spare>>,
    network: Choice,
    anti_spoofing: bool,
    idle_cache_mib: u32,
    /// As far as it is known before the launch.
    plan: VmConfig,
    vmm: PathBuf,
    /// What it has of the pool, if its VM was booted before it was wanted.
    pooled: Option<Pooled>,
    sandbox: String,
    /// Of all its containers' watched volumes.
    tops: Tops,
    /// What is written down of it.
    noted: Noted,
    share: Share,
    _state: StateDir,
}

impl KrunMachine {
    /// Makes what the VM of a sandbox with these names needs, without launching it. `anchor` is a pid in the task's
    /// network namespace and in `cgroup`; `apparmor_profile` is that of the vmm, and `disks` its disks. `asked` is
    /// the question to the pool, if one was put.
    ///
    /// # Errors
    /// What is missing or could not be done; nothing stays behind.
    pub fn new(
        names: &Names,
        config: &Config,
        (anchor, cgroup): (u32, Option<&HostCgroup>),
        apparmor_profile: Option<&str>,
        disks: Vec<VmDisk>,
        asked: Option<Asked>,
    ) -> Result<KrunMachine> {
        let began = Instant::now();
        let Names { namespace, sandbox, pod } = names;
        apparmor_profile.map_or(Ok(()), apparmor::check)?;
        let netns = Netns::of(anchor)?;
        let (network, nics) = network::choose(config.network, &netns)?;
        network::check(&config.ports, network)?;
        let parts = Parts::find(config)?;
        let pooled = asked.filter(|_| disks.is_empty()).and_then(|asked| {
            let place = Place { network, nics, netns: &netns, cgroup, anti_spoofing: config.anti_spoofing };
            Pooled::take(asked, (namespace, sandbox), &parts.vmm, &place)
        });
        let (state, share, pooled) = match pooled {
            Some((state, share, pooled)) => (state, share, Some(pooled)),
            None => {
                let state = StateDir::create(namespace, sandbox)?;
                failpoint!(blocking "create.state");
                let share = Share::create(state.path(), state_dir::SHARE)?;
                (state, share, None)
            }
        };
        failpoint!(blocking "create.share");
        let plan = VmConfig {
            disks: disks.into_iter().map(plugged).collect(),
            apparmor_profile: apparmor_profile.map(str::to_owned),
            debug_console: config.debug_console.as_ref().map(|dir| dir.join(format!("{sandbox}.log"))),
            ..parts.vm(config, &share, &state)
        };
        let status = Status {
            namespace: namespace.clone(),
            sandbox: sandbox.clone(),
            pod: pod.clone(),
            created_ms: status::now_ms(),
            cpus: plan.cpus,
            memory_mib: plan.memory_mib,
            network: network.name().to_owned(),
            warm: pooled.is_some(),
            shim: Process::of(std::process::id()).unwrap_or_default(),
            vmm: None,
            anchor: Process::of(anchor),
            cgroup: cgroup.map(HostCgroup::vms),
            boot: None,
            kernel: None,
        };
        Ok(KrunMachine {
            vm: OnceLock::new(),
            oom: OnceLock::new(),
            localhost: OnceLock::new(),
            links: OnceLock::new(),
            spare: OnceLock::new(),
            network,
            anti_spoofing: config.anti_spoofing,
            idle_cache_mib: config.idle_cache_mib,
            plan,
            vmm: parts.vmm,
            pooled,
            sandbox: sandbox.to_owned(),
            tops: Tops::default(),
            noted: Noted::new(state.path().to_owned(), status, began),
            share,
            _state: state,
        })
    }

    /// Makes taps for the interfaces of `netns`, and takes what dials localhost there.
    async fn join_interfaces(&self, netns: Netns, dialer: &Dialer) -> Result<(Links, Option<Localhost>)> {
        let anti_spoofing = self.anti_spoofing;
        let joined = spawn_blocking(move || Links::join(&netns, anti_spoofing).map(|links| (links, netns)));
        let joined = joined.await;
        let (links, netns) = joined.map_err(|e| Error::internal("join the interfaces").because(e))??;
        Ok((links, relay(&netns, dialer)))
    }

    /// Makes a spare NIC's tap in `netns`, and takes what dials localhost there unless another VM does.
    async fn spare_interface(&self, netns: Netns, dialer: &Dialer) -> Result<(Spare, Option<Localhost>)> {
        let made = spawn_blocking(move || Spare::make(&netns).map(|spare| (spare, netns))).await;
        let (spare, netns) = made.map_err(|e| Error::internal("make a spare NIC").because(e))??;
        let localhost = spare.tap().and_then(|_| relay(&netns, dialer));
        Ok((spare, localhost))
    }

    /// Makes a VM of the pool's the launched one.
    async fn wake(
        &self,
        pooled: &Pooled,
        netns: &Netns,
        cgroup: Option<&HostCgroup>,
        dialer: &Dialer,
    ) -> Result<()> {
        let (vm, spare) = pooled.wake().ok_or_else(|| self.was_launched())?;
        info!("VM of {}: {} cpus, {} MiB, from the pool", self.sandbox, self.plan.cpus, self.plan.memory_mib);
        self.watch_memory(cgroup);
        let localhost = spare.as_ref().and_then(Spare::tap).and_then(|_| relay(netns, dialer));
        failpoint!("create.vmm");
        if let Some(joined) = pooled.joined() {
            dialer.set_addresses(joined.addresses.clone());
        }
        self.launched_with(vm, (localhost, None, spare), dialer)
    }

    /// Notices from now on when the VM runs out of memory.
    fn watch_memory(&self, cgroup: Option<&HostCgroup>) {
        if let Some(oom) = cgroup.and_then(HostCgroup::oom_kills) {
            let _ = self.oom.set(oom);
        }
    }

    fn was_launched(&self) -> Error {
        Error::precondition(format!("the VM of {} was launched before", self.sandbox))
    }

    /// Remembers what was launched.
    fn launched_with(
        &self,
        vm: Vm,
        (localhost, links, spare): (Option<Localhost>, Option<Links>, Option<Spare>),
        dialer: &Dialer,
    ) -> Result<()> {
        if let Some(localhost) = localhost {
            self.localhost.set(localhost).map_err(|_| self.was_launched())?;
        }
        if let Some(links) = links {
            dialer.set_addresses(links.addresses.clone());
            self.links.set(links).map_err(|_| self.was_launched())?;
        }
        if let Some(spare) = spare {
            self.spare.set(Arc::new(spare)).map_err(|_| self.was_launched())?;
        }
        self.vm.set(vm).map_err(|_| self.was_launched())
    }

    /// Launches the VM, or wakes it.
    async fn run_vm(&self, anchor: u32, cgroup: Option<&HostCgroup>, dialer: &Dialer) -> Result<()> {
        let netns = Netns::of(anchor)?;
        if let Some(pooled) = &self.pooled {
            return self.wake(pooled, &netns, cgroup, dialer).await;
        }
        let (mut links, mut spare, mut localhost) = (None, None, None);
        let network = match self.network {
            Choice::Tap | Choice::TapAtStart => {
                let (joined, relay) = self.join_interfaces(netns, dialer).await?;
                let taps = joined.taps.clone();
                (links, localhost) = (Some(joined), relay);
                vm_launcher::Network::Tap(taps)
            }
            Choice::Spare => {
                let (made, relay) = self.spare_interface(netns, dialer).await?;
                let tap = made.tap();
                (spare, localhost) = (Some(made), relay);
                tap.map_or(vm_launcher::Network::None, |tap| vm_launcher::Network::Tap(vec![tap]))
            }
            Choice::Tsi => vm_launcher::Network::Tsi,
            Choice::None => vm_launcher::Network::None,
        };
        failpoint!("create.taps");
        let vm_config = VmConfig {
            netns: Some(PathBuf::from(format!("/proc/{anchor}/ns/net"))),
            network,
            cgroup: cgroup.map(HostCgroup::vms),
            ..self.plan.clone()
        };
        info!(
            "VM of {}: {} cpus, {} MiB, network {:?}",
            self.sandbox, vm_config.cpus, vm_config.memory_mib, vm_config.network
        );
        // From before it can run out of memory.
        self.watch_memory(cgroup);
        let vm = Vm::launch_with(&self.vmm, vm_config).await.map_err(|e| Error::internal(chain(e)))?;
        failpoint!("create.vmm");
        let reduced = self.share.namespace().reduce();
        reduced.map_err(|e| Error::internal("reduce the mount namespace").because(e))?;
        self.launched_with(vm, (localhost, links, spare), dialer)
    }

    fn launched(&self) -> Result<&Vm> {
        self.vm
            .get()
            .ok_or_else(|| Error::precondition(format!("the VM of {} was not launched", self.sandbox)))
    }

    /// Why it ended, or did not come up, with the kernel that may be why.
    fn with_kernel(&self, reason: String) -> String {
        match &self.plan.kernel {
            Some(kernel) => format!("{reason} (kernel = {})", kernel.path().display()),
            None => reason,
        }
    }

    /// Whether the host's kernel has killed in the VM's cgroup for memory.
    fn is_out_of_memory(&self) -> bool {
        self.oom.get().is_some_and(OomKills::more)
    }
}

#[async_trait]
impl Machine<HostCgroup> for KrunMachine {
    type Share = ContainerShare;

    fn size(&self) -> Size {
        Size { cpus: self.plan.cpus, memory_mib: self.plan.memory_mib }
    }

    fn network(&self) -> Choice {
        self.network
    }

    fn idle_cache_mib(&self) -> u32 {
        self.idle_cache_mib
    }

    fn keeps_nic(&self) -> bool {
        self.network == Choice::Spare || self.pooled.is_some() && self.network == Choice::None
    }

    fn has_upper(&self) -> bool {
        self.plan.disks.iter().any(|disk| disk.kind().name == UPPER_DISK)
    }

    fn share(&self, container: &str, root: &SharedRoot, volumes: &[Volume]) -> Result<ContainerShare> {
        self.share.add(container, root, volumes)
    }

    fn watch(&self, container: &str, volumes: &[Volume]) -> Vec<Watched> {
        Watched::all(container, volumes, &self.tops)
    }

    fn vmm(&self) -> Option<u32> {
        self.vm.get().and_then(|vm| u32::try_from(vm.pid().as_raw()).ok())
    }

    async fn launch(&self, anchor: u32, cgroup: Option<&HostCgroup>, dialer: &Dialer) -> Result<()> {
        let began = Instant::now();
        self.run_vm(anchor, cgroup, dialer).await?;
        self.noted.launched(self.vmm(), began);
        Ok(())
    }

    async fn guest(&self, patience: Duration) -> Result<Guest> {
        if let Some(guest) = self.pooled.as_ref().and_then(Pooled::guest) {
            return Ok(guest);
        }
        self.launched()?.guest(patience).await.map_err(|error| {
            let reason = self.with_kernel(chain(error));
            Error::internal(match self.is_out_of_memory() {
                true => format!("{reason}: {OUT_OF_MEMORY}"),
                false => reason,
            })
        })
    }

    fn booted(&self, booted: &Booted) {
        self.noted.booted(booted);
    }

    fn guest_network(&self) -> Option<api::Network> {
        let joined = self.pooled.as_ref().and_then(Pooled::joined);
        self.links.get().map(|links| &links.guest).or(joined.map(|joined| &joined.guest)).cloned()
    }

    async fn join_network(&self, dialer: &Dialer) -> Result<Option<api::Network>> {
        let Some(spare) = self.spare.get().cloned() else { return Ok(None) };
        let anti_spoofing = self.anti_spoofing;
        let joined = spawn_blocking(move || spare.join(anti_spoofing)).await;
        let joined = joined.map_err(|e| Error::internal("join the network").because(e))??;
        Ok(joined.map(|joined| {
            dialer.set_addresses(joined.addresses);
            joined.guest
        }))
    }

    fn resolver(&self, anchor: u32) -> Result<Option<Resolver>> {
        match self.network {
            Choice::Tap | Choice::TapAtStart | Choice::Spare => Resolver::find(Netns::of(anchor)?)
                .map_err(|e| Error::internal("look for Docker's resolver").because(e)),
            Choice::Tsi | Choice::None => Ok(None),
        }
    }

    fn backend(&self, anchor: u32, dialer: &Dialer) -> Result<Backend> {
        match self.network {
            Choice::Tap | Choice::TapAtStart | Choice::Spare => Ok(Backend::Guest(dialer.clone())),
            Choice::Tsi | Choice::None => Ok(Backend::Namespace(Netns::of(anchor)?.into())),
        }
    }

    fn set_oom_score_adj(&self, score: i32) {
        if let Some(Err(error)) = self.vm.get().map(|vm| vm.set_oom_score_adj(score)) {
            warn!("set the vmm's oom_score_adj to {score}: {error}");
        }
    }

    fn kill(&self) {
        if let Some(vm) = self.vm.get() {
            vm.kill();
            self.links.get().into_iter().for_each(Links::begin_removal);
            self.spare.get().into_iter().for_each(|spare| spare.begin_removal());
        }
    }

    async fn ended(&self) -> Ended {
        match self.launched() {
            Ok(vm) => {
                let Ended { exit, reason } = meaning(vm.ended().await, self.is_out_of_memory());
                Ended { exit, reason: self.with_kernel(reason) }
            }
            Err(error) => Ended { exit: Exit::UNKNOWN, reason: error.to_string() },
        }
    }
}

fn plugged(VmDisk { name, file, durable, read_only, .. }: VmDisk) -> Disk {
    Disk::new(file, disk::Kind { name, read_only, durable })
}

/// Takes what dials localhost in `netns` to the guest, where the kernel lets it.
fn relay(netns: &Netns, dialer: &Dialer) -> Option<Localhost> {
    let failed = |e: &io::Error| {
        warn!("what dials localhost in the network namespace does not reach the guest: sk_lookup: {e}")
    };
    Localhost::start(netns, dialer).inspect_err(failed).ok()
}

/// What the end of a vmm means for the processes in its guest.
fn meaning(end: VmEnd, is_out_of_memory: bool) -> Ended {
    // Once the pool has ended, nobody knows how a vmm of its ended.
    let unknown = is_out_of_memory && end.status == vm_launcher::ExitStatus::Unknown;
    let killed = unknown || end.status == vm_launcher::ExitStatus::Killed(libc::SIGKILL);
    match (killed, is_out_of_memory) {
        (true, true) => Ended {
            exit: Exit { oom_killed: true, ..Exit::KILLED },
            reason: format!("{}: {OUT_OF_MEMORY}", end.reason),
        },
        (true, false) => Ended { exit: Exit::KILLED, reason: end.reason },
        (false, _) => Ended { exit: Exit::UNKNOWN, reason: end.reason },
    }
}

#[cfg(test)]
mod tests {
    use vm_launcher::ExitStatus;

    use super::*;

    #[test]
    fn only_a_vmm_that_was_killed_can_have_run_out_of_memory() {
        let end = |status, more| {
            let reason = "it ended".to_owned();
            let Ended { exit, reason } = meaning(VmEnd { status, last_lines: Vec::new(), reason }, more);
            (exit.status, exit.oom_killed, reason.contains("memory"))
        };
        assert_eq!(end(ExitStatus::Killed(libc::SIGKILL), true), (137, true, true));
        assert_eq!(end(ExitStatus::Killed(libc::SIGKILL), false), (137, false, false));
        assert_eq!(end(ExitStatus::Killed(libc::SIGSEGV), true), (255, false, false));
        assert_eq!(end(ExitStatus::Exited(0), false), (255, false, false));
    }
}
