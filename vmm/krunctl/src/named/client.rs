//! Calls of the process that keeps a VM: containerd's task API, at a socket in the VM's bundle. For a sandbox of containerd's that
//! process is its shim.

use std::{
    fs::File,
    future::Future,
    io::{self, ErrorKind},
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use containerd_shim_protos::{
    api::{
        CloseIORequest, ConnectRequest, DeleteRequest, ExecProcessRequest, KillRequest, ResizePtyRequest,
        StartRequest, WaitRequest,
    },
    protobuf::well_known_types::any::Any,
    shim_async::{Client, TaskClient},
    ttrpc::{
        self,
        context::{self, Context as Call},
    },
};
use nix::sys::signal::Signal;
use shim::direct::{CallError, Error, StdioPaths};

use super::{id_of, state::State};
use crate::bundle;

/// The socket's name in the bundle.
pub const SOCKET: &str = "socket";

/// How long a call may take that does not wait for anything. The guest may take 30 s.
const CALL: Duration = Duration::from_secs(60);

/// The connection to a VM's keeper.
#[derive(Clone)]
pub struct Vm {
    client: TaskClient,
    id: String,
}

fn call() -> Call {
    context::with_duration(CALL)
}

impl Vm {
    /// Connects, on the current runtime.
    ///
    /// # Errors
    /// When the VM does not run.
    pub async fn connect(state: &State) -> Result<Vm> {
        let id = id_of(state.name());
        let path = Vm::bundle(state).join(SOCKET);
        let not_running = || format!("{} does not run; `krunctl start {0}` starts it", state.name());
        Vm::at(&path, &id).await.map_err(|error| {
            let cause = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
            match cause {
                // That says it all.
                Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused) => anyhow!(not_running()),
                _ => error.context(not_running()),
            }
        })
    }

    /// Connects to what keeps the VM of container `id` and answers at `socket`, on the current runtime.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn at(socket: &Path, id: &str) -> Result<Vm> {
        // The library says less of what is wrong with the path.
        UnixStream::connect(socket)?;
        let client = Client::connect(&format!("unix://{}", socket.display())).await?;
        Ok(Vm { client: TaskClient::new(client), id: id.to_owned() })
    }

    /// Where the VM's bundle is.
    pub fn bundle(state: &State) -> PathBuf {
        bundle::path_of(&id_of(state.name()))
    }

    /// The pids of the VM's keeper, and of the process that stands for the container on the host.
    pub async fn pids(&self) -> Result<(u32, u32)> {
        let request = ConnectRequest { id: self.id.clone(), ..Default::default() };
        let answer = self.client.connect(call(), &request).await.map_err(said)?;
        Ok((answer.shim_pid, answer.task_pid))
    }

    /// The root of the container, as its processes see it but for what is mounted in the guest.
    ///
    /// # Errors
    /// When the VM ends meanwhile.
    pub async fn root(&self) -> Result<File> {
        let (_, pid) = self.pids().await?;
        let path = format!("/proc/{pid}/root");
        let mut options = File::options();
        let root = options.read(true).custom_flags(libc::O_DIRECTORY).open(&path);
        let root = root.with_context(|| format!("opening {path}"))?;
        // The pid was still that process's when its root was opened.
        self.pids().await?;
        Ok(root)
    }

    /// Runs one more process, an OCI process object as JSON, and starts it; `kind` is its type.
    pub async fn exec(&self, exec: &str, process: Vec<u8>, kind: &str, stdio: StdioPaths) -> Result<()> {
        let spec = Any { type_url: kind.to_owned(), value: process, ..Default::default() };
        let request = ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: stdio.terminal,
            spec: Some(spec).into(),
            ..Default::default()
        };
        self.client.exec(call(), &request).await.map_err(said)?;
        let request = StartRequest { id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() };
        let started = self.client.start(call(), &request).await;
        if started.is_err() {
            // It may have been started nevertheless, if the answer was late.
            self.signal(exec, Signal::SIGKILL as i32).await;
            self.forget(exec).await;
        }
        started.map(drop).map_err(said)
    }

    /// Waits for the end of a process: an exec, or with "" the container's own.
    pub async fn wait(&self, exec: &str) -> Result<u8> {
        let request = WaitRequest { id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() };
        let answer = self.client.wait(Call::default(), &request).await.map_err(said)?;
        Ok(u8::try_from(answer.exit_status).unwrap_or(u8::MAX))
    }

    /// Sends a signal to a process. One that has ended meanwhile needs none.
    pub async fn signal(&self, exec: &str, signal: i32) {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            signal: signal.unsigned_abs(),
            all: exec.is_empty() && signal == Signal::SIGKILL as i32,
            ..Default::default()
        };
        let _ = self.client.kill(call(), &request).await;
    }

    /// Sets the size of a process's terminal.
    pub async fn resize(&self, exec: &str, (columns, rows): (u16, u16)) {
        let request = ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            width: columns.into(),
            height: rows.into(),
            ..Default::default()
        };
        let _ = self.client.resize_pty(call(), &request).await;
    }

    /// Says that a process gets no more input.
    pub fn close_stdin(&self, exec: &str) -> impl Future<Output = ()> + Send + 'static {
        let request = CloseIORequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            stdin: true,
            ..Default::default()
        };
        let client = self.client.clone();
        async move { drop(client.close_io(call(), &request).await) }
    }

    /// Forgets an exec that has ended.
    pub async fn forget(&self, exec: &str) {
        let request = DeleteRequest { id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() };
        let _ = self.client.delete(call(), &request).await;
    }
}

/// An error as the keeper said it.
fn said(error: ttrpc::Error) -> anyhow::Error {
    match error {
        ttrpc::Error::RpcStatus(_) => Error::from(CallError::from(error)).into(),
        error => anyhow::Error::new(error).context("the connection to the VM's keeper or shim"),
    }
}
