//! A sandbox for a caller that is not containerd: `krunctl` holds one in its own process, with all that this crate has for
//! containerd: volumes, ports, networks, limits, hooks.
//!
//! Such a process calls [`anchor`] first of all in its `main`: it is executed again as the anchor of its container.

use std::{
    env,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

pub use crate::{
    config::RuntimeOptions,
    error::{Error, Result},
    id::ProcessId,
    network::ports::{Port, parse as parse_ports},
    sandbox::{Exit, NewContainer, Sandbox},
    stdio::StdioPaths,
};
use crate::{entry::delete, host, host::Linux, sandbox::krun::KrunSandbox};

/// What our callers have in the place of containerd's namespaces.
const NAMESPACE: &str = "krunctl";

/// How long it may take to clean up after a process that was killed.
const CLEAN: Duration = Duration::from_secs(10);

/// The sandbox of this id, which must be a plain name. Nothing is made yet.
pub fn sandbox(id: &str) -> Arc<dyn Sandbox> {
    Arc::new(KrunSandbox::new(NAMESPACE, id, Linux))
}

/// Is a container's anchor, if this process is to be one, and answers its exit code at its end.
pub fn anchor() -> Option<ExitCode> {
    env::args_os().nth(1).is_some_and(|role| role == host::anchor::NAME).then(host::anchor::main)
}

/// Undoes what is left on the host of the lone container `id`, whose bundle is the directory `bundle`, and whose process was
/// killed. What cannot be undone is named on stderr.
///
/// # Errors
/// When the bundle cannot be opened.
pub fn clean(id: &str, bundle: &Path) -> Result<()> {
    delete::clean(NAMESPACE, id, bundle, Instant::now() + CLEAN)
}
