//! The task service as containerd calls it: requests in, one call of the state machine each,
//! answers out. Nothing is decided here.
//!
//! ttrpc drops a handler whose client goes away; a call that changes something must not stop half
//! way, so it runs as a task of its own.

pub mod metrics;

use std::{future::Future, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use containerd_shim::ExitSignal;
use containerd_shim_protos::{
    api::*,
    protobuf::{EnumOrUnknown, MessageField, well_known_types::any::Any},
    shim_async,
    ttrpc::{self, asynchronous::TtrpcContext},
};
use log::{debug, info};

use crate::{
    error::{Error, Result},
    id,
    sandbox::{NewContainer, NewProcess, ProcessId},
    stdio::StdioPaths,
    task::{ProcessState, Status as ProcessStatus, Tasks},
};

/// The type of an exec's spec that is an operator's process, as JSON like any other.
pub const OPERATORS_PROCESS: &str = "io.containerd.krun/OperatorsProcess";

/// The service, under whichever of its names containerd calls it.
pub struct Service {
    tasks: Arc<Tasks>,
    exit: Arc<ExitSignal>,
    /// Whether errors say what was wrong with a command. containerd does not know that message.
    with_reasons: bool,
}

impl Service {
    /// A service over `tasks`, which raises `exit` when containerd says so and no task is left.
    pub fn new(tasks: Arc<Tasks>, exit: Arc<ExitSignal>) -> Self {
        Service { tasks, exit, with_reasons: false }
    }

    /// As [`Service::new`], for clients of ours, which are told what was wrong with a command.
    pub fn with_reasons(tasks: Arc<Tasks>) -> Self {
        // Whoever may call it may also end it otherwise.
        Service { tasks, exit: Arc::default(), with_reasons: true }
    }

    /// Runs `call` to its end even when its caller goes away.
    async fn run<T, F, C>(&self, what: &'static str, call: C) -> ttrpc::Result<T>
    where
        C: FnOnce(Arc<Tasks>) -> F,
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let result = tokio::spawn(call(self.tasks.clone())).await;
        let result = result.unwrap_or_else(|e| Err(Error::internal(format!("{what} panicked")).because(e)));
        result.map_err(|error| {
            info!("{what}: {error}");
            if self.with_reasons { error.with_reason() } else { error.into() }
        })
    }
}

fn process_id(container: String, exec: String) -> ProcessId {
    ProcessId { container, exec }
}

fn status(status: ProcessStatus) -> EnumOrUnknown<Status> {
    EnumOrUnknown::new(match status {
        ProcessStatus::Created => Status::CREATED,
        ProcessStatus::Running => Status::RUNNING,
        ProcessStatus::Paused => Status::PAUSED,
        ProcessStatus::Stopped => Status::STOPPED,
    })
}

#[async_trait]
impl shim_async::Task for Service {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let id = process_id(request.id, request.exec_id);
        let (ProcessState { id, pid, status: now, stdio, ended }, bundle) = self.tasks.state(&id)?;
        Ok(StateResponse {
            bundle,
            pid,
            status: status(now),
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: stdio.terminal,
            exit_status: ended.map_or(0, |ended| ended.exit.status),
            exited_at: ended.map_or_else(MessageField::none, |ended| MessageField::some(ended.at.into())),
            id: id.container,
            exec_id: id.exec,
            ..Default::default()
        })
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        info!("create {}", request.id);
        let pid = self.run("create", |tasks| async move {
            id::check("container id", &request.id)?;
            if !request.checkpoint.is_empty() {
                return Err(Error::unimplemented("restoring a checkpoint is not offered: a VM cannot"));
            }
            let options = crate::config::RuntimeOptions::decode(request.options.as_ref())?;
            let stdio = StdioPaths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            };
            let bundle = PathBuf::from(request.bundle);
            tasks
                .create(NewContainer { id: request.id, bundle, rootfs: request.rootfs, stdio, options })
                .await
        });
        Ok(CreateTaskResponse { pid: pid.await?, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let id = process_id(request.id, request.exec_id);
        info!("start {id}");
        let pid = self.run("start", |tasks| async move { tasks.start(&id).await }).await?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let id = process_id(request.id, request.exec_id);
        info!("delete {id}");
        let deleted = self.run("delete", |tasks| async move { tasks.delete(&id).await }).await?;
        Ok(DeleteResponse {
            pid: deleted.pid,
            exit_status: deleted.ended.exit.status,
            exited_at: Some(deleted.ended.at.into()).into(),
            ..Default::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let anchor = ProcessInfo { pid: self.tasks.pid(&request.id)?, ..Default::default() };
        Ok(PidsResponse { processes: vec![anchor], ..Default::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        self.run("pause", |tasks| async move { tasks.pause(&request.id).await }).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        self.run("resume", |tasks| async move { tasks.resume(&request.id).await }).await?;
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        Err(Error::unimplemented("checkpoint is not offered: libkrun cannot save a VM").into())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let id = process_id(request.id, request.exec_id);
        debug!("kill {id} with signal {}", request.signal);
        let (signal, all) = (request.signal, request.all);
        self.run("kill", |tasks| async move { tasks.kill(&id, signal, all).await }).await?;
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let stdio = StdioPaths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let Any { type_url, value: process, .. } = request.spec.into_option().unwrap_or_default();
        let new = NewProcess { process, is_operators: type_url == OPERATORS_PROCESS };
        id::check("exec id", &request.exec_id)?;
        self.tasks.add_exec(process_id(request.id, request.exec_id), new, stdio)?;
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let id = process_id(request.id, request.exec_id);
        let (width, height) = (request.width, request.height);
        self.run("resize", |tasks| async move { tasks.resize(&id, width, height).await }).await?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        if request.stdin {
            self.tasks.close_stdin(&process_id(request.id, request.exec_id)).await?;
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let resources = request.resources.into_option().unwrap_or_default().value;
        self.run("update", |tasks| async move { tasks.update(&request.id, resources).await }).await?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let ended = self.tasks.wait(&process_id(request.id, request.exec_id)).await?;
        Ok(WaitResponse {
            exit_status: ended.exit.status,
            exited_at: Some(ended.at.into()).into(),
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = self.tasks.stats(&request.id).await?;
        let value = metrics::encode(&stats)?;
        let any = Any { type_url: metrics::TYPE_URL.to_owned(), value, ..Default::default() };
        Ok(StatsResponse { stats: Some(any).into(), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            // Who asks for the shim alone names no task, or none that is there, as with runc's shim.
            task_pid: self.tasks.pid(&request.id).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        failpoint!("shutdown.called");
        if self.tasks.close() {
            self.exit.signal();
        }
        Ok(Empty::new())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Notify, oneshot};

    use super::*;
    use crate::task::tests::idle;

    #[tokio::test]
    async fn a_call_goes_on_without_its_caller() {
        let service = Service::new(idle(), Arc::new(ExitSignal::default()));
        let (go, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (done, finished) = oneshot::channel();
        let call = service.run("test", |_| {
            let (go, begun) = (go.clone(), begun.clone());
            async move {
                begun.notify_one();
                go.notified().await;
                let _ = done.send(());
                Ok(())
            }
        });
        // The client disconnects once the call is under way: ttrpc drops the handler.
        tokio::select! {
            _ = call => panic!("it was to wait"),
            () = begun.notified() => {}
        }
        go.notify_one();
        finished.await.expect("the call ended with its caller");
    }
}
