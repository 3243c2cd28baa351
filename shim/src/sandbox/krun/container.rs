//! One container: what was made for it on the host, and its life in the guest.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use guest_protocol::api;
use log::{info, warn};
use tokio::{sync::watch, task::JoinSet};
use ttrpc::context;

use super::{
    machine::{CALL, Machine},
    process::Process,
};
use crate::{
    anchor::Anchor,
    bundle::Terms,
    cgroup::{HostCgroup, Seat},
    config::Limits,
    error::{Error, Result},
    files::{
        follow::Follower,
        forward::{self, Forward},
        mount::Mounted,
        pin::Socket,
        share::ContainerShare,
    },
    hooks::ContainerHooks,
    sandbox::{Exit, ProcessId},
    stdio::{Endpoints, Pumps, StdioPaths, streams},
};

/// How long the guest may take to report the end of a container that was killed, before its
/// silence counts as one.
const LAST_WORD: Duration = Duration::from_secs(10);

/// A container.
pub struct Container {
    pub init: Arc<Process>,
    pub execs: Mutex<HashMap<String, Arc<Process>>>,
    /// Whether the VM dies with it.
    pub is_sandbox: bool,
    /// As it was made.
    pub terms: Terms,
    pub anchor: Anchor,
    pub hooks: ContainerHooks,
    created: watch::Sender<Option<Result<(), Arc<Error>>>>,
    host: Mutex<Option<Host>>,
    /// What relays its published ports and the host's sockets, and has its volumes follow the host.
    relays: Mutex<JoinSet<()>>,
    /// Its limits now.
    limits: Mutex<Limits>,
}

/// What was made for a container on the host: its part of the share, its rootfs's mounts, its
/// cgroup; undone in this order when it is dropped, once its processes are gone.
pub type Host = (ContainerShare, Vec<Mounted>, Option<Arc<HostCgroup>>);

/// What the guest needs to make a container.
pub struct Blueprint {
    /// The guest's config.json.
    pub spec: Vec<u8>,
    pub stdio: StdioPaths,
    pub endpoints: Endpoints,
    /// Unix sockets of the host that the container may dial.
    pub sockets: Vec<Socket>,
}

impl Container {
    pub fn new(
        is_sandbox: bool,
        terms: Terms,
        (anchor, hooks): (Anchor, ContainerHooks),
        host: Host,
        relays: JoinSet<()>,
    ) -> Arc<Container> {
        Arc::new(Container {
            init: Process::new(ProcessId::init(hooks.container())),
            execs: Mutex::default(),
            is_sandbox,
            limits: Mutex::new(terms.limits),
            terms,
            anchor,
            hooks,
            created: watch::Sender::new(None),
            host: Mutex::new(Some(host)),
            relays: Mutex::new(relays),
        })
    }

    /// Takes what was made on the host, for undoing it.
    pub fn take_host(&self) -> Option<Host> {
        self.host.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    /// Its cgroup on the host.
    pub fn cgroup(&self) -> Option<Arc<HostCgroup>> {
        let host = self.host.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        host.as_ref().and_then(|(_, _, cgroup)| cgroup.clone())
    }

    /// Its limits.
    pub fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Remembers its limits.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = limits;
    }

    /// What has its volumes follow the host.
    pub fn follower(&self) -> Option<Follower> {
        let host = self.host.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        host.as_ref().map(|(share, _, _)| share.follower().clone())
    }

    /// Waits until the guest has made the container.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn created(&self) -> Result<()> {
        let mut changes = self.created.subscribe();
        loop {
            if let Some(outcome) = &*changes.borrow_and_update() {
                return outcome.clone().map_err(|error| error.repeated());
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// Whether the guest has made it.
    pub fn is_created(&self) -> bool {
        matches!(&*self.created.borrow(), Some(Ok(())))
    }

    /// Follows the container from its making in the guest to its end. `seat` is given up before that is told: who hears of
    /// it may kill all that is in the pod's cgroup, as the kubelet does.
    pub async fn supervise(self: Arc<Self>, machine: Arc<Machine>, blueprint: Blueprint, seat: Option<Seat>) {
        let outcome = tokio::select! {
            outcome = self.make(&machine, blueprint) => outcome,
            (_, reason) = machine.died() => Err(Error::internal(reason)),
            () = self.anchor.ended() => Err(Error::precondition("the container was killed before its start")),
        };
        let failed = outcome.as_ref().err().map(Error::exit_status);
        self.created.send_replace(Some(outcome.map_err(Arc::new)));
        let exit = match failed {
            Some(status) => Exit { status, oom_killed: false },
            None => self.end(&machine).await,
        };
        drop(seat);
        self.init.set_exit(exit);
        self.anchor.kill();
        self.finish(&machine).await;
    }

    async fn make(&self, machine: &Machine, blueprint: Blueprint) -> Result<()> {
        let guest = machine.guest().await?;
        let stdio = streams(&blueprint.stdio, || machine.numbers().next());
        let pumps = Pumps::connect(blueprint.endpoints, &stdio, &guest.streams)
            .map_err(|e| Error::internal(format!("open the streams of {}: {e}", self.init.id)))?;
        let request = api::CreateContainerRequest {
            container_id: self.init.id.container.clone(),
            spec: blueprint.spec,
            stdio: Some(stdio).into(),
            sockets: (0..)
                .zip(&blueprint.sockets)
                .map(|(number, socket)| forward::describe(number, socket))
                .collect(),
            ..Default::default()
        };
        guest.client.create_container(context::with_duration(CALL), &request).await?;
        pumps.start_input();
        self.init.set_pumps(pumps);
        let mut relays = self.relays();
        for (number, socket) in blueprint.sockets.into_iter().enumerate() {
            let forward = Forward { container: self.init.id.container.clone(), number, socket };
            relays.spawn(forward.serve(guest.clone(), machine.numbers()));
        }
        Ok(())
    }

    fn relays(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.relays.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for the container's end: what the guest says, or what its silence means.
    async fn end(&self, machine: &Machine) -> Exit {
        tokio::select! {
            exit = record(machine, &self.init) => exit,
            () = self.anchor.ended() => {
                warn!("the anchor of {} was killed: so is the container", self.init.id);
                let kill = signal_request(&self.init.id, libc::SIGKILL as u32, true);
                let killed = async {
                    let guest = machine.guest().await?;
                    guest.client.signal(context::with_duration(CALL), &kill).await?;
                    Ok::<_, Error>(record(machine, &self.init).await)
                };
                match tokio::time::timeout(LAST_WORD, killed).await {
                    Ok(Ok(exit)) => exit,
                    _ => Exit::KILLED,
                }
            }
        }
    }

    /// After the container's end: its ports are free and its relays gone, its execs ended with it, its output is read,
    /// and a sandbox's VM goes.
    async fn finish(&self, machine: &Machine) {
        let mut relays = std::mem::take(&mut *self.relays());
        relays.shutdown().await;
        let execs: Vec<_> = self.lock_execs().values().cloned().collect();
        for exec in execs {
            if tokio::time::timeout(LAST_WORD, exec.ended()).await.is_err() {
                exec.set_exit(Exit::KILLED);
            }
        }
        if let Some(pumps) = self.init.pumps() {
            pumps.finish().await;
        }
        if self.is_sandbox {
            machine.kill();
        }
        self.init.set_finished();
    }

    pub fn lock_execs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Removes the container from a guest that goes on.
    pub async fn leave(&self, machine: &Machine) {
        let reference =
            api::ContainerRef { container_id: self.init.id.container.clone(), ..Default::default() };
        let removed = async {
            machine.guest().await?.client.delete_container(context::with_duration(CALL), &reference).await?;
            Ok::<_, Error>(())
        };
        if let Err(error) = removed.await {
            warn!("remove {} from the guest: {error}", self.init.id);
        }
    }
}

/// Follows an exec from its start to its end.
pub async fn follow_exec(machine: Arc<Machine>, exec: Arc<Process>) {
    let exit = record(&machine, &exec).await;
    exec.set_exit(exit);
    if let Some(pumps) = exec.pumps() {
        pumps.finish().await;
    }
    exec.set_finished();
}

/// The guest's word on the end of a process; a VM that dies without one is the end as well.
async fn record(machine: &Machine, process: &Process) -> Exit {
    let heard = async {
        let guest = machine.guest().await?;
        let record = guest.client.wait(context::Context::default(), &process.reference()).await?;
        // The guest's clock was set from ours at boot.
        let ended = SystemTime::UNIX_EPOCH + Duration::from_nanos(record.exited_at_ns.max(0) as u64);
        let since = SystemTime::now().duration_since(ended).unwrap_or_default();
        info!("exit: {} heard of {} us after it", process.id, since.as_micros());
        Ok::<_, Error>(Exit { status: record.status & 0xff, oom_killed: record.oom_killed })
    };
    match heard.await {
        Ok(exit) => exit,
        Err(error) => {
            // The connection ends with the VM. One that lives on without it is of no use.
            machine.kill();
            let (exit, reason) = machine.died().await;
            log::error!("{} ended without a record ({error}): {reason}", process.id);
            exit
        }
    }
}

/// A signal for the guest.
pub fn signal_request(id: &ProcessId, signal: u32, all: bool) -> api::SignalRequest {
    api::SignalRequest {
        container_id: id.container.clone(),
        exec_id: id.exec.clone(),
        signal,
        all,
        ..Default::default()
    }
}
