//! The server of one sandbox: from the socket that the starter bound to the last task's end.

#![expect(clippy::disallowed_methods, reason = "the bundle, which is containerd's")]

use std::{
    env,
    fs::OpenOptions,
    io::{self, Read},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use containerd_shim::{ExitSignal, Flags, logger};
use containerd_shim_protos::{
    shim_async::create_task,
    ttrpc::asynchronous::{Server, transport::Listener},
};
use log::{info, warn};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::{
    abandoned::{self, Bundle},
    address, pid_file,
    start::{ANSWERED, GROUP_ENV, LISTENER_FD, TTRPC_ADDRESS},
};
use crate::{
    error::{Error, Result},
    events::Publisher,
    host::Linux,
    sandbox::krun::KrunSandbox,
    service::Service,
    task::Tasks,
};

/// The task service's two names. Source: containerd `api/runtime/task/v2` and `v3`.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// The log in the bundle, which the library opens. Source: containerd `core/runtime/v2/README.md`.
const LOG: &str = "log";

/// How long the bundle is watched: containerd gives up a shim right after its start, and a user has few inotify
/// instances.
const WATCHED: Duration = Duration::from_secs(60);

/// How long the last events may take before the shim ends.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Serves until containerd says that this shim is done.
///
/// # Errors
/// When the server cannot be set up.
pub fn serve(flags: &Flags) -> Result<()> {
    // SAFETY: the starter passes the listener as this descriptor and nothing else here uses it.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(LISTENER_FD) });
    // A hook or a logger that had it would keep the address of a dead server alive.
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|e| Error::internal("keep the listener from other programs").because(e))?;
    let wanted = is_wanted(io::stdin());
    let socket = SocketFile::of(&listener);
    if !wanted {
        return Ok(());
    }
    // The log is a FIFO, whose opening waits for a reader. containerd may be gone.
    let reader = OpenOptions::new().read(true).write(true).open(LOG);
    logger::init(flags.debug, "info", &flags.namespace, &flags.id)
        .map_err(|e| Error::internal("set up the log").because(e))?;
    drop(reader);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(|e| Error::internal("start the runtime").because(e))?;
    let served = runtime.block_on(serve_on(listener, socket, flags));
    // A thread may wait for a file system that never answers.
    runtime.shutdown_background();
    if let Err(error) = &served {
        log::error!("{error}");
    }
    served
}

/// The socket's file, removed when this is dropped, also when the server could not be set up: containerd may have given
/// the server up, and then does not clean up after it.
struct SocketFile(Option<PathBuf>);

impl SocketFile {
    fn of(listener: &UnixListener) -> SocketFile {
        SocketFile(listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned)))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            remove(path);
        }
    }
}

/// Whether containerd knows of this server: the starter says so, unless it was killed before.
fn is_wanted(mut starter: impl Read) -> bool {
    let mut word = [0];
    matches!(starter.read(&mut word), Ok(1)) && word[0] == ANSWERED
}

async fn serve_on(listener: UnixListener, socket: SocketFile, flags: &Flags) -> Result<()> {
    let failed = |what: &str, e: &dyn std::fmt::Display| Error::internal(format!("{what}: {e}"));
    let group = env::var(GROUP_ENV).unwrap_or_else(|_| flags.id.clone());
    let containerd = env::var(TTRPC_ADDRESS).ok().filter(|address| !address.is_empty());
    let containerd =
        containerd.ok_or_else(|| failed(TTRPC_ADDRESS, &"containerd did not say where it takes events"))?;
    let events = Arc::new(Publisher::start(containerd, flags.namespace.clone()));
    let sandbox = Arc::new(KrunSandbox::new(&flags.namespace, &group, Linux::default()));
    let tasks = Tasks::new(sandbox, events.clone());
    let exit = Arc::new(ExitSignal::default());
    let service = Arc::new(Service::new(tasks.clone(), exit.clone()));
    let bundle = Bundle::watch(&flags.id).inspect_err(|e| warn!("watch the bundle: {e}")).ok();

    listener.set_nonblocking(true).map_err(|e| failed("set up the socket", &e))?;
    let listener = Listener::try_from(listener).map_err(|e| failed("listen", &e))?;
    let mut server = Server::new().add_listener(listener);
    for name in SERVICES {
        // The library gives the service one name, of whichever version it was made from.
        let methods = create_task(service.clone()).into_values().next();
        server =
            server.register_service(methods.map(|methods| (name.to_owned(), methods)).into_iter().collect());
    }
    pid_file::write().map_err(|e| failed(pid_file::NAME, &e))?;
    server.start().await?;
    failpoint!("server.serving");
    info!("serving {group} as {}", std::process::id());

    tokio::select! {
        () = exit.wait() => {}
        () = given_up(bundle, &tasks) => warn!("containerd has removed the bundle and never made a task"),
    }
    failpoint!("server.ending");
    // Before all else: a `start` would answer containerd with this server.
    drop(socket);
    events.drain(LAST_EVENTS).await;
    remove(Path::new(address::FILE));
    remove(Path::new(pid_file::NAME));
    abandoned::remove_rest(&flags.id);
    failpoint!("server.removed");
    if tokio::time::timeout(LAST_EVENTS, server.shutdown()).await.is_err() {
        warn!("a client did not close its connection");
    }
    info!("done");
    Ok(())
}

/// Waits until the bundle is removed although there is no task; for ever when that does not happen [soon](WATCHED).
async fn given_up(bundle: Option<Bundle>, tasks: &Tasks) {
    if let Some(bundle) = bundle {
        let removed = tokio::time::timeout(WATCHED, bundle.removed()).await.is_ok();
        if removed && tasks.close() {
            return;
        }
    }
    std::future::pending().await
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!("remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_stays_only_when_its_starter_says_so() {
        assert!(is_wanted(&[ANSWERED][..]));
        assert!(!is_wanted(&[][..]));
        assert!(!is_wanted(&[ANSWERED + 1][..]));
    }
}
