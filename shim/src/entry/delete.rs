//! `delete`: cleans up after a container whose shim is gone, or has just gone.
//!
//! containerd calls it after every delete and whenever a shim died; it must not mind what is no
//! longer there. A shim that containerd has given up is ended here. The vmm and the anchors end
//! with their shim, so what remains is the host's: mounts, the sandbox's directory and cgroup, the
//! socket, taps in a network namespace that is somebody else's.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, SystemTime},
};

use containerd_shim::{Flags, socket_address};
use containerd_shim_protos::{api::DeleteResponse, protobuf::Message};

use crate::{
    bundle, cgroup,
    error::{Error, Result},
    files::{mount, state_dir},
    network::{self, Netns},
    pid_file, service,
};

/// How long a shim that is about to end may take over it; containerd gives the whole call 5 s.
const GOING: Duration = Duration::from_secs(1);

/// The status of a task whose shim died before it could say how the task ended.
const KILLED: u32 = 137;

/// Answers containerd's `delete`.
///
/// # Errors
/// When the answer cannot be written; what cannot be cleaned is logged to containerd by stderr.
pub fn delete(flags: &Flags) -> Result<()> {
    let cwd = env::current_dir().unwrap_or_default();
    let bundle = if flags.bundle.is_empty() { cwd } else { flags.bundle.clone().into() };
    let sandbox = bundle::sandbox_of(&bundle).unwrap_or_else(|| flags.id.clone());
    let address = socket_address(&flags.address, &flags.namespace, &sandbox);
    let socket = Path::new(address.trim_start_matches("unix://"));
    if sandbox == flags.id
        && let Err(error) = pid_file::end(&bundle, &flags.id, GOING)
    {
        eprintln!("end the shim of {sandbox}: {error}");
    }
    // A pod's other containers go on in a shim that lives; their sandbox is not ours to remove.
    if UnixStream::connect(socket).is_err() {
        let state = state_dir::path(&flags.namespace, &sandbox);
        if let Some(path) = bundle::cgroups_path(&bundle) {
            cgroup::remove(&path);
        }
        state_dir::remove(&state);
        if let Some(Ok(netns)) = bundle::network_path(&bundle).map(|path| Netns::open(&path)) {
            network::remove_leftovers(&netns);
        }
        let _ = fs::remove_file(socket);
    }
    mount::detach_all(&bundle.join("rootfs"));
    let response = DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(service::timestamp(SystemTime::now())).into(),
        ..Default::default()
    };
    let bytes = response.write_to_bytes().map_err(|e| Error::internal(format!("encode the answer: {e}")))?;
    io::stdout().write_all(&bytes).map_err(|e| Error::internal(format!("answer containerd: {e}")))
}
