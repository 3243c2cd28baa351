//! The real sandbox: a libkrun microVM.

mod container;
mod machine;
mod process;
mod update;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use guest_protocol::api;
use log::{info, warn};
use tokio::task::spawn_blocking;
use ttrpc::context;

use self::{
    container::{Blueprint, Container, follow_exec, signal_request},
    machine::{CALL, Machine},
    process::Process,
    update::Update,
};
use super::{Exit, NewContainer, ProcessId, Sandbox};
use crate::{
    anchor::Anchor,
    bundle::{self, Role, Terms},
    cgroup::HostCgroup,
    config::Config,
    error::{Error, Result},
    files::{
        mount::Mounted,
        pin::{Pinned, Source},
        share::{ContainerShare, open_rootfs},
        state_dir::make_dir,
    },
    hooks::ContainerHooks,
    network::{self, Choice, Netns},
    stdio::{Endpoints, Pumps, StdioPaths, streams},
};

/// How long the guest may take over a SIGKILL before the whole sandbox is killed.
const KILL: Duration = Duration::from_secs(10);

/// How long an exec waits for what the host has mounted below volumes.
const FOLLOWING: Duration = Duration::from_secs(2);

/// A sandbox whose VM starts with its first container.
pub struct KrunSandbox {
    namespace: String,
    sandbox: String,
    /// Held while the VM is made; later containers wait here for it.
    machine: tokio::sync::Mutex<Option<Arc<Machine>>>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
}

impl KrunSandbox {
    /// The sandbox `sandbox` in containerd's `namespace`; nothing is made yet.
    pub fn new(namespace: &str, sandbox: &str) -> Self {
        KrunSandbox {
            namespace: namespace.to_owned(),
            sandbox: sandbox.to_owned(),
            machine: tokio::sync::Mutex::default(),
            containers: Mutex::default(),
        }
    }
}

impl KrunSandbox {
    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let containers = self.lock();
        containers
            .get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("no container {id} in the sandbox")))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What a container's spec may refer to.
    fn host(&self) -> Result<bundle::Host> {
        let uname = nix::sys::utsname::uname()
            .map_err(|e| Error::internal(format!("ask for the host's name: {e}")))?;
        Ok(bundle::Host {
            name: uname.nodename().to_string_lossy().into_owned(),
            resolve: Source::resolve,
            containers: self
                .lock()
                .iter()
                .map(|(id, container)| (container.anchor.pid(), id.clone()))
                .collect(),
        })
    }

    async fn machine(&self) -> Result<Arc<Machine>> {
        let machine = self.machine.lock().await;
        machine.clone().ok_or_else(|| Error::precondition(format!("sandbox {} has no VM", self.sandbox)))
    }

    fn process(&self, id: &ProcessId) -> Result<Arc<Process>> {
        let container = self.container(&id.container)?;
        if id.is_init() {
            return Ok(container.init.clone());
        }
        let execs = container.lock_execs();
        execs.get(&id.exec).cloned().ok_or_else(|| Error::not_found(format!("no exec {id}")))
    }

    /// Shows a container to the VM, which starts now for the first of them, or when that is
    /// started. Says whether it is the first.
    async fn join(
        &self,
        id: &str,
        config: &Config,
        anchor: &Anchor,
        cgroup: Option<&HostCgroup>,
        root: &Pinned,
        volumes: &[bundle::Volume],
    ) -> Result<(Arc<Machine>, ContainerShare, bool)> {
        let mut slot = self.machine.lock().await;
        if let Some(machine) = &*slot {
            network::check(&config.ports, machine.network)?;
            return Ok((machine.clone(), machine.share.add(id, root, volumes)?, false));
        }
        let names = (self.namespace.as_str(), self.sandbox.as_str());
        let choice = network::choose(config.network, &Netns::of(anchor.pid())?)?;
        network::check(&config.ports, choice)?;
        let machine = Arc::new(Machine::new(names, config, choice)?);
        if choice != Choice::TapAtStart {
            machine.launch(anchor.pid(), cgroup).await?;
        }
        let share = machine.share.add(id, root, volumes)?;
        *slot = Some(machine.clone());
        Ok((machine, share, true))
    }

    /// Has a created container's process run, in a VM that is launched now if it waited for this.
    async fn release(&self, container: &Container) -> Result<()> {
        let machine = self.machine().await?;
        if container.is_sandbox && machine.awaits_launch() {
            machine.launch(container.anchor.pid(), container.cgroup().as_deref()).await?;
            self.rank(&machine);
        }
        let id = &container.init.id.container;
        let guest = self.guest_for(id).await?;
        if let Some(exit) = container.init.exit() {
            return Err(Error::precondition(format!("container {id} has ended with status {}", exit.status)));
        }
        guest.client.start(in_time(), &container.init.reference()).await?;
        container.hooks.poststart(container.anchor.pid()).await;
        Ok(())
    }

    /// Has the host's kernel end the VM, when memory runs out, as late as the one that it is to end last of those in it.
    fn rank(&self, machine: &Machine) {
        let score = self.lock().values().filter_map(|container| container.terms.oom_score_adj).min();
        machine.rank(score.unwrap_or(0));
    }

    /// The guest, for a call on a container that was made there.
    async fn guest_for(&self, container: &str) -> Result<vm_launcher::Guest> {
        let container = self.container(container)?;
        let machine = self.machine().await?;
        if machine.awaits_launch() {
            return Err(Error::precondition(format!(
                "container {} is not started: its VM waits for that",
                container.init.id
            )));
        }
        container.created().await?;
        machine.guest().await
    }
}

fn container_ref(id: &str) -> api::ContainerRef {
    api::ContainerRef { container_id: id.to_owned(), ..Default::default() }
}

fn in_time() -> context::Context {
    context::with_duration(CALL)
}

#[async_trait]
impl Sandbox for KrunSandbox {
    async fn create(&self, new: NewContainer) -> Result<u32> {
        let id = new.id.as_str();
        let spec = bundle::load(&new.bundle)?;
        let annotations = spec.annotations().clone().unwrap_or_default();
        let mut config = Config::load(&new.options, &annotations)?;
        config.size_for(bundle::limits(&spec));
        let network = bundle::network_namespace(&spec);
        let cgroup = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
        let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
        let root = new.bundle.join(root);
        let hooks = ContainerHooks::new(&spec, id, &new.bundle)?;
        let terms = Terms::of(&spec, id);
        let (own_id, host) = (new.id.clone(), self.host()?);
        // The sources of its volumes are resolved here, which may hang with a file system of the host.
        let translated = spawn_blocking(move || bundle::to_guest(spec, &own_id, &host)).await;
        let guest = translated.map_err(|e| Error::internal(format!("translate the bundle: {e}")))??;
        for note in &guest.notes {
            info!("{id}: {note}");
        }
        let spec = serde_json::to_vec(&guest.spec)
            .map_err(|e| Error::internal(format!("encode the guest's spec: {e}")))?;
        let endpoints = Endpoints::open(&new.stdio, &ProcessId::init(id), &self.namespace).await?;
        let published = network::Bound::bind(&config.ports)?;

        // Each step undoes itself when a later one fails, last made first.
        let cgroup = cgroup.as_deref().map(HostCgroup::new).transpose()?.map(Arc::new);
        let (rootfs, root) = mount_rootfs(&new, root).await?;
        let anchor = Anchor::start(id, &root, &network, cgroup.as_deref()).await?;
        if let (Some(cgroup), Some(limits)) = (&cgroup, &terms.hosts) {
            cgroup.limit(limits)?;
        }
        let seat = match &cgroup {
            Some(cgroup) if terms.role == Role::Sandbox => Some(cgroup.seat()?),
            _ => None,
        };
        hooks.create_runtime(anchor.pid()).await?;
        let joined = self.join(id, &config, &anchor, cgroup.as_deref(), &root, &guest.volumes).await;
        let (machine, share, is_sandbox) = match joined {
            Ok(joined) => joined,
            Err(error) => {
                hooks.poststop().await;
                return Err(error);
            }
        };
        let pid = anchor.pid();
        let served = machine.way(pid).and_then(|way| {
            published.serve(&way).map_err(|e| Error::internal(format!("publish ports: {e}")))
        });
        let mut relays = match served {
            Ok(relays) => relays,
            Err(error) => {
                if is_sandbox {
                    self.machine.lock().await.take();
                }
                hooks.poststop().await;
                return Err(error);
            }
        };
        if !share.follower().is_idle() {
            relays.spawn(share.follower().clone().keep());
        }
        let host = (share, rootfs, cgroup);
        let container = Container::new(is_sandbox, terms, (anchor, hooks), host, relays);
        self.lock().insert(new.id.clone(), container.clone());
        self.rank(&machine);
        let sockets = guest.sockets;
        let blueprint = Blueprint { spec, stdio: new.stdio, endpoints, sockets };
        tokio::spawn(container.supervise(machine, blueprint, seat));
        Ok(pid)
    }

    async fn exec(&self, id: &ProcessId, process: Vec<u8>, stdio: StdioPaths) -> Result<()> {
        let container = self.container(&id.container)?;
        container.created().await?;
        let machine = self.machine().await?;
        let guest = machine.guest().await?;
        let endpoints = Endpoints::open(&stdio, id, &self.namespace).await?;
        let numbers = streams(&stdio, || machine.numbers().next());
        let pumps = Pumps::connect(endpoints, &numbers, &guest.streams)
            .map_err(|e| Error::internal(format!("open the streams of {id}: {e}")))?;
        let request = api::ExecRequest {
            container_id: id.container.clone(),
            exec_id: id.exec.clone(),
            process,
            stdio: Some(numbers).into(),
            ..Default::default()
        };
        let exec = Process::new(id.clone());
        // What the host has mounted before an exec, that sees; unless a source hangs.
        if let Some(follower) = container.follower() {
            let _ = tokio::time::timeout(FOLLOWING, follower.update()).await;
        }
        guest.client.exec(in_time(), &request).await?;
        pumps.start_input();
        exec.set_pumps(pumps);
        container.lock_execs().insert(id.exec.clone(), exec.clone());
        tokio::spawn(follow_exec(machine, exec));
        Ok(())
    }

    async fn start(&self, container: &str) -> Result<()> {
        let starting = self.container(container)?;
        let started = self.release(&starting).await;
        if started.is_err() && starting.init.exit().is_none() {
            // Its container goes with it.
            starting.anchor.kill();
            starting.init.ended().await;
        }
        started
    }

    async fn wait(&self, id: &ProcessId) -> Exit {
        match self.process(id) {
            Ok(process) => process.ended().await,
            Err(_) => Exit { status: 255, oom_killed: false },
        }
    }

    async fn signal(&self, id: &ProcessId, signal: u32, all: bool) -> Result<()> {
        let container = self.container(&id.container)?;
        let kill = signal == libc::SIGKILL as u32;
        if kill && id.is_init() && !container.is_created() {
            // There may be no guest to ask yet, or never.
            container.anchor.kill();
            return Ok(());
        }
        let guest = self.guest_for(&id.container).await?;
        let request = signal_request(id, signal, all);
        let limit = if kill { KILL } else { CALL };
        match guest.client.signal(context::with_duration(limit), &request).await {
            Err(error) if kill && !matches!(error, ttrpc::Error::RpcStatus(_)) && container.is_sandbox => {
                warn!("the guest did not kill {id} ({error}): its VM is killed");
                self.machine().await?.kill();
                Ok(())
            }
            other => other.map(|_| ()).map_err(Error::from),
        }
    }

    async fn close_stdin(&self, id: &ProcessId) -> Result<()> {
        let process = self.process(id)?;
        if id.is_init() {
            // The input is connected while the guest makes the container.
            let _ = self.container(&id.container)?.created().await;
        }
        if let Some(pumps) = process.pumps() {
            pumps.close_stdin();
        }
        Ok(())
    }

    async fn resize(&self, id: &ProcessId, width: u32, height: u32) -> Result<()> {
        let guest = self.guest_for(&id.container).await?;
        let request = api::ResizeRequest {
            container_id: id.container.clone(),
            exec_id: id.exec.clone(),
            width,
            height,
            ..Default::default()
        };
        guest.client.resize(in_time(), &request).await?;
        Ok(())
    }

    async fn pause(&self, container: &str) -> Result<()> {
        let guest = self.guest_for(container).await?;
        guest.client.pause(in_time(), &container_ref(container)).await?;
        Ok(())
    }

    async fn resume(&self, container: &str) -> Result<()> {
        let guest = self.guest_for(container).await?;
        guest.client.resume(in_time(), &container_ref(container)).await?;
        Ok(())
    }

    async fn update(&self, container: &str, resources: Vec<u8>) -> Result<()> {
        let size = self.machine().await?.size();
        let updated = self.container(container)?;
        let is_other = |other: &&Arc<Container>| !Arc::ptr_eq(other, &updated) && other.init.exit().is_none();
        let others =
            self.lock().values().filter(is_other).filter_map(|other| other.limits().memory_mib()).sum();
        let update = Update::new(&resources, updated.terms.role, size, &updated.limits(), others)?;
        let guest = self.guest_for(container).await?;
        let request = api::UpdateRequest {
            container_id: container.to_owned(),
            resources: update.guest,
            ..Default::default()
        };
        guest.client.update(in_time(), &request).await?;
        updated.set_limits(update.limits);
        if let (Some(cgroup), Some(limits)) = (updated.cgroup(), update.host) {
            cgroup.limit(&limits)?;
        }
        Ok(())
    }

    async fn stats(&self, container: &str) -> Result<api::StatsResponse> {
        let guest = self.guest_for(container).await?;
        Ok(guest.client.stats(in_time(), &container_ref(container)).await?)
    }

    async fn delete_exec(&self, id: &ProcessId) {
        let Ok(process) = self.process(id) else { return };
        process.finished().await;
        if let Ok(container) = self.container(&id.container) {
            container.lock_execs().remove(&id.exec);
            if container.init.exit().is_none()
                && let Ok(guest) = self.guest_for(&id.container).await
                && let Err(error) = guest.client.delete_exec(in_time(), &process.reference()).await
            {
                warn!("forget {id} in the guest: {}", Error::from(error));
            }
        }
    }

    async fn delete(&self, container: &str) {
        let Ok(held) = self.container(container) else { return };
        held.init.finished().await;
        held.anchor.kill();
        held.anchor.ended().await;
        let machine = self.machine().await.ok();
        if let Some(machine) = &machine {
            if held.is_sandbox {
                machine.kill();
                machine.ended().await;
                self.machine.lock().await.take();
            } else {
                held.leave(machine).await;
            }
        }
        self.lock().remove(container);
        if let Some(machine) = &machine {
            self.rank(machine);
        }
        // Unmounting and removing block.
        let host = held.take_host();
        let undone = spawn_blocking(move || drop((host, machine))).await;
        if let Err(error) = undone {
            warn!("clean up after {container}: {error}");
        }
        held.hooks.poststop().await;
    }
}

/// Mounts what containerd wants at `root`, if anything, and resolves it.
async fn mount_rootfs(new: &NewContainer, root: PathBuf) -> Result<(Vec<Mounted>, Pinned)> {
    let mounts = new.rootfs.clone();
    let mounting = spawn_blocking(move || {
        let mounted = match mounts.is_empty() {
            true => Vec::new(),
            false => {
                make_dir(&root, 0o711)?;
                Mounted::rootfs(&mounts, &root)?
            }
        };
        Ok((mounted, open_rootfs(&root)?))
    });
    mounting.await.map_err(|e| Error::internal(format!("mount the rootfs: {e}")))?
}
