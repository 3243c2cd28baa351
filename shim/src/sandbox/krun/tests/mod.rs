//! A sandbox on a host that makes nothing, with a guest in this process that behaves, misbehaves, dies or keeps silent.
//!
//! Time is paused: it goes on only when nothing else can, so that the longest deadline costs nothing.

mod creating;
mod deleting;
mod ending;
mod guest;
mod host;
mod misbehaving;
mod operators;
mod telling;

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use self::{
    guest::{Act, FakeGuest},
    host::{FakeHost, PID},
};
use super::KrunSandbox;
use crate::{
    error::Result,
    sandbox::{Exit, NewContainer, NewProcess, ProcessId, Sandbox},
    stdio::StdioPaths,
};

/// A sandbox called "pod" under test, its host, its guest and the bundles of its containers.
struct Bed {
    sandbox: Arc<KrunSandbox<FakeHost>>,
    host: FakeHost,
    guest: FakeGuest,
    bundles: TempDir,
}

impl Bed {
    fn new() -> Bed {
        let host = FakeHost::new();
        Bed {
            sandbox: Arc::new(KrunSandbox::new("default", "pod", host.clone())),
            guest: host.0.guest.clone(),
            host,
            bundles: tempfile::tempdir().unwrap(),
        }
    }

    /// Writes the bundle of a container whose spec has these fields besides the usual ones.
    fn bundle(&self, id: &str, fields: Value) -> PathBuf {
        let mut spec = json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
            "linux": {"cgroupsPath": "/test/pod", "resources": {"pids": {"limit": 10}}},
        });
        spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let bundle = self.bundles.path().join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        bundle
    }

    async fn create_with(&self, id: &str, fields: Value) -> Result<u32> {
        let bundle = self.bundle(id, fields);
        self.sandbox.create(NewContainer { id: id.to_owned(), bundle, ..Default::default() }).await
    }

    /// Creates the pod's sandbox container, called "pod", or one of its members.
    async fn create(&self, id: &str) -> u32 {
        self.create_with(id, json!({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}})).await.unwrap()
    }

    async fn start(&self, id: &str) {
        self.create(id).await;
        self.sandbox.start(id).await.unwrap();
    }

    async fn exec(&self, container: &str, exec: &str) -> Result<ProcessId> {
        let id = ProcessId { container: container.to_owned(), exec: exec.to_owned() };
        let process = NewProcess { process: b"{}".to_vec(), is_operators: false };
        self.sandbox.exec(&id, process, StdioPaths::default()).await?;
        Ok(id)
    }

    async fn wait(&self, id: &str) -> Exit {
        self.sandbox.wait(&ProcessId::init(id)).await
    }

    async fn kill(&self, id: &str) -> Result<()> {
        self.sandbox.signal(&ProcessId::init(id), libc::SIGKILL as u32, true).await
    }

    /// Asserts that nothing of any container is left, and that the next one can be made.
    async fn assert_clean(&self) {
        assert_eq!(self.host.left(), [""; 0], "left behind; {:?}", self.host.diary());
        *self.host.0.fails.lock().unwrap() = "";
    }
}

/// How long, in the paused time, `work` takes.
async fn took<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    let done = timeout(Duration::from_secs(3600), work).await.expect("it has no end");
    (done, began.elapsed())
}
