//! The real sandbox: a microVM and its containers, on a [`Host`].

mod boot;
pub mod clock;
mod container;
mod create;
mod host_side;
mod operator;
mod process;
#[cfg(test)]
mod tests;
mod update;
mod vm;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use guest_protocol::api;
use log::{info, warn};
use tokio::time::timeout;

use self::{
    container::{Container, LAST_WORD, container_ref, follow_exec, forget_exec, signal_request},
    create::blocking,
    process::Process,
    update::Update,
    vm::Vm,
};
use super::{
    Exit, NewContainer, NewProcess, ProcessId, Sandbox,
    host::{Anchor, Cgroup, Host, Machine},
};
use crate::{
    bundle,
    error::{Error, Result},
    files::pin::Source,
    stdio::{Endpoints, StdioPaths},
};

pub use operator::Wrapped;

/// How long an exec waits for what the host has mounted below volumes.
const FOLLOWING: Duration = Duration::from_secs(2);

/// A sandbox whose VM starts with its first container.
pub struct KrunSandbox<H: Host> {
    host: Arc<H>,
    namespace: String,
    sandbox: String,
    /// Held while the VM is made; later containers wait here for it.
    vm: tokio::sync::Mutex<Option<Arc<Vm<H>>>>,
    containers: Mutex<HashMap<String, Arc<Container<H>>>>,
}

impl<H: Host> KrunSandbox<H> {
    /// The sandbox `sandbox` in containerd's `namespace`, on `host`; nothing is made yet.
    pub fn new(namespace: &str, sandbox: &str, host: H) -> Self {
        KrunSandbox {
            host: Arc::new(host),
            namespace: namespace.to_owned(),
            sandbox: sandbox.to_owned(),
            vm: tokio::sync::Mutex::default(),
            containers: Mutex::default(),
        }
    }

    fn container(&self, id: &str) -> Result<Arc<Container<H>>> {
        let containers = self.lock();
        containers
            .get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("no container {id} in the sandbox")))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Container<H>>>> {
        self.containers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What a container's spec may refer to.
    fn bundle_host(&self) -> Result<bundle::Host> {
        let uname =
            nix::sys::utsname::uname().map_err(|e| Error::internal("ask for the host's name").because(e))?;
        Ok(bundle::Host {
            name: uname.nodename().to_string_lossy().into_owned(),
            resolve: Source::resolve,
            containers: self
                .lock()
                .iter()
                .map(|(id, container)| (container.anchor.pid(), id.clone()))
                .collect(),
            rlimits: bundle::own_rlimits(),
            oom_score_adj: bundle::own_oom_score_adj(),
            kvm: false,
        })
    }

    async fn vm(&self) -> Result<Arc<Vm<H>>> {
        let vm = self.vm.lock().await;
        vm.clone().ok_or_else(|| Error::precondition(format!("sandbox {} has no VM", self.sandbox)))
    }

    fn process(&self, id: &ProcessId) -> Result<Arc<Process>> {
        let container = self.container(&id.container)?;
        if id.is_init() {
            return Ok(container.init.clone());
        }
        let execs = container.execs();
        execs.get(&id.exec).cloned().ok_or_else(|| Error::not_found(format!("no exec {id}")))
    }

    /// Has a created container's process run, in a VM that is launched now if it waited for this.
    async fn release(&self, container: &Container<H>) -> Result<()> {
        let vm = self.vm().await?;
        if container.is_sandbox && vm.awaits_launch() {
            vm.launch(container.anchor.pid(), container.cgroup().as_deref()).await?;
            self.set_oom_score_adj(&vm);
        }
        let id = &container.init.id.container;
        container.created().await?;
        if let Some(exit) = container.init.exit() {
            return Err(Error::precondition(format!("container {id} has ended with status {}", exit.status)));
        }
        if container.is_sandbox && vm.join_network().await? {
            match vm.lookups(container.anchor.pid()).await {
                Ok(lookups) => lookups.into_iter().for_each(|lookups| container.keep(lookups)),
                Err(error) => warn!("{id}: the names of its Docker network are not found: {error}"),
            }
        }
        let reference = container.init.reference();
        failpoint!("run.called");
        vm.call(&format!("start {id}"), async |guest, limit| guest.client.start(limit, &reference).await)
            .await?;
        failpoint!("run.started");
        container.hooks.poststart(container.anchor.pid()).await;
        Ok(())
    }

    /// Protects the VM from the host's out-of-memory killer as much as the most protected container in it.
    fn set_oom_score_adj(&self, vm: &Vm<H>) {
        let score = self.lock().values().filter_map(|container| container.policy.oom_score_adj).min();
        vm.machine().set_oom_score_adj(score.unwrap_or(0));
    }

    /// The VM, for a call of its guest on a container that was made there.
    async fn vm_of(&self, container: &str) -> Result<Arc<Vm<H>>> {
        let container = self.container(container)?;
        let vm = self.vm().await?;
        if vm.awaits_launch() {
            return Err(Error::precondition(format!(
                "container {} is not started: its VM waits for that",
                container.init.id
            )));
        }
        container.created().await?;
        Ok(vm)
    }

    /// Kills a process. A container's own that the guest does not end is ended with its VM; such an exec counts as ended.
    async fn kill(&self, id: &ProcessId, all: bool) -> Result<()> {
        let container = self.container(&id.container)?;
        if id.is_init() && !container.is_created() {
            // There may be no guest to ask yet, or never.
            container.anchor.kill();
            return Ok(());
        }
        let vm = self.vm_of(&id.container).await?;
        let process = self.process(id)?;
        process.set_killed();
        let request = signal_request(&process.in_guest, libc::SIGKILL as u32, all);
        let what = format!("kill {id}");
        let killed = vm
            .call_within(LAST_WORD, &what, async |guest, limit| guest.client.signal(limit, &request).await)
            .await;
        match killed {
            Err(error) if error.is_late() => {
                warn!("{error}");
                Ok(())
            }
            // It is gone with its VM, or will be; and an exec's end is told soon.
            Err(error) if error.is_internal() => {
                info!("{error}");
                Ok(())
            }
            killed => killed.map(|_| ()),
        }
    }
}

#[async_trait]
impl<H: Host> Sandbox for KrunSandbox<H> {
    async fn create(&self, new: NewContainer) -> Result<u32> {
        self.make(new).await
    }

    async fn exec(&self, id: &ProcessId, new: NewProcess, stdio: StdioPaths) -> Result<()> {
        if new.is_operators {
            return self.start_operators(id, &new.process, stdio).await;
        }
        let container = self.container(&id.container)?;
        let vm = self.vm_of(&id.container).await?;
        let endpoints = Endpoints::open(&stdio, id, &self.namespace).await?;
        failpoint!("exec.stdio");
        let (numbers, pumps) = vm.connect(id, &stdio, endpoints).await?;
        let request = api::ExecRequest {
            container_id: id.container.clone(),
            exec_id: id.exec.clone(),
            process: bundle::to_guest_process(new.process),
            stdio: Some(numbers).into(),
            ..Default::default()
        };
        let exec = Process::new(id.clone());
        // An exec sees what the host has mounted before it, unless a source hangs.
        let _ = timeout(FOLLOWING, container.follower.update()).await;
        let made = vm
            .call(&format!("exec {id}"), async |guest, limit| guest.client.exec(limit, &request).await)
            .await;
        if let Err(error) = made {
            if error.is_late() {
                tokio::spawn(forget_exec(vm, exec));
            }
            return Err(error);
        }
        failpoint!("exec.made");
        pumps.start_input();
        exec.set_pumps(pumps);
        container.execs().insert(id.exec.clone(), exec.clone());
        tokio::spawn(follow_exec(vm, container, exec));
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
        match (self.container(&id.container), self.process(id)) {
            (Ok(container), Ok(_)) if id.is_init() => container.ended().await,
            (_, Ok(process)) => process.ended().await,
            (_, Err(_)) => Exit::UNKNOWN,
        }
    }

    async fn signal(&self, id: &ProcessId, signal: u32, all: bool) -> Result<()> {
        if signal == libc::SIGKILL as u32 {
            return self.kill(id, all).await;
        }
        let request = signal_request(&self.process(id)?.in_guest, signal, all);
        let vm = self.vm_of(&id.container).await?;
        vm.call(&format!("signal {id}"), async |guest, limit| guest.client.signal(limit, &request).await)
            .await?;
        Ok(())
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
        let api::ProcessRef { container_id, exec_id, .. } = self.process(id)?.reference();
        let request = api::ResizeRequest { container_id, exec_id, width, height, ..Default::default() };
        let vm = self.vm_of(&id.container).await?;
        vm.call(&format!("resize {id}"), async |guest, limit| guest.client.resize(limit, &request).await)
            .await?;
        Ok(())
    }

    async fn pause(&self, container: &str) -> Result<()> {
        let (vm, reference) = (self.vm_of(container).await?, container_ref(container));
        vm.call(&format!("pause {container}"), async |guest, limit| {
            guest.client.pause(limit, &reference).await
        })
        .await?;
        Ok(())
    }

    async fn resume(&self, container: &str) -> Result<()> {
        let (vm, reference) = (self.vm_of(container).await?, container_ref(container));
        vm.call(&format!("resume {container}"), async |guest, limit| {
            guest.client.resume(limit, &reference).await
        })
        .await?;
        Ok(())
    }

    async fn update(&self, container: &str, resources: Vec<u8>) -> Result<()> {
        let updated = self.container(container)?;
        let vm = self.vm_of(container).await?;
        let is_other =
            |other: &&Arc<Container<H>>| !Arc::ptr_eq(other, &updated) && other.init.exit().is_none();
        let others =
            self.lock().values().filter(is_other).filter_map(|other| other.limits().memory_mib()).sum();
        let update = Update::new(&resources, updated.policy.role, vm.size(), &updated.limits(), others)?;
        let request = api::UpdateRequest {
            container_id: container.to_owned(),
            resources: update.guest,
            ..Default::default()
        };
        vm.call(&format!("update {container}"), async |guest, limit| {
            guest.client.update(limit, &request).await
        })
        .await?;
        updated.set_limits(update.limits);
        if let Some(cgroup) = updated.cgroup() {
            let limits = update.host;
            blocking("limit the cgroup", move || cgroup.limit(&limits)).await?;
        }
        Ok(())
    }

    async fn oom_kills(&self, container: &str, known: u64) -> Option<u64> {
        let guest = self.vm_of(container).await.ok()?.guest().await.ok()?;
        let request = api::WaitOomRequest { container_id: container.to_owned(), known, ..Default::default() };
        // It waits for as long as the container runs; the end of its VM ends it. A task of its own: a call that is given up while it is
        // written is the end of the connection.
        let call =
            tokio::spawn(
                async move { guest.client.wait_oom(ttrpc::context::Context::default(), &request).await },
            );
        let kills = call.await.ok()?.ok()?;
        Some(kills.count).filter(|count| *count > known)
    }

    async fn stats(&self, container: &str) -> Result<api::StatsResponse> {
        let (vm, reference) = (self.vm_of(container).await?, container_ref(container));
        vm.call(&format!("stats of {container}"), async |guest, limit| {
            guest.client.stats(limit, &reference).await
        })
        .await
    }

    async fn delete_exec(&self, id: &ProcessId) {
        let Ok(process) = self.process(id) else { return };
        process.finished().await;
        let Ok(container) = self.container(&id.container) else { return };
        container.execs().remove(&id.exec);
        if container.init.exit().is_some() || process.in_guest.is_init() {
            // The guest has forgotten it by itself.
            return;
        }
        let reference = process.reference();
        let forgotten = async {
            let vm = self.vm_of(&id.container).await?;
            vm.call(&format!("forget {id}"), async |guest, limit| {
                guest.client.delete_exec(limit, &reference).await
            })
            .await
        };
        if let Err(error) = forgotten.await {
            warn!("{error}");
        }
    }

    async fn delete(&self, container: &str) {
        let Ok(held) = self.container(container) else { return };
        held.init.finished().await;
        failpoint!("delete.finished");
        if held.is_sandbox {
            self.vm.lock().await.take();
        } else if let Ok(vm) = self.vm().await {
            held.leave(&vm).await;
        }
        self.lock().remove(container);
        if let Ok(vm) = self.vm().await {
            self.set_oom_score_adj(&vm);
        }
        if let Some(side) = held.take_host() {
            side.undo().await;
        }
    }
}
