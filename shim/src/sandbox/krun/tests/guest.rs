//! A guest in this process: it speaks the real protocol over pipes in memory, well, badly, or not at all.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use containerd_shim_protos::ttrpc::{
    self, Code,
    asynchronous::{Server, TtrpcContext, transport::Listener},
};
use guest_protocol::{
    api::{self, Empty, Guest as Service, create_guest},
    mux::Mux,
};
use tokio::{
    io::{AsyncWriteExt, DuplexStream, duplex},
    sync::watch,
};
use vm_launcher::Guest;

/// What a guest does when it is called.
#[derive(Clone, Debug)]
pub enum Act {
    Refuse(Code, &'static str),
    /// Never answers.
    Silence,
    /// Closes both connections.
    Vanish,
}

/// A guest.
#[derive(Clone, Default)]
pub struct FakeGuest(Arc<State>);

#[derive(Default)]
struct State {
    acts: Mutex<HashMap<&'static str, Act>>,
    calls: Mutex<Vec<String>>,
    exits: Mutex<HashMap<String, watch::Sender<Option<u32>>>>,
    streams: Mutex<Option<Mux>>,
    /// The other end of the stream connection, of a guest that breaks the protocol.
    raw: Mutex<Option<DuplexStream>>,
    server: Mutex<Option<Server>>,
}

/// How many bytes may be on the way.
const BUFFER: usize = 1 << 20;

impl FakeGuest {
    /// Has the guest do `act` when `call` comes, in place of what a good one does.
    pub fn on(&self, call: &'static str, act: Act) {
        self.0.acts.lock().unwrap().insert(call, act);
    }

    /// Has it answer nothing at all, not even to whether it lives.
    pub fn freeze(&self) {
        for call in [
            "configure",
            "join",
            "set_clock",
            "create_container",
            "exec",
            "start",
            "wait",
            "signal",
            "resize",
            "delete_container",
            "delete_exec",
            "pause",
            "resume",
            "update",
            "stats",
        ] {
            self.on(call, Act::Silence);
        }
    }

    /// The calls that came, like "start c1" and "exec c1/e1".
    pub fn calls(&self) -> Vec<String> {
        self.0.calls.lock().unwrap().clone()
    }

    /// Ends a process, "c1" or "c1/e1", as far as the host hears.
    pub fn end(&self, process: &str, status: u32) {
        self.exit_of(process).send_replace(Some(status));
    }

    /// Dials: what the host has of it. `broken` has its streams carry what the test [writes](FakeGuest::write).
    pub async fn dial(&self, broken: bool) -> Guest {
        let (control, theirs) = duplex(BUFFER);
        let listener = Listener::new(futures::stream::iter([Ok::<_, io::Error>(theirs)]));
        let mut server =
            Server::new().add_listener(listener).register_service(create_guest(Arc::new(self.clone())));
        server.start().await.unwrap();
        *self.0.server.lock().unwrap() = Some(server);
        let (streams, theirs) = duplex(BUFFER);
        if broken {
            *self.0.raw.lock().unwrap() = Some(theirs);
        } else {
            *self.0.streams.lock().unwrap() = Some(Mux::start(theirs).0);
        }
        Guest::over(control, streams)
    }

    /// Writes to the stream connection what the test wants.
    pub async fn write(&self, bytes: &[u8]) {
        let mut raw = self.0.raw.lock().unwrap().take().expect("a broken guest");
        raw.write_all(bytes).await.unwrap();
        *self.0.raw.lock().unwrap() = Some(raw);
    }

    /// Closes both connections, as the end of its VM does.
    pub fn vanish(&self) {
        self.0.raw.lock().unwrap().take();
        self.0.streams.lock().unwrap().take();
        if let Some(mut server) = self.0.server.lock().unwrap().take() {
            // A server does not stop while one of its calls is under way, such as the caller of this.
            tokio::spawn(async move { server.disconnect().await });
        }
    }

    fn exit_of(&self, process: &str) -> watch::Sender<Option<u32>> {
        let mut exits = self.0.exits.lock().unwrap();
        exits.entry(process.to_owned()).or_insert_with(|| watch::Sender::new(None)).clone()
    }

    async fn act(&self, call: &'static str, of: &str) -> ttrpc::Result<Empty> {
        self.0.calls.lock().unwrap().push(format!("{call} {of}").trim().to_owned());
        let act = self.0.acts.lock().unwrap().get(call).cloned();
        match act {
            None => Ok(Empty::new()),
            Some(Act::Refuse(code, message)) => {
                Err(ttrpc::Error::RpcStatus(ttrpc::get_status(code, message)))
            }
            Some(Act::Silence) => std::future::pending().await,
            Some(Act::Vanish) => {
                self.vanish();
                std::future::pending().await
            }
        }
    }
}

fn process(container: &str, exec: &str) -> String {
    if exec.is_empty() { container.to_owned() } else { format!("{container}/{exec}") }
}

#[async_trait]
impl Service for FakeGuest {
    async fn configure(
        &self,
        _: &TtrpcContext,
        _: api::ConfigureRequest,
    ) -> ttrpc::Result<api::ConfigureResponse> {
        self.act("configure", "").await?;
        Ok(api::ConfigureResponse { kernel: "6.1-fake".to_owned(), ..Default::default() })
    }

    async fn join(&self, _: &TtrpcContext, _: api::Network) -> ttrpc::Result<Empty> {
        self.act("join", "").await
    }

    async fn set_clock(&self, _: &TtrpcContext, _: api::SetClockRequest) -> ttrpc::Result<Empty> {
        self.act("set_clock", "").await
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: api::CreateContainerRequest,
    ) -> ttrpc::Result<api::Process> {
        self.act("create_container", &request.container_id).await?;
        Ok(api::Process::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecRequest) -> ttrpc::Result<api::Process> {
        self.act("exec", &process(&request.container_id, &request.exec_id)).await?;
        Ok(api::Process::new())
    }

    async fn start(&self, _: &TtrpcContext, request: api::ProcessRef) -> ttrpc::Result<Empty> {
        self.act("start", &process(&request.container_id, &request.exec_id)).await
    }

    async fn wait(&self, _: &TtrpcContext, request: api::ProcessRef) -> ttrpc::Result<api::ExitRecord> {
        let process = process(&request.container_id, &request.exec_id);
        self.act("wait", &process).await?;
        let mut exit = self.exit_of(&process).subscribe();
        let status = exit.wait_for(Option::is_some).await.unwrap().unwrap_or_default();
        Ok(api::ExitRecord { status, ..Default::default() })
    }

    async fn signal(&self, _: &TtrpcContext, request: api::SignalRequest) -> ttrpc::Result<Empty> {
        let mut process = process(&request.container_id, &request.exec_id);
        if request.all && !request.exec_id.is_empty() {
            process.push_str(" and all others");
        }
        self.act("signal", &process).await
    }

    async fn resize(&self, _: &TtrpcContext, request: api::ResizeRequest) -> ttrpc::Result<Empty> {
        self.act("resize", &process(&request.container_id, &request.exec_id)).await
    }

    async fn delete_container(&self, _: &TtrpcContext, request: api::ContainerRef) -> ttrpc::Result<Empty> {
        self.act("delete_container", &request.container_id).await
    }

    async fn delete_exec(&self, _: &TtrpcContext, request: api::ProcessRef) -> ttrpc::Result<Empty> {
        self.act("delete_exec", &process(&request.container_id, &request.exec_id)).await
    }

    async fn pause(&self, _: &TtrpcContext, request: api::ContainerRef) -> ttrpc::Result<Empty> {
        self.act("pause", &request.container_id).await
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ContainerRef) -> ttrpc::Result<Empty> {
        self.act("resume", &request.container_id).await
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateRequest) -> ttrpc::Result<Empty> {
        self.act("update", &request.container_id).await
    }

    async fn stats(&self, _: &TtrpcContext, request: api::ContainerRef) -> ttrpc::Result<api::StatsResponse> {
        self.act("stats", &request.container_id).await?;
        Ok(api::StatsResponse { pids_current: 3, ..Default::default() })
    }
}
