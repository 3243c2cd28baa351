//! One container's life in the guest, from its making to its end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, SystemTime},
};

use guest_protocol::api;
use log::{debug, error, info, warn};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use ttrpc::context::Context;

use super::{host_side::HostSide, process::Process, vm::Vm};
use crate::{
    bundle::{HostDisk, HostPolicy},
    config::{Limits, RuntimeOptions},
    error::{Error, Result},
    files::{
        disk::device_name,
        follow::Follower,
        forward::{self, Forward},
        pin::Socket,
        watch::Watched,
    },
    hooks::ContainerHooks,
    lock::lock,
    report::{self, Failure, Reason, Report},
    sandbox::{
        Exit, ProcessId,
        host::{Anchor, Cgroup, GuestRoot, Host, Machine},
    },
    stdio::{Endpoints, StdioPaths},
};

/// How long the end waits for that of the killed anchor: only one that the host's kernel does not let go takes as long.
const ANCHOR_GONE: Duration = Duration::from_secs(2);

/// How long the guest may take to report the end of a process that was killed, before its silence counts as one.
pub const LAST_WORD: Duration = Duration::from_secs(10);

/// A container.
pub struct Container<H: Host> {
    pub init: Arc<Process>,
    execs: Mutex<HashMap<String, Arc<Process>>>,
    /// Whether the VM dies with it.
    pub is_sandbox: bool,
    /// As it was made.
    pub policy: HostPolicy,
    /// What containerd said of the configuration.
    pub options: RuntimeOptions,
    pub anchor: Arc<H::Anchor>,
    pub hooks: Arc<ContainerHooks>,
    /// Its cgroup, which the host's side keeps and removes.
    cgroup: Option<Weak<H::Cgroup>>,
    /// What has its volumes follow the host.
    pub follower: Follower,
    created: watch::Sender<Option<Result<(), Arc<Error>>>>,
    host: Mutex<Option<HostSide<H>>>,
    /// What relays its published ports, the host's sockets and its look-ups, has its volumes follow the host, and watches them.
    /// None after its end.
    relays: Mutex<Option<JoinSet<()>>>,
    /// Its limits now.
    limits: Mutex<Limits>,
}

/// What the guest needs to make a container.
pub struct Blueprint {
    /// The guest's config.json.
    pub spec: Vec<u8>,
    pub stdio: StdioPaths,
    pub endpoints: Endpoints,
    /// Unix sockets of the host that the container may dial, by their numbers among its volumes.
    pub sockets: Vec<(usize, Socket)>,
    /// Its volumes, of whose changes the guest is told.
    pub watched: Vec<Watched>,
    /// What the guest makes its root of.
    pub root: Arc<GuestRoot>,
    /// Block devices of the host that are disks of the VM, in the order of their names.
    pub disks: Vec<HostDisk>,
}

impl<H: Host> Container<H> {
    /// A container whose host's side is complete.
    pub fn new(
        (policy, options): (HostPolicy, RuntimeOptions),
        mut relays: JoinSet<()>,
        anchor: Arc<H::Anchor>,
        follower: Follower,
        host: HostSide<H>,
    ) -> Arc<Container<H>> {
        if !follower.is_idle() {
            relays.spawn(follower.clone().keep());
        }
        Arc::new(Container {
            init: Process::new(ProcessId::init(host.hooks.container())),
            execs: Mutex::default(),
            is_sandbox: host.vm.is_some(),
            limits: Mutex::new(policy.limits),
            policy,
            options,
            anchor,
            hooks: host.hooks.clone(),
            cgroup: host.cgroup.as_ref().map(Arc::downgrade),
            follower,
            created: watch::Sender::new(None),
            host: Mutex::new(Some(host)),
            relays: Mutex::new(Some(relays)),
        })
    }

    /// Waits for its end, and that of its anchor: whose pid is the task's, and is nobody's when the end is told.
    pub async fn ended(&self) -> Exit {
        let exit = self.init.ended().await;
        if timeout(ANCHOR_GONE, self.anchor.ended()).await.is_err() {
            warn!("the anchor of {} was killed and has not gone within {ANCHOR_GONE:?}", self.init.id);
        }
        exit
    }

    /// Takes what was made on the host, for undoing it.
    pub fn take_host(&self) -> Option<HostSide<H>> {
        lock(&self.host).take()
    }

    /// Runs `work` until the container ends.
    pub fn keep(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(relays) = &mut *lock(&self.relays) {
            relays.spawn(work);
        }
    }

    /// Its cgroup on the host, as long as that is there.
    pub fn cgroup(&self) -> Option<Arc<H::Cgroup>> {
        self.cgroup.as_ref().and_then(Weak::upgrade)
    }

    /// Its limits.
    pub fn limits(&self) -> Limits {
        *lock(&self.limits)
    }

    /// Remembers its limits.
    pub fn set_limits(&self, limits: Limits) {
        *lock(&self.limits) = limits;
    }

    /// Its execs by their ids.
    pub fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        lock(&self.execs)
    }

    /// Waits until the guest has made the container.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn created(&self) -> Result<()> {
        let mut changes = self.created.subscribe();
        // The sender lives in `self`, so this cannot fail.
        match changes.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Err(error))) => Err(Error::clone(error)),
            _ => Ok(()),
        }
    }

    /// Whether the guest has made it.
    pub fn is_created(&self) -> bool {
        matches!(&*self.created.borrow(), Some(Ok(())))
    }

    /// Follows the container from its making in the guest to its end. The shim's seat is given up before that is told: who
    /// hears of it may kill all that is in the pod's cgroup, as the kubelet does.
    pub async fn supervise(self: Arc<Self>, vm: Arc<Vm<H>>, blueprint: Blueprint) {
        let outcome = tokio::select! {
            // The guest's own reason says more than the end that it leads to.
            biased;
            outcome = self.make(&vm, blueprint) => outcome,
            ended = vm.ended() => {
                vm.tell_early(&ended);
                Err(Error::internal(ended.reason))
            }
            () = self.anchor.ended() => Err(Error::precondition("the container was killed before its start")),
        };
        let failed = outcome.as_ref().err().map(Error::exit_status);
        self.created.send_replace(Some(outcome.map_err(Arc::new)));
        let exit = match failed {
            Some(status) => Exit { status, oom_killed: false },
            None => self.end(&vm).await,
        };
        failpoint!("exit.heard");
        drop(self.take_seat());
        if self.is_sandbox && failed.is_none() {
            // Whoever hears of it may kill all that is in the pod's cgroup.
            vm.dismiss();
        }
        self.init.set_exit(exit);
        self.anchor.kill();
        report::send(Report::Exited(if failed.is_some() { Reason::NotMade } else { Reason::from(exit) }));
        failpoint!("exit.set");
        self.finish(&vm).await;
    }

    fn take_seat(&self) -> Option<<H::Cgroup as Cgroup>::Seat> {
        lock(&self.host).as_mut().and_then(|host| host.seat.take())
    }

    async fn make(&self, vm: &Vm<H>, blueprint: Blueprint) -> Result<()> {
        let id = &self.init.id.container;
        let (stdio, pumps) = vm.connect(&self.init.id, &blueprint.stdio, blueprint.endpoints).await?;
        let mut request = api::CreateContainerRequest {
            container_id: id.clone(),
            spec: blueprint.spec,
            stdio: Some(stdio).into(),
            sockets: blueprint
                .sockets
                .iter()
                .map(|(number, socket)| forward::describe(*number, socket))
                .collect(),
            watched: blueprint.watched.iter().flat_map(Watched::numbers).collect(),
            disks: blueprint.disks.iter().enumerate().map(described).collect(),
            ..Default::default()
        };
        blueprint.root.describe(&mut request);
        failpoint!("guest.making");
        vm.call(&format!("make {id}"), async |guest, limit| {
            guest.client.create_container(limit, &request).await
        })
        .await?;
        failpoint!("guest.made");
        pumps.start_input();
        self.init.set_pumps(pumps);
        let guest = vm.guest().await?;
        for (number, socket) in blueprint.sockets {
            let forward = Forward { container: id.clone(), number, socket };
            self.keep(forward.serve(guest.clone(), vm.numbers()));
        }
        for watched in blueprint.watched {
            self.keep(watched.keep(guest.clone(), vm.machine().vmm()));
        }
        Ok(())
    }

    /// Waits for the container's end: what the guest says, or what its silence means. A kill that the guest does not answer
    /// with an end is one of the whole VM.
    async fn end(&self, vm: &Vm<H>) -> Exit {
        let record = record(vm, &self.init);
        tokio::pin!(record);
        tokio::select! {
            exit = &mut record => return exit,
            () = self.init.killed() => {}
            () = self.anchor.ended() => {
                warn!("the anchor of {} was killed: so is the container", self.init.id);
                let kill = signal_request(&self.init.in_guest, libc::SIGKILL as u32, true);
                let deadline = Instant::now() + LAST_WORD;
                // One that does not take it does not end either.
                let _ = timeout_at(deadline, async {
                    let guest = vm.guest().await?;
                    guest.client.signal(Context::default(), &kill).await?;
                    Ok::<_, Error>(())
                })
                .await;
            }
        }
        match timeout_at(Instant::now() + LAST_WORD, &mut record).await {
            Ok(exit) => exit,
            Err(_) => {
                let id = &self.init.id;
                error!(
                    "{id} was killed, and the guest has not told its end within {LAST_WORD:?}: its VM is killed"
                );
                vm.fail(Failure::Unresponsive);
                vm.end().await.exit
            }
        }
    }

    /// After the container's end: its ports are free and its relays gone, its execs ended with it, its output is read,
    /// and a sandbox's VM goes.
    async fn finish(&self, vm: &Vm<H>) {
        let relays = lock(&self.relays).take();
        if let Some(mut relays) = relays {
            relays.shutdown().await;
        }
        let execs: Vec<_> = self.execs().values().cloned().collect();
        let deadline = Instant::now() + LAST_WORD;
        for exec in execs {
            if timeout_at(deadline, exec.ended()).await.is_err() {
                exec.set_exit(Exit::KILLED);
            }
        }
        if let Some(pumps) = self.init.pumps() {
            if self.is_sandbox {
                // A guest that keeps its output open would keep its VM.
                pumps.expect_end();
            }
            pumps.finish().await;
        }
        failpoint!("exit.drained");
        if self.is_sandbox {
            vm.dismiss();
            vm.kill();
        }
        self.init.set_finished();
    }

    /// Removes the container from a guest that goes on.
    pub async fn leave(&self, vm: &Vm<H>) {
        vm.remove(&self.init.id.container).await;
    }
}

fn described((number, disk): (usize, &HostDisk)) -> api::Disk {
    let HostDisk { major, minor, .. } = *disk;
    api::Disk { major, minor, name: device_name(number), ..Default::default() }
}

/// Follows an exec from its start to its end, and that of its output.
pub async fn follow_exec<H: Host>(vm: Arc<Vm<H>>, container: Arc<Container<H>>, exec: Arc<Process>) {
    let exit = follow(&vm, &container, &exec).await;
    // Who reads its output, or does not, must not keep the VM.
    drop(vm);
    failpoint!("exec.ended");
    exec.conclude(exit).await;
}

/// Waits for the end of an exec. It outlives neither its container nor a SIGKILL by more than [`LAST_WORD`], whatever the guest
/// says of it.
pub async fn follow<H: Host>(vm: &Vm<H>, container: &Container<H>, exec: &Process) -> Exit {
    let outlived = async {
        tokio::select! {
            _ = container.init.ended() => {}
            () = exec.killed() => {}
        }
        sleep(LAST_WORD).await;
        warn!("{}: it or its container was ended, and the guest has not told within {LAST_WORD:?}", exec.id);
    };
    tokio::select! {
        exit = record(vm, exec) => exit,
        () = outlived => Exit::KILLED,
    }
}

/// Ends an exec that the guest was late with, as nobody else knows of it. One that is made later still runs until its
/// container ends.
pub async fn forget_exec<H: Host>(vm: Arc<Vm<H>>, exec: Arc<Process>) {
    let kill = signal_request(&exec.in_guest, libc::SIGKILL as u32, false);
    let what = format!("end {}, which was late", exec.id);
    let killed = vm.call(&what, async |guest, limit| guest.client.signal(limit, &kill).await).await;
    let reference = exec.reference();
    let forgotten =
        vm.call(&what, async |guest, limit| guest.client.delete_exec(limit, &reference).await).await;
    for error in [killed.err(), forgotten.err()].into_iter().flatten() {
        debug!("{error}");
    }
}

/// The guest's word on the end of a process; a VM that ends without one is the end as well.
async fn record<H: Host>(vm: &Vm<H>, process: &Process) -> Exit {
    let heard = async {
        let guest = vm.guest().await?;
        let record = guest.client.wait(Context::default(), &process.reference()).await?;
        // The guest's clock was set from ours at boot.
        let ended = SystemTime::UNIX_EPOCH + Duration::from_nanos(record.exited_at_ns.max(0) as u64);
        let since = SystemTime::now().duration_since(ended).unwrap_or_default();
        info!("exit: {} heard of {} us after it", process.id, since.as_micros());
        Ok::<_, Error>(Exit::from(&record))
    };
    match heard.await {
        Ok(exit) => exit,
        Err(error) => {
            // The connection ends with the VM. One that lives on without it is of no use.
            let ended = vm.end_lost().await;
            error!("{} ended without a record ({error}): {}", process.id, ended.reason);
            ended.exit
        }
    }
}

/// How the guest is asked about a container.
pub fn container_ref(id: &str) -> api::ContainerRef {
    api::ContainerRef { container_id: id.to_owned(), ..Default::default() }
}

/// A signal for the guest, which calls the process `id`.
pub fn signal_request(id: &ProcessId, signal: u32, all: bool) -> api::SignalRequest {
    api::SignalRequest {
        container_id: id.container.clone(),
        exec_id: id.exec.clone(),
        signal,
        all,
        ..Default::default()
    }
}
