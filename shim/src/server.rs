//! The server of one sandbox: from the socket that the starter bound to the last task's end.

use std::{
    env,
    io::{self, Read},
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

use crate::{
    bootstrap::{ADDRESS_FILE, ANSWERED, GROUP_ENV, LISTENER_FD, TTRPC_ADDRESS},
    error::{Error, Result},
    events::Publisher,
    pid_file,
    sandbox::krun::KrunSandbox,
    service::Service,
    task::Tasks,
};

/// The task service's two names. Source: containerd `api/runtime/task/v2` and `v3`.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// How long the last events may take before the shim ends.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Serves until containerd says that this shim is done.
///
/// # Errors
/// When the server cannot be set up.
pub fn serve(flags: &Flags) -> Result<()> {
    // SAFETY: the starter passes the listener as this descriptor and nothing else here uses it.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(LISTENER_FD) });
    // Before the log, a FIFO: with its reader gone it would not open.
    if !is_wanted(io::stdin()) {
        if let Ok(address) = listener.local_addr()
            && let Some(path) = address.as_pathname()
        {
            remove(path);
        }
        return Ok(());
    }
    logger::init(flags.debug, "info", &flags.namespace, &flags.id)
        .map_err(|e| Error::internal(format!("set up the log: {e}")))?;
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

/// Whether containerd has been told of this server, for which its starter must have lived.
fn is_wanted(mut starter: impl Read) -> bool {
    let mut word = [0];
    matches!(starter.read(&mut word), Ok(1)) && word[0] == ANSWERED
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
    pid_file::write().map_err(|e| failed(pid_file::NAME, &e))?;
    server.start().await?;
    info!("serving {group} as {}", std::process::id());

    exit.wait().await;
    events.drain(LAST_EVENTS).await;
    if let Some(path) = address.as_pathname() {
        remove(path);
    }
    remove(Path::new(ADDRESS_FILE));
    remove(Path::new(pid_file::NAME));
    if tokio::time::timeout(LAST_EVENTS, server.shutdown()).await.is_err() {
        warn!("a client did not let go of its connection");
    }
    info!("done");
    Ok(())
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
    fn only_the_starters_word_makes_a_server_stay() {
        assert!(is_wanted(&[ANSWERED][..]));
        assert!(!is_wanted(&[][..]));
        assert!(!is_wanted(&[ANSWERED + 1][..]));
    }
}
