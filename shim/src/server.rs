//! The server of one sandbox: from the socket that the starter bound to the last task's end.

use std::{
    env, fs, io,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use containerd_shim::{ExitSignal, Flags, logger};
use containerd_shim_protos::{
    shim_async::create_task,
    ttrpc::asynchronous::{Server, transport::Listener},
};
use log::{info, warn};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::{
    bootstrap::{ADDRESS_FILE, GROUP_ENV, LISTENER_FD, TTRPC_ADDRESS},
    error::{Error, Result},
    events::Publisher,
    sandbox::krun::KrunSandbox,
    service::Service,
    task::Tasks,
};

/// The task service's two names. Source: containerd `api/runtime/task/v2` and `v3`.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// How long the last events may take before the shim ends.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Holds the server's pid, in the bundle of the container that started it.
const PID_FILE: &str = "shim.pid";

/// Serves until containerd says that this shim is done.
///
/// # Errors
/// When the server cannot be set up.
pub fn serve(flags: &Flags) -> Result<()> {
    logger::init(flags.debug, "info", &flags.namespace, &flags.id)
        .map_err(|e| Error::internal(format!("set up the log: {e}")))?;
    // SAFETY: the starter passes the listener as this descriptor and nothing else here uses it.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(LISTENER_FD) });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(|e| Error::internal(format!("start the runtime: {e}")))?;
    let served = runtime.block_on(serve_on(listener, flags));
    if let Err(error) = &served {
        log::error!("{error}");
    }
    served
}

async fn serve_on(listener: UnixListener, flags: &Flags) -> Result<()> {
    let failed = |what: &str, e: &dyn std::fmt::Display| Error::internal(format!("{what}: {e}"));
    let group = env::var(GROUP_ENV).unwrap_or_else(|_| flags.id.clone());
    let containerd = env::var(TTRPC_ADDRESS).map_err(|e| failed(TTRPC_ADDRESS, &e))?;
    let events = Arc::new(Publisher::start(containerd, flags.namespace.clone()));
    let sandbox = Arc::new(KrunSandbox::new(&flags.namespace, &group));
    let tasks = Tasks::new(sandbox, events.clone());
    let exit = Arc::new(ExitSignal::default());
    let service = Arc::new(Service::new(tasks, exit.clone()));

    listener.set_nonblocking(true).map_err(|e| failed("set up the socket", &e))?;
    let address = listener.local_addr().map_err(|e| failed("name the socket", &e))?;
    let listener = Listener::try_from(listener).map_err(|e| failed("listen", &e))?;
    let mut server = Server::new().add_listener(listener);
    for name in SERVICES {
        // The library gives the service one name, of whichever version it was made from.
        let methods = create_task(service.clone()).into_values().next();
        server =
            server.register_service(methods.map(|methods| (name.to_owned(), methods)).into_iter().collect());
    }
    fs::write(PID_FILE, std::process::id().to_string()).map_err(|e| failed(PID_FILE, &e))?;
    server.start().await?;
    info!("serving {group} as {}", std::process::id());

    exit.wait().await;
    events.drain(LAST_EVENTS).await;
    if let Some(path) = address.as_pathname() {
        remove(path);
    }
    remove(Path::new(ADDRESS_FILE));
    remove(Path::new(PID_FILE));
    if tokio::time::timeout(LAST_EVENTS, server.shutdown()).await.is_err() {
        warn!("a client did not let go of its connection");
    }
    info!("done");
    Ok(())
}

/// Ends the server of `id` that was started in `bundle`, if there still is one after `patience`.
///
/// # Errors
/// When it can be neither watched nor killed.
pub fn end(bundle: &Path, id: &str, patience: Duration) -> io::Result<()> {
    let pid = fs::read_to_string(bundle.join(PID_FILE)).ok().and_then(|pid| pid.parse().ok());
    let Some(pid) = pid.and_then(Pid::from_raw) else { return Ok(()) };
    let server = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(server) => server,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // Another process may have its number by now. Looked at after the pidfd was opened, which stays with the one seen.
    if !is_server_of(pid, id) || has_ended(&server, patience)? {
        return Ok(());
    }
    pidfd_send_signal(&server, Signal::KILL)?;
    has_ended(&server, LAST_EVENTS).map(|_| ())
}

/// Waits at most `patience` for the end of a process.
fn has_ended(process: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    Ok(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience))? > 0)
}

fn is_server_of(pid: Pid, id: &str) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let words: Vec<_> = line.split(|&byte| byte == 0).collect();
    let name = words.first().map(|word| word.ends_with(b"containerd-shim-krun-v2"));
    name == Some(true) && words.windows(2).any(|pair| pair == [b"-id".as_slice(), id.as_bytes()])
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!("remove {}: {error}", path.display());
    }
}
