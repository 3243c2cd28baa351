//! `delete`: cleans up after a container whose shim is gone, or has just gone.
//!
//! containerd calls it after every delete and whenever a shim died, so what is gone already is no
//! error. It ends a shim that containerd has given up. The vmm and the anchors end with their shim.
//! What remains is on the host, and is undone as far as the container's [record](crate::record) says that it is ours:
//! the cgroup with what is in it, mounts, what hooks made, the sandbox's directory, taps in a network namespace that
//! outlives the container, and the socket. There is one deadline for all of it, so what matters most comes first.

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use containerd_shim::Flags;
use containerd_shim_protos::{api::DeleteResponse, protobuf::Message};
use oci_spec::runtime::Spec;

use super::{abandoned, address, pid_file};
use crate::{
    bundle::{self, NetworkNamespace},
    cgroup,
    error::{Error, Result},
    files::{
        mount,
        pin::{self, Pinned},
        state_dir,
    },
    hooks::{self, ContainerHooks},
    network::{self, Netns},
    record::{Record, Recorded},
};

/// How long all of it may take. containerd kills the call after 5 s. Source: containerd `core/runtime/v2/shim.go`,
/// `cleanupTimeout`.
const LIMIT: Duration = Duration::from_millis(4500);

/// How long a shim may take to end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// How long killed processes may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long killed processes that a hook has started may take to end.
const HOOKS_OFFSPRING: Duration = Duration::from_millis(300);

/// What hooks leave of the time: removing files and taps takes some milliseconds.
const RESERVE: Duration = Duration::from_millis(300);

/// The status of a task whose shim died before it could say how the task ended.
const KILLED: u32 = 137;

/// Answers containerd's `delete`.
///
/// # Errors
/// When the answer cannot be written, or containerd must not act on it. What cannot be cleaned up is named on stderr, which
/// containerd logs.
pub fn delete(flags: &Flags) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let cwd = env::current_dir().unwrap_or_default();
    let bundle = if flags.bundle.is_empty() { cwd } else { flags.bundle.clone().into() };
    // containerd runs this in the bundle. Source: `core/runtime/v2/binary.go`.
    let directory = Pinned::open_directory(Path::new("."))
        .map_err(|e| Error::internal(format!("open bundle {}", bundle.display())).because(e))?;
    let remains = Remains::of(flags, bundle, directory)?;
    let (done, cleaned) = mpsc::channel();
    let cleaning = thread::Builder::new().name("clean".to_owned()).spawn(move || {
        remains.clean(deadline);
        done.send(())
    });
    cleaning.map_err(|e| Error::internal("start to clean up").because(e))?;
    // containerd has its answer in time, whatever blocks.
    if cleaned.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
        eprintln!("clean up after {}: not done within {LIMIT:?}", flags.id);
    }
    failpoint!(blocking "cleanup.done");
    if abandoned::is_gone(&flags.id) {
        // After an answer it would remove what is in that place now: a new container's bundle.
        return Err(Error::precondition("containerd has removed the bundle already"));
    }
    let response = DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(SystemTime::now().into()).into(),
        ..Default::default()
    };
    let bytes = response.write_to_bytes().map_err(|e| Error::internal("encode the answer").because(e))?;
    io::stdout().write_all(&bytes).map_err(|e| Error::internal("answer containerd").because(e))
}

/// Cleans up after the lone container `id` of a process that was killed, and that had it in `bundle` without containerd.
///
/// # Errors
/// When the bundle cannot be opened.
pub fn clean(namespace: &str, id: &str, bundle: &Path, deadline: Instant) -> Result<()> {
    let directory = Pinned::open_directory(bundle)
        .map_err(|e| Error::internal(format!("open bundle {}", bundle.display())).because(e))?;
    let remains = Remains {
        id: id.to_owned(),
        sandbox: id.to_owned(),
        spec: bundle::load(bundle).ok(),
        bundle: bundle.to_owned(),
        directory,
        is_containerds: false,
        addresses: Vec::new(),
        is_guess: false,
        state: state_dir::path(namespace, id),
    };
    remains.clean(deadline);
    Ok(())
}

/// What a container may have left on the host.
struct Remains {
    id: String,
    /// The id of its sandbox, which may be its own.
    sandbox: String,
    bundle: PathBuf,
    /// The bundle itself, whatever has its name by now.
    directory: Pinned,
    /// Its config.json, when that can be read.
    spec: Option<Spec>,
    /// Whether the bundle is containerd's, which may remove it at any time.
    is_containerds: bool,
    /// Where the sandbox's server may listen.
    addresses: Vec<String>,
    /// Whether these are guessed: nobody has written down where it listens.
    is_guess: bool,
    /// The sandbox's directory.
    state: PathBuf,
}

impl Remains {
    fn of(flags: &Flags, bundle: PathBuf, directory: Pinned) -> Result<Remains> {
        let spec = bundle::load(&bundle).ok();
        let sandbox = spec.as_ref().and_then(bundle::pod_of).unwrap_or(&flags.id).to_owned();
        let mut addresses = address::noted(&bundle, &sandbox);
        let is_guess = addresses.is_empty();
        if is_guess {
            addresses.push(address::compute(&flags.address, &flags.namespace, &sandbox, None)?);
        }
        let state = state_dir::path(&flags.namespace, &sandbox);
        let id = flags.id.clone();
        Ok(Remains { id, sandbox, bundle, directory, spec, is_containerds: true, addresses, is_guess, state })
    }

    fn clean(&self, deadline: Instant) {
        failpoint!(blocking "cleanup.begun");
        if self.sandbox == self.id
            && !self.bundle_is_gone()
            && let Err(error) = pid_file::end(&pin::path_of(&self.directory), &self.id, GRACE)
        {
            eprintln!("end the shim of {}: {error}", self.sandbox);
        }
        failpoint!(blocking "cleanup.shim-ended");
        let rootfs = self.bundle.join("rootfs");
        // While its server lives, the sandbox has other containers, or removes itself.
        if self.is_served() {
            self.unmount(&rootfs);
            return;
        }
        failpoint!(blocking "cleanup.unserved");
        if !self.bundle_is_gone() {
            self.clean_bundle(&rootfs, deadline);
        }
        // That took its time, and the name may be a new sandbox's by now, whose server listens where we do not know.
        if self.is_served() || self.is_guess && self.bundle_is_gone() {
            return;
        }
        self.remove_sandbox();
    }

    fn is_served(&self) -> bool {
        self.addresses.iter().any(|address| address::is_served(address))
    }

    /// Whether containerd has removed the bundle, or does so now. It calls `delete` while it removes the bundle of a task that
    /// was deleted, when its client does not wait: nothing of that is left, and a new container with the same id may have
    /// its bundle in the same place. So this is asked before each step that goes by the bundle's path.
    fn bundle_is_gone(&self) -> bool {
        self.is_containerds && abandoned::is_gone(&self.id)
    }

    fn unmount(&self, rootfs: &Path) {
        if !self.bundle_is_gone() {
            mount::detach_all(rootfs);
        }
    }

    /// Undoes what was made for the container whose bundle this is.
    fn clean_bundle(&self, rootfs: &Path, deadline: Instant) {
        let recorded = Record::of(&pin::path_of(&self.directory)).read().unwrap_or_else(|error| {
            eprintln!("{error}");
            Recorded::default()
        });
        cgroup::remove_left(&recorded, deadline.min(Instant::now() + KILL_TIMEOUT));
        failpoint!(blocking "cleanup.cgroup");
        self.unmount(rootfs);
        self.unmount(&self.bundle.join(mount::LAYERS));
        failpoint!(blocking "cleanup.rootfs");
        if let Some(number) = recorded.hook
            && let Err(error) = hooks::end_offspring(&self.bundle, number, HOOKS_OFFSPRING)
        {
            eprintln!("{error}");
        }
        if recorded.hooked && !self.bundle_is_gone() {
            self.run_hooks(deadline);
            failpoint!(blocking "cleanup.hooks");
        }
    }

    /// Runs the hooks after the container's end, which its shim did not.
    fn run_hooks(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(RESERVE);
        let ran = || -> Result<()> {
            let spec = self.spec.as_ref().ok_or_else(|| Error::invalid("config.json cannot be read"))?;
            let hooks = ContainerHooks::new(spec, &self.id, &self.bundle)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Error::internal("start the runtime").because(e))?;
            let errors = runtime.block_on(async { tokio::time::timeout(left, hooks.run_poststop()).await });
            // What reads from a hook may have no end.
            runtime.shutdown_background();
            for error in errors.map_err(|_| Error::internal(format!("did not end within {left:?}")))? {
                eprintln!("{error}");
            }
            Ok(())
        };
        if let Err(error) = ran() {
            eprintln!("poststop hooks of {}: {error}", self.id);
        }
    }

    fn remove_sandbox(&self) {
        state_dir::remove(&self.state);
        failpoint!(blocking "cleanup.state");
        if let Some(NetworkNamespace::Path(path)) = self.spec.as_ref().map(bundle::network_namespace) {
            remove_taps(&path);
        }
        for address in &self.addresses {
            if let Err(error) = address::remove_socket(address) {
                eprintln!("remove {}: {error}", address::socket_path(address).display());
            }
        }
    }
}

/// The namespace may be gone already.
fn remove_taps(netns: &Path) {
    if let Ok(netns) = Netns::open(netns) {
        network::remove_leftovers(&netns);
    }
}

#[cfg(test)]
mod tests;
