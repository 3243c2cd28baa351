//! A sandbox for a caller that is not containerd: `krunctl` holds one in its own process, with all that this crate has for
//! containerd: volumes, ports, networks, limits, hooks.
//!
//! Such a process calls [`anchor`] first of all in its `main`: it is executed again as the anchor of its container.

use std::{
    env,
    os::unix::net::UnixListener,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use containerd_shim_protos::{
    protobuf::MessageDyn,
    shim_async::create_task,
    ttrpc::asynchronous::{Server, transport::Listener},
};

pub use guest_protocol::failure::CallError;

pub use crate::{
    cgroup::{Delegated, Entered},
    config::{OptionsAuthor as Author, RuntimeOptions},
    error::{Error, Result},
    id::ProcessId,
    network::ports::{Port, Protocol, parse as parse_ports},
    sandbox::{Exit, NewContainer, NewProcess, Sandbox, krun::Wrapped as OperatorsProcess},
    service::OPERATORS_PROCESS,
    stdio::StdioPaths,
};
use crate::{
    entry::delete, events::Publish, host, host::Linux, sandbox::krun::KrunSandbox, service::Service,
    task::Tasks,
};

/// What our callers have in the place of containerd's namespaces.
const NAMESPACE: &str = "krunctl";

/// How long it may take to clean up after a process that was killed.
const CLEAN: Duration = Duration::from_secs(10);

/// How long the last answers may take to reach who waits for them.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// The sandbox of this id, which must be a plain name. Nothing is made yet.
pub fn sandbox(id: &str) -> Arc<dyn Sandbox> {
    Arc::new(KrunSandbox::new(NAMESPACE, id, Linux::default()))
}

/// Is a container's anchor, if this process is to be one, and answers its exit code at its end.
pub fn anchor() -> Option<ExitCode> {
    env::args_os().nth(1).is_some_and(|role| role == host::anchor::NAME).then(host::anchor::main)
}

/// Undoes what is left on the host of the lone container `id`, whose bundle is the directory `bundle`, and whose process was
/// killed. What cannot be undone is named on stderr.
///
/// # Errors
/// When the bundle cannot be opened.
pub fn clean(id: &str, bundle: &Path) -> Result<()> {
    delete::clean(NAMESPACE, id, bundle, Instant::now() + CLEAN)
}

/// A sandbox with one container that other processes of the host's root can reach: by containerd's task API, at a socket.
pub struct Served {
    tasks: Arc<Tasks>,
    id: ProcessId,
    server: Option<Server>,
}

/// Nobody wants to hear of events.
struct Nowhere;

impl Publish for Nowhere {
    fn publish(&self, _: String, _: Box<dyn MessageDyn>) {}
}

impl Served {
    /// The sandbox of this id. Nothing is made yet.
    pub fn new(id: &str) -> Served {
        let tasks = Tasks::new(sandbox(id), Arc::new(Nowhere));
        Served { tasks, id: ProcessId::init(id), server: None }
    }

    /// Makes its container and starts it.
    ///
    /// # Errors
    /// When it cannot be; nothing is left then.
    pub async fn start(&self, new: NewContainer) -> Result<()> {
        self.tasks.create(new).await?;
        let started = self.tasks.start(&self.id).await;
        if started.is_err() {
            self.delete().await;
        }
        started.map(drop)
    }

    /// Answers calls of [`containerd_shim_protos::shim_async::TaskClient`] at `listener`.
    ///
    /// # Errors
    /// When the server cannot be set up.
    pub async fn serve(&mut self, listener: UnixListener) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::internal(format!("serve calls: {e}"));
        listener.set_nonblocking(true).map_err(|e| failed(&e))?;
        let listener = Listener::try_from(listener).map_err(|e| failed(&e))?;
        let service = Arc::new(Service::with_reasons(self.tasks.clone()));
        let mut server = Server::new().add_listener(listener).register_service(create_task(service));
        server.start().await.map_err(|e| failed(&e))?;
        self.server = Some(server);
        Ok(())
    }

    /// Sends the container a signal.
    ///
    /// # Errors
    /// When it has ended, or the guest fails.
    pub async fn signal(&self, signal: u32) -> Result<()> {
        self.tasks.kill(&self.id, signal, false).await
    }

    /// Waits for the container's end, and that of its output.
    pub async fn ended(&self) -> Exit {
        self.tasks.wait(&self.id).await.map_or(Exit::UNKNOWN, |ended| ended.exit)
    }

    /// Removes the container and all that was made for it. It must have ended.
    pub async fn delete(&self) {
        if let Err(error) = self.tasks.delete(&self.id).await {
            log::warn!("{error}");
        }
    }

    /// Stops answering calls, once those under way are answered.
    pub async fn close(mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = tokio::time::timeout(LAST_ANSWERS, server.shutdown()).await;
        }
    }
}
