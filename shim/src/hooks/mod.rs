//! OCI hooks, run on the host: nerdctl's and Docker's networking are such hooks.
//!
//! Those of the container's own namespaces (createContainer, startContainer) have no host process
//! to run in, and are refused rather than forgotten.
//!
//! A hook dies with its shim, and what it has started before `delete` undoes its work ([`offspring`]): it must not go on
//! making what was just removed. That hooks began is written down before the first of them, so that those after the end run
//! whatever becomes of the shim.

mod offspring;

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use log::{debug, warn};
use oci_spec::runtime::{Hook, Hooks, Spec};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    error::{Error, Result},
    record::{Entry, Record},
};

/// How long a hook without a timeout of its own may run: one that hangs must not hang its
/// container for ever.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How much of what a hook writes to standard error is kept, in bytes.
const KEPT: u64 = 64 << 10;

/// How long the rest of that may take once the hook has ended: what it has started may hold it open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long the end of what a hook has started may take, with looking for it.
const OFFSPRING: Duration = Duration::from_secs(3);

/// How long what a hook has started may take of that to go when it was killed: a busy host takes its time.
const KILLED: Duration = Duration::from_secs(2);

/// The number of the hook that runs next. The shim and `delete` have different pids, so their numbers differ: pids have 22
/// bits.
static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id() << 8));

/// The file with a process's standing when memory is short, and the usual one. Source: proc_pid_oom_score_adj(5).
const OOM_SCORE_ADJ: &std::ffi::CStr = c"/proc/self/oom_score_adj";
const USUAL_SCORE: &[u8] = b"0";

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
        #[allow(deprecated, reason = "Docker's networking is a prestart hook")]
        let offered = [
            ("prestart", hooks.prestart()),
            ("createRuntime", hooks.create_runtime()),
            ("poststart", hooks.poststart()),
            ("poststop", hooks.poststop()),
        ];
        for (name, hooks) in offered {
            if let Some(hook) = hooks.iter().flatten().find(|hook| !hook.path().is_absolute()) {
                let path = hook.path().display();
                return Err(Error::invalid(format!("hooks.{name}: path {path}: it must be absolute")));
            }
        }
        let annotations = serde_json::json!(spec.annotations().clone().unwrap_or_default());
        let (id, bundle) = (id.to_owned(), bundle.to_owned());
        Ok(ContainerHooks { hooks, id, bundle, annotations })
    }

    /// The container's id.
    pub fn container(&self) -> &str {
        &self.id
    }

    /// Before the container's process exists. One that fails fails the create.
    ///
    /// # Errors
    /// The failing hook's, with what it wrote; when it cannot be written down that they begin.
    pub async fn create_runtime(&self, pid: u32) -> Result<()> {
        if self.hooks.poststop().iter().flatten().next().is_some() {
            Record::of(&self.bundle).write(&Entry::HooksBegan)?;
        }
        let state = self.state("creating", pid);
        #[allow(deprecated, reason = "Docker's networking is a prestart hook")]
        let prestart = self.hooks.prestart().iter().flatten();
        for hook in prestart.chain(self.hooks.create_runtime().iter().flatten()) {
            self.run(hook, &state).await.map_err(|e| e.context("createRuntime"))?;
        }
        Ok(())
    }

    /// After the container's process was started. One that fails is logged.
    pub async fn poststart(&self, pid: u32) {
        for error in self.run_all("poststart", self.hooks.poststart(), &self.state("running", pid)).await {
            warn!("{error}");
        }
    }

    /// After the container was removed. One that fails is logged.
    pub async fn poststop(&self) {
        for error in self.run_poststop().await {
            warn!("{error}");
        }
    }

    /// As [`ContainerHooks::poststop`]; what failed is returned.
    pub async fn run_poststop(&self) -> Vec<Error> {
        if self.hooks.poststop().iter().flatten().next().is_none() {
            return Vec::new();
        }
        let mut errors = self.run_all("poststop", self.hooks.poststop(), &self.state("stopped", 0)).await;
        errors.extend(Record::of(&self.bundle).write(&Entry::HooksEnded).err());
        errors
    }

    async fn run_all(&self, name: &str, hooks: &Option<Vec<Hook>>, state: &[u8]) -> Vec<Error> {
        let mut errors = Vec::new();
        for hook in hooks.iter().flatten() {
            errors.extend(self.run(hook, state).await.map_err(|e| e.context(name)).err());
        }
        errors
    }

    async fn run(&self, hook: &Hook, state: &[u8]) -> Result<()> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.note(&Entry::HookRuns(number));
        let ran = run(hook, state, &offspring::mark(&self.bundle, number)).await;
        if let Err(Failure { cut_off: true, .. }) = ran {
            let bundle = self.bundle.clone();
            let ended = spawn_blocking(move || end_offspring(&bundle, number, KILLED));
            match timeout(OFFSPRING, ended).await {
                Ok(Ok(Err(error))) => warn!("{error}"),
                Err(_) => warn!("hook {}: what it has started was not found in time", hook.path().display()),
                _ => {}
            }
        }
        self.note(&Entry::HookEnded);
        ran.map_err(|failure| failure.error)
    }

    /// Writes down what is for `delete` to know. A bundle that is gone has none, and its hooks run all the same.
    fn note(&self, entry: &Entry) {
        if let Err(error) = Record::of(&self.bundle).write(entry) {
            debug!("{error}");
        }
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

/// Ends what a hook has started that was running when its shim died. What was killed may take `killed` to go.
///
/// # Errors
/// When something of it still runs.
pub fn end_offspring(bundle: &Path, hook: u32, killed: Duration) -> Result<()> {
    let mark = offspring::mark(bundle, hook);
    offspring::end(&mark, killed)
        .map_err(|e| Error::internal(format!("end what hook {mark} has started: {e}")))
}

/// Why a hook did not do its work.
struct Failure {
    error: Error,
    /// It was killed, and what it has started goes on.
    cut_off: bool,
}

/// Runs a hook, which bears `mark`.
#[expect(clippy::disallowed_methods, reason = "who writes a hook runs it as root")]
async fn run(hook: &Hook, state: &[u8], mark: &str) -> Result<(), Failure> {
    let path = hook.path().display();
    let failure =
        |what: String, cut_off| Failure { error: Error::internal(format!("hook {path}: {what}")), cut_off };
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some(name) = args.first() {
        command.arg0(name);
    }
    command
        .args(args.get(1..).unwrap_or_default())
        .env_clear()
        .envs(hook.env().iter().flatten().filter_map(|variable| variable.split_once('=')))
        .env(offspring::MARK, mark)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let shim = std::process::id();
    // SAFETY: between fork and exec only system calls are made, on data that was there before.
    unsafe {
        command.pre_exec(move || settle(shim));
    }
    let mut child = command.spawn().map_err(|e| failure(e.to_string(), false))?;
    let limit =
        hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map_or(TIMEOUT, Duration::from_secs);
    let (mut stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let stderr = tokio::spawn(first_of(stderr));
    let ran = timeout(limit, async {
        if let Some(stdin) = &mut stdin {
            // A hook need not read its state.
            let _ = stdin.write_all(state).await;
        }
        drop(stdin);
        child.wait().await
    });
    let Ok(status) = ran.await else {
        // Dropping it would do the same, but later than what it has started is looked for.
        let _ = child.start_kill();
        return Err(failure(format!("did not end within {limit:?}"), true));
    };
    let status = status.map_err(|e| failure(e.to_string(), false))?;
    if status.success() {
        return Ok(());
    }
    let stderr = timeout(LAST_WORDS, stderr).await.ok().and_then(std::result::Result::ok).unwrap_or_default();
    let what = format!("{status}: {}", String::from_utf8_lossy(&stderr).trim());
    Err(failure(what, status.signal().is_some()))
}

/// The beginning of what comes from `stderr`, all of which is read: a hook must not wait for us.
async fn first_of(stderr: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut first = Vec::new();
    if let Some(stderr) = stderr {
        let mut kept = stderr.take(KEPT);
        // What was read before an error is all there is.
        let _ = kept.read_to_end(&mut first).await;
        let _ = tokio::io::copy(&mut kept.into_inner(), &mut tokio::io::sink()).await;
    }
    first
}

/// Makes a new process one that dies with `shim`, its parent, and is not protected as that is when memory is short.
#[expect(clippy::disallowed_methods, reason = "a constant path of /proc")]
fn settle(shim: u32) -> io::Result<()> {
    // SAFETY: these calls take numbers, a string with its zero and a buffer with its length.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        // It may have died before that.
        if libc::getppid() as u32 != shim {
            libc::_exit(1);
        }
        let file = libc::open(OOM_SCORE_ADJ.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        let written = libc::write(file, USUAL_SCORE.as_ptr().cast(), USUAL_SCORE.len());
        libc::close(file);
        if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
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

    #[tokio::test]
    async fn a_hook_that_floods_ends_and_is_cut() {
        let flood = shell("head -c 10000000 /dev/zero | tr '\\0' x >&2; exit 3");
        let error = hooks(json!({"createRuntime": flood})).unwrap().create_runtime(7).await.unwrap_err();
        let length = error.to_string().len() as u64;
        assert!((KEPT..KEPT + 200).contains(&length), "{length}");
    }

    #[tokio::test]
    async fn what_a_hook_leaves_running_holds_up_nothing() {
        let hooks = hooks(json!({"createRuntime": shell("sleep 100 & exit 3")})).unwrap();
        let began = std::time::Instant::now();
        hooks.create_runtime(7).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_hook_is_not_protected_as_its_shim_is() {
        let script = "[ $(cat /proc/self/oom_score_adj) = 0 ]";
        hooks(json!({"createRuntime": shell(script)})).unwrap().create_runtime(7).await.unwrap();
    }

    #[tokio::test]
    async fn that_hooks_began_is_written_down_until_those_after_the_end_have_run() {
        let bundle = tempfile::tempdir().unwrap();
        let of = |hooks: serde_json::Value| {
            let spec = serde_json::from_value(json!({"ociVersion": "1.0.2", "hooks": hooks})).unwrap();
            ContainerHooks::new(&spec, "c1", bundle.path()).unwrap()
        };
        let recorded = || Record::of(bundle.path()).read().unwrap().hooked;
        of(json!({"createRuntime": shell("true")})).create_runtime(7).await.unwrap();
        assert!(!recorded(), "nothing is to be run after the end");
        // It is written before a hook runs: this one fails unless it is.
        let check = shell(&format!("grep -q hooks_began {}/*", bundle.path().display()));
        let hooks = of(json!({"createRuntime": check, "poststop": shell("true")}));
        hooks.create_runtime(7).await.unwrap();
        assert!(recorded());
        hooks.poststop().await;
        assert!(!recorded());
    }

    #[tokio::test]
    async fn what_a_hook_that_was_cut_off_has_started_ends_with_it() {
        let bundle = tempfile::tempdir().unwrap();
        let late = bundle.path().join("late");
        for end in ["kill -9 $$", "sleep 60"] {
            let script = format!("(sleep 3; touch {}) & {end}", late.display());
            let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1}]);
            let spec =
                serde_json::from_value(json!({"ociVersion": "1.0.2", "hooks": {"createRuntime": hook}}))
                    .unwrap();
            let hooks = ContainerHooks::new(&spec, "c1", bundle.path()).unwrap();
            hooks.create_runtime(7).await.unwrap_err();
            assert!(!offspring::is_left(bundle.path()), "{end}");
            assert_eq!(Record::of(bundle.path()).read().unwrap().hook, None);
        }
        assert!(!late.exists());
    }

    #[test]
    fn hooks_without_a_place_are_refused() {
        let error = hooks(json!({"startContainer": shell("true")})).err().unwrap();
        assert!(error.to_string().contains("hooks.startContainer"), "{error}");
    }

    #[test]
    fn a_hook_has_an_absolute_path() {
        for name in ["prestart", "createRuntime", "poststart", "poststop"] {
            let error = hooks(json!({name: [{"path": "bin/hook"}]})).err().unwrap();
            assert!(error.to_string().contains(&format!("hooks.{name}: path bin/hook")), "{error}");
        }
    }
}
