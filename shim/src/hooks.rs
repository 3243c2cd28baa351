//! OCI hooks, run on the host: nerdctl's and Docker's networking are such hooks.
//!
//! Those of the container's own namespaces (createContainer, startContainer) have no host process
//! to run in, and are refused rather than forgotten.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use log::warn;
use oci_spec::runtime::{Hook, Hooks, Spec};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::error::{Error, Result};

/// How long a hook without a timeout of its own may run: one that hangs must not hang its
/// container for ever.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The hooks of a container, and what they are told.
pub struct ContainerHooks {
    hooks: Hooks,
    id: String,
    bundle: PathBuf,
    annotations: serde_json::Value,
}

impl ContainerHooks {
    /// The hooks of `spec`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for hooks that cannot be run.
    pub fn new(spec: &Spec, id: &str, bundle: &Path) -> Result<ContainerHooks> {
        let hooks = spec.hooks().clone().unwrap_or_default();
        for (name, unfit) in
            [("createContainer", hooks.create_container()), ("startContainer", hooks.start_container())]
        {
            if unfit.as_ref().is_some_and(|hooks| !hooks.is_empty()) {
                return Err(Error::invalid(format!(
                    "hooks.{name}: not offered, the container's namespaces are in a VM; \
                     createRuntime, poststart and poststop are"
                )));
            }
        }
        let annotations = serde_json::json!(spec.annotations().clone().unwrap_or_default());
        Ok(ContainerHooks { hooks, id: id.to_owned(), bundle: bundle.to_owned(), annotations })
    }

    /// The container's id.
    pub fn container(&self) -> &str {
        &self.id
    }

    /// Before the container's process exists. One that fails fails the create.
    ///
    /// # Errors
    /// The failing hook's, with what it wrote.
    pub async fn create_runtime(&self, pid: u32) -> Result<()> {
        let state = self.state("creating", pid);
        #[allow(deprecated, reason = "Docker's networking is a prestart hook")]
        let prestart = self.hooks.prestart().iter().flatten();
        for hook in prestart.chain(self.hooks.create_runtime().iter().flatten()) {
            run(hook, &state).await.map_err(|e| e.context("createRuntime"))?;
        }
        Ok(())
    }

    /// After the container's process was started. One that fails is logged.
    pub async fn poststart(&self, pid: u32) {
        run_all("poststart", self.hooks.poststart(), &self.state("running", pid)).await;
    }

    /// After the container was removed. One that fails is logged.
    pub async fn poststop(&self) {
        run_all("poststop", self.hooks.poststop(), &self.state("stopped", 0)).await;
    }

    /// The state document. Source: OCI runtime-spec, runtime.md, "State".
    fn state(&self, status: &str, pid: u32) -> Vec<u8> {
        let state = serde_json::json!({
            "ociVersion": "1.0.2",
            "id": self.id,
            "status": status,
            "pid": pid,
            "bundle": self.bundle,
            "annotations": self.annotations,
        });
        state.to_string().into_bytes()
    }
}

async fn run_all(name: &str, hooks: &Option<Vec<Hook>>, state: &[u8]) {
    for hook in hooks.iter().flatten() {
        if let Err(error) = run(hook, state).await {
            warn!("{name}: {error}");
        }
    }
}

async fn run(hook: &Hook, state: &[u8]) -> Result<()> {
    let path = hook.path().display();
    let failed = |what: String| Error::internal(format!("hook {path}: {what}"));
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some(name) = args.first() {
        command.arg0(name);
    }
    command
        .args(args.get(1..).unwrap_or_default())
        .env_clear()
        .envs(hook.env().iter().flatten().filter_map(|variable| variable.split_once('=')))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    let limit =
        hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map_or(TIMEOUT, Duration::from_secs);
    let ran = timeout(limit, async {
        if let Some(mut stdin) = child.stdin.take() {
            // A hook need not read its state.
            let _ = stdin.write_all(state).await;
        }
        child.wait_with_output().await
    });
    let output = ran.await.map_err(|_| failed(format!("did not end within {limit:?}")))?;
    let output = output.map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hooks(hooks: serde_json::Value) -> Result<ContainerHooks> {
        let spec = serde_json::from_value(json!({"ociVersion": "1.0.2", "hooks": hooks})).unwrap();
        ContainerHooks::new(&spec, "c1", Path::new("/bundle"))
    }

    fn shell(script: &str) -> serde_json::Value {
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b"], "timeout": 5}])
    }

    #[tokio::test]
    async fn a_hook_gets_state_arguments_and_environment() {
        let script = r#"read state; case "$A $state" in "b "*'"id":"c1"'*'"pid":7'*) ;; *) echo "got $state" >&2; exit 1;; esac"#;
        hooks(json!({"createRuntime": shell(script)})).unwrap().create_runtime(7).await.unwrap();
    }

    #[tokio::test]
    async fn a_failing_hook_says_which_and_why() {
        let hooks = hooks(json!({"prestart": shell("echo broken >&2; exit 3")})).unwrap();
        let error = hooks.create_runtime(7).await.unwrap_err().to_string();
        assert!(error.contains("/bin/sh") && error.contains("exit status: 3: broken"), "{error}");
    }

    #[tokio::test]
    async fn a_hook_that_hangs_is_ended() {
        let hang = json!([{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 0}]);
        let error = hooks(json!({"createRuntime": hang})).unwrap().create_runtime(7).await.unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }

    #[test]
    fn hooks_without_a_place_are_refused() {
        let error = hooks(json!({"startContainer": shell("true")})).err().unwrap();
        assert!(error.to_string().contains("hooks.startContainer"), "{error}");
    }
}
