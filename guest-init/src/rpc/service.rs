//! One method for each RPC: it finds what the call names, and calls what does the work. ttrpc drops a handler when its
//! client goes away, so a call that must not stop half-way runs in a task of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use guest_protocol::api::*;
use libcontainer::oci_spec::runtime::LinuxResources;
use ttrpc::asynchronous::TtrpcContext;

use crate::cgroup::{resources, stats};
use crate::container::{Container, Exec, create, delete, spec};
use crate::io::console;
use crate::net::connect;
use crate::net::resolver::Resolver;
use crate::net::spare::Spare;
use crate::process::{Supervisor, exec};
use crate::rpc::fault::Fault;
use crate::vm::{clock, configure, idle};

/// A container, or its place while the container is being made or removed.
enum Slot {
    Busy,
    Ready(Arc<Container>),
}

/// Implements [`Guest`]. Clones share it.
#[derive(Clone)]
pub struct GuestService(Arc<Shared>);

struct Shared {
    supervisor: Supervisor,
    containers: Mutex<HashMap<String, Slot>>,
    spare: Mutex<Option<Spare>>,
    resolver: OnceLock<Resolver>,
}

/// Runs `work` to its end, also when the call is given up.
async fn own_task<T: Send + 'static>(
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(work).await {
        Ok(done) => Ok(done?),
        Err(err) => Err(Fault::internal(format!("the call ended unexpectedly: {err}")).into()),
    }
}

fn pid_of(pid: i32) -> Process {
    Process { pid: pid as u32, ..Default::default() }
}

impl GuestService {
    pub fn new(supervisor: Supervisor) -> GuestService {
        let (containers, spare, resolver) = Default::default();
        GuestService(Arc::new(Shared { supervisor, containers, spare, resolver }))
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.0.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spare(&self) -> MutexGuard<'_, Option<Spare>> {
        self.0.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<Container>, Fault> {
        match self.containers().get(id) {
            Some(Slot::Ready(container)) => Ok(container.clone()),
            Some(Slot::Busy) => Err(Fault::precondition(format!("container {id} is being made or removed"))),
            None => Err(Fault::not_found(format!("container {id} not found"))),
        }
    }

    async fn create(self, request: CreateContainerRequest) -> Result<Process, Fault> {
        let id = request.container_id.clone();
        spec::check_id(&id)?;
        {
            let mut containers = self.containers();
            if containers.contains_key(&id) {
                return Err(Fault::exists(format!("container {id} exists")));
            }
            containers.insert(id.clone(), Slot::Busy);
        }
        let made = create::create(&self.0.supervisor, request, |other| Ok(self.find(other)?.init.pid)).await;
        let mut containers = self.containers();
        match made {
            Ok(container) => {
                let pid = container.init.pid;
                containers.insert(id, Slot::Ready(Arc::new(container)));
                Ok(pid_of(pid))
            }
            Err(fault) => {
                containers.remove(&id);
                Err(fault)
            }
        }
    }

    async fn delete(self, id: String) -> Result<Empty, Fault> {
        let container = self.find(&id)?;
        self.containers().insert(id.clone(), Slot::Busy);
        let deleted = delete::container(&container, &self.0.supervisor.reaper).await;
        let mut containers = self.containers();
        match deleted {
            Ok(()) => {
                containers.remove(&id);
                Ok(Empty::new())
            }
            // The host may try again.
            Err(err) => {
                containers.insert(id, Slot::Ready(container));
                Err(err.into())
            }
        }
    }
}

#[async_trait]
impl Guest for GuestService {
    async fn configure(
        &self,
        _: &TtrpcContext,
        request: ConfigureRequest,
    ) -> ttrpc::Result<ConfigureResponse> {
        let (response, spare) = configure::configure(&request).map_err(Fault::from)?;
        *self.spare() = spare;
        tokio::spawn(idle::give_back(request.idle_cache_mib));
        Ok(response)
    }

    async fn join(&self, _: &TtrpcContext, request: Network) -> ttrpc::Result<Empty> {
        let spare = self.spare().take();
        let spare = spare.ok_or_else(|| Fault::precondition("the VM has no NIC to spare"))?;
        spare.join(&request).map_err(Fault::from)?;
        Ok(Empty::new())
    }

    async fn set_clock(&self, _: &TtrpcContext, request: SetClockRequest) -> ttrpc::Result<Empty> {
        clock::follow(request.realtime_ns).map_err(Fault::from)?;
        Ok(Empty::new())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<Process> {
        own_task(self.clone().create(request)).await
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<Process> {
        let service = self.clone();
        own_task(async move {
            spec::check_id(&request.exec_id)?;
            let container = service.find(&request.container_id)?;
            Ok(pid_of(exec::exec(&service.0.supervisor, &container, request).await?))
        })
        .await
    }

    async fn start(&self, _: &TtrpcContext, request: ProcessRef) -> ttrpc::Result<Empty> {
        let container = self.find(&request.container_id)?;
        if !request.exec_id.is_empty() {
            return Err(Fault::precondition("an exec is started when it is made").into());
        }
        container.start()?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: ProcessRef) -> ttrpc::Result<ExitRecord> {
        let process = self.find(&request.container_id)?.process(&request.exec_id)?;
        Ok(process.record().await?)
    }

    async fn wait_oom(&self, _: &TtrpcContext, request: WaitOomRequest) -> ttrpc::Result<OomKills> {
        let container = self.find(&request.container_id)?;
        let count = tokio::select! {
            count = container.cgroup.oom_kills_beyond(request.known) => count.map_err(Fault::from)?,
            _ = container.init.record() => container.cgroup.oom_kills(),
        };
        Ok(OomKills { count, ..Default::default() })
    }

    async fn signal(&self, _: &TtrpcContext, request: SignalRequest) -> ttrpc::Result<Empty> {
        let container = self.find(&request.container_id)?;
        if request.all {
            container.signal_all(request.signal)?;
        } else {
            container.process(&request.exec_id)?.signal(request.signal)?;
        }
        Ok(Empty::new())
    }

    async fn resize(&self, _: &TtrpcContext, request: ResizeRequest) -> ttrpc::Result<Empty> {
        let process = self.find(&request.container_id)?.process(&request.exec_id)?;
        let master = process.master.ok_or_else(|| Fault::precondition("the process has no terminal"))?;
        console::resize(&*master, request.width, request.height).map_err(Fault::from)?;
        Ok(Empty::new())
    }

    async fn delete_container(&self, _: &TtrpcContext, request: ContainerRef) -> ttrpc::Result<Empty> {
        own_task(self.clone().delete(request.container_id)).await
    }

    async fn delete_exec(&self, _: &TtrpcContext, request: ProcessRef) -> ttrpc::Result<Empty> {
        let container = self.find(&request.container_id)?;
        let mut execs = container.execs();
        let id = &request.exec_id;
        match execs.get(id) {
            Some(Exec::Made(process)) if process.has_ended() => {
                execs.remove(id);
                Ok(Empty::new())
            }
            Some(_) => Err(Fault::precondition(format!("exec {id} has not ended")).into()),
            None => Err(Fault::not_found(format!("exec {id} not found")).into()),
        }
    }

    async fn pause(&self, _: &TtrpcContext, request: ContainerRef) -> ttrpc::Result<Empty> {
        self.freeze(request.container_id, true).await
    }

    async fn resume(&self, _: &TtrpcContext, request: ContainerRef) -> ttrpc::Result<Empty> {
        self.freeze(request.container_id, false).await
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateRequest) -> ttrpc::Result<Empty> {
        let container = self.find(&request.container_id)?;
        let wanted: LinuxResources = serde_json::from_slice(&request.resources)
            .map_err(|err| Fault::invalid(format!("parse the resources: {err}")))?;
        resources::apply(&container.cgroup, &wanted).map_err(Fault::from)?;
        Ok(Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: ContainerRef) -> ttrpc::Result<StatsResponse> {
        Ok(stats::read(&self.find(&request.container_id)?.cgroup))
    }

    async fn accept(&self, _: &TtrpcContext, request: AcceptRequest) -> ttrpc::Result<Empty> {
        let container = self.find(&request.container_id)?;
        let accepted = container.sockets.accept(&self.0.supervisor.mux, request.socket, request.stream);
        // Else nothing of the container would go.
        let ended = container.init.record();
        tokio::select! {
            accepted = accepted => accepted?,
            _ = ended => {
                return Err(Fault::precondition(format!("container {} has ended", container.id)).into());
            }
        }
        Ok(Empty::new())
    }

    async fn listen_for_lookups(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        let resolver = Resolver::listen().await.map_err(Fault::from)?;
        match self.0.resolver.set(resolver) {
            Ok(()) => Ok(Empty::new()),
            Err(_) => Err(Fault::exists("the VM has a resolver").into()),
        }
    }

    async fn accept_lookup(&self, _: &TtrpcContext, request: AcceptLookupRequest) -> ttrpc::Result<Lookup> {
        let resolver = self.0.resolver.get().ok_or_else(|| Fault::precondition("the VM has no resolver"))?;
        let protocol = resolver.accept(&self.0.supervisor.mux, request.stream).await.map_err(Fault::from)?;
        Ok(Lookup { protocol: protocol.into(), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<Empty> {
        let mux = self.0.supervisor.mux.clone();
        own_task(async move { connect::connect(&mux, &request).await.map(|()| Empty::new()) }).await
    }

    async fn look_again(&self, _: &TtrpcContext, request: LookAgainRequest) -> ttrpc::Result<Empty> {
        let container = self.find(&request.container_id)?;
        let (reaper, cgroup) = (&self.0.supervisor.reaper, &container.cgroup);
        container.volumes.look_again(reaper, request, cgroup).await.map_err(Fault::from)?;
        Ok(Empty::new())
    }
}

impl GuestService {
    async fn freeze(&self, id: String, freeze: bool) -> ttrpc::Result<Empty> {
        let service = self.clone();
        own_task(async move {
            let container = service.find(&id)?;
            if container.init.has_ended() {
                return Err(Fault::precondition(format!("container {id} has ended")));
            }
            container.cgroup.freeze(freeze).await?;
            Ok(Empty::new())
        })
        .await
    }
}
