//! One container in a VM of its own, in this process, from its making to its end.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use shim::direct::{self, NewContainer, ProcessId, RuntimeOptions, Sandbox, StdioPaths};

use crate::{bundle::Bundle, exit, signals::Signals};

/// A container that runs.
pub struct Session {
    /// What it is in.
    pub sandbox: Arc<dyn Sandbox>,
    id: String,
}

impl Session {
    /// Names a process: an exec, or with "" the container's own.
    pub fn process(&self, exec: &str) -> ProcessId {
        ProcessId { container: self.id.clone(), exec: exec.to_owned() }
    }

    /// Sends a signal to the container's own process, or to all. One that has ended meanwhile needs none.
    pub async fn signal(&self, signal: Signal, all: bool) {
        let _ = self.sandbox.signal(&self.process(""), signal as u32, all).await;
    }

    /// Sends the container's own process a signal, and does not wait for the guest.
    pub fn send(&self, signal: Signal) {
        let (sandbox, init) = (self.sandbox.clone(), self.process(""));
        tokio::spawn(async move { drop(sandbox.signal(&init, signal as u32, false).await) });
    }

    /// Tells a process that its input has ended. It may have ended itself.
    pub fn close_stdin(&self, process: ProcessId) -> impl Future<Output = ()> + Send + 'static {
        let sandbox = self.sandbox.clone();
        async move { drop(sandbox.close_stdin(&process).await) }
    }

    /// Waits for the end of a process, and answers its exit status.
    pub async fn wait(&self, process: &ProcessId) -> u8 {
        let exit = self.sandbox.wait(process).await;
        u8::try_from(exit.status).unwrap_or(u8::MAX)
    }
}

/// Makes and starts the container of `bundle`, does `go` with it, and ends the VM and removes all that was made for it. Answers the
/// exit status.
///
/// # Errors
/// When the container could not be made or started, or `go`'s.
pub fn with_container(
    bundle: &Bundle,
    options: RuntimeOptions,
    stdio: StdioPaths,
    go: impl AsyncFnOnce(&Session, &mut Signals) -> Result<u8>,
) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(1))
        .build()?;
    let id = bundle.id().to_owned();
    let new =
        NewContainer { id: id.clone(), bundle: bundle.path().to_owned(), rootfs: Vec::new(), stdio, options };
    let status = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        if let Some(signal) = signals.came() {
            return Ok(exit::of_signal(signal));
        }
        let session = Session { sandbox: direct::sandbox(&id), id };
        session.sandbox.create(new).await?;
        let status = start_and_go(&session, &mut signals, go).await;
        session.end().await;
        status
    });
    // A thread may still be reading our stdin.
    runtime.shutdown_background();
    status
}

async fn start_and_go(
    session: &Session,
    signals: &mut Signals,
    go: impl AsyncFnOnce(&Session, &mut Signals) -> Result<u8>,
) -> Result<u8> {
    let (sandbox, id) = (session.sandbox.clone(), session.id.clone());
    // No call of the sandbox is given up half way.
    let starting = tokio::spawn(async move { sandbox.start(&id).await });
    tokio::select! {
        started = starting => started??,
        signal = signals.ending() => return Ok(exit::of_signal(signal)),
    }
    go(session, signals).await
}

impl Session {
    /// Kills all of the container, and waits for its end.
    pub async fn kill(&self) {
        let init = self.process("");
        let _ = self.sandbox.signal(&init, Signal::SIGKILL as u32, true).await;
        self.sandbox.wait(&init).await;
    }

    /// Ends it, and removes all that was made for it.
    async fn end(&self) {
        self.kill().await;
        self.sandbox.delete(&self.id).await;
    }
}
