//! `start`: finds or starts the server of a container's sandbox, and tells containerd where it
//! listens, in whichever of its three dialects containerd speaks.
//!
//! The server inherits a socket that is bound here: containerd may connect at once, and is answered
//! when the server is ready. containerd kills a `start` whose client went away. So that nothing
//! stays behind then, the server is started first, and holds the other end of a pipe: unless its
//! starter writes [`ANSWERED`], it removes the socket and ends.

use std::{
    env, fs,
    io::{self, IsTerminal, PipeWriter, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use containerd_shim::{
    Flags,
    bootstrap::{BootstrapParams, BootstrapResult},
    cgroup::set_cgroup_and_oom_score,
    socket_address,
};
use containerd_shim_protos::protobuf::Message;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, listen, socket};

use crate::{
    bundle::sandbox_of,
    error::{Error, Result},
};

/// Where containerd takes events. Source: containerd `core/runtime/v2/README.md`.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

/// Set by containerd 1.7 and later, which read a reply in JSON.
/// Source: containerd `pkg/shim/util.go`.
const MAX_SHIM_VERSION: &str = "MAX_SHIM_VERSION";

/// Tells the server which sandbox it serves.
pub const GROUP_ENV: &str = "KRUN_SANDBOX";

/// The server's inherited listener.
pub const LISTENER_FD: i32 = 3;

/// What the starter writes to the server's standard input when containerd has its answer.
pub const ANSWERED: u8 = b'a';

/// Names the socket in a bundle: containerd reconnects by it after a restart.
pub const ADDRESS_FILE: &str = "address";

/// The version of the task API that we answer: with 2, containerd calls `start` for each
/// container and `Shutdown` after each delete, and makes up exits for a shim that dies.
const TASK_API: i32 = 2;

/// The most that is read from standard input, in bytes. Source: containerd `pkg/shim/shim.go`.
const MAX_INPUT: u64 = 10 << 20;

/// In which form containerd wants the answer.
#[derive(Debug, PartialEq, Eq)]
enum Dialect {
    /// 1.6: the bare address.
    Bare,
    /// 1.7 to 2.2: JSON.
    Json,
    /// 2.3 and later: protobuf, when the parameters came so.
    Protobuf,
}

/// Answers containerd's `start`.
///
/// # Errors
/// When no server can be started; none is left behind, nor by a kill at any moment.
pub fn start(flags: &Flags) -> Result<()> {
    let params = read_params(flags)?;
    let dialect = match &params {
        Some(_) => Dialect::Protobuf,
        None if env::var_os(MAX_SHIM_VERSION).is_some() => Dialect::Json,
        None => Dialect::Bare,
    };
    let cwd = env::current_dir().map_err(|e| Error::internal(format!("find the bundle: {e}")))?;
    // Bad configurations are Create's to refuse; the container is its own sandbox here.
    let sandbox = sandbox_of(&cwd).unwrap_or_else(|| flags.id.clone());
    let address =
        match params.as_ref().and_then(|params| params.socket_dir.clone()).filter(|dir| !dir.is_empty()) {
            Some(dir) => in_dir(&dir, &socket_address(&flags.address, &flags.namespace, &sandbox)),
            None => socket_address(&flags.address, &flags.namespace, &sandbox),
        };
    let ttrpc = params.as_ref().map(|params| params.containerd_ttrpc_address.clone());
    let path = PathBuf::from(address.trim_start_matches("unix://"));
    let mut server = match UnixStream::connect(&path) {
        Ok(_) => None,
        Err(_) => Some(serve_at(&path, flags, &sandbox, ttrpc.as_deref())?),
    };
    fs::write(cwd.join(ADDRESS_FILE), &address)
        .map_err(|e| Error::internal(format!("write {}: {e}", cwd.join(ADDRESS_FILE).display())))?;
    let mut stdout = io::stdout();
    stdout
        .write_all(&reply(&dialect, &address)?)
        .and_then(|()| stdout.flush())
        .and_then(|()| server.as_mut().map_or(Ok(()), |server| server.write_all(&[ANSWERED])))
        .map_err(|e| Error::internal(format!("answer containerd: {e}")))
}

/// Starts a server whose socket is at `path`, which ends unless it is told that containerd was.
fn serve_at(path: &Path, flags: &Flags, sandbox: &str, ttrpc: Option<&str>) -> Result<PipeWriter> {
    let failed = |e: nix::Error| Error::internal(format!("make a socket: {e}"));
    let listener =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    let server = spawn(flags, sandbox, ttrpc, &listener)?;
    bind(&listener, path)?;
    Ok(server)
}

fn read_params(flags: &Flags) -> Result<Option<BootstrapParams>> {
    let mut input = Vec::new();
    if !io::stdin().is_terminal() {
        let read = io::stdin().take(MAX_INPUT).read_to_end(&mut input);
        read.map_err(|e| Error::internal(format!("read standard input: {e}")))?;
    }
    // Older versions send the runtime's options here, which are another message.
    let params = BootstrapParams::parse_from_bytes(&input).ok();
    Ok(params.filter(|params| params.instance_id == flags.id && params.namespace == flags.namespace))
}

fn in_dir(dir: &str, address: &str) -> String {
    let name = address.rsplit('/').next().unwrap_or(address);
    format!("unix://{}/{name}", dir.trim_end_matches('/'))
}

/// Binds the socket and listens; one that nobody listens to any more is replaced.
fn bind(listener: &OwnedFd, path: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::internal(format!("bind {}: {e}", path.display()));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    UnixAddr::new(path)
        .and_then(|address| nix::sys::socket::bind(listener.as_raw_fd(), &address))
        .and_then(|()| listen(listener, Backlog::MAXCONN))
        .map_err(|e| failed(e.into()))
}

/// Starts the server, which holds on to nothing of ours but the listener and the pipe's other end.
fn spawn(flags: &Flags, sandbox: &str, ttrpc: Option<&str>, listener: &OwnedFd) -> Result<PipeWriter> {
    let failed = |e: io::Error| Error::internal(format!("start the shim's server: {e}"));
    let (reader, writer) = io::pipe().map_err(failed)?;
    let mut command = Command::new(env::current_exe().map_err(failed)?);
    command
        .args(["-namespace", &flags.namespace, "-id", &flags.id, "-address", &flags.address])
        .env(GROUP_ENV, sandbox)
        .envs(ttrpc.map(|address| (TTRPC_ADDRESS, address)))
        .stdin(reader)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if flags.debug {
        command.arg("-debug");
    }
    let listener = listener.as_raw_fd();
    // SAFETY: between fork and exec only dup2 and fcntl are called, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || inherit(listener));
    }
    let server = command.spawn().map_err(failed)?;
    set_cgroup_and_oom_score(server.id(), "")
        .map_err(|e| Error::internal(format!("set up the shim's server: {e}")))?;
    Ok(writer)
}

/// Leaves `fd` to the program to come as [`LISTENER_FD`].
fn inherit(fd: i32) -> io::Result<()> {
    // SAFETY: both calls take plain descriptors; dup2 onto itself keeps close-on-exec, hence fcntl.
    let result = unsafe {
        match fd == LISTENER_FD {
            true => libc::fcntl(fd, libc::F_SETFD, 0),
            false => libc::dup2(fd, LISTENER_FD),
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn reply(dialect: &Dialect, address: &str) -> Result<Vec<u8>> {
    match dialect {
        Dialect::Bare => Ok(address.as_bytes().to_vec()),
        Dialect::Json => {
            let reply = serde_json::json!({"version": TASK_API, "address": address, "protocol": "ttrpc"});
            Ok(reply.to_string().into_bytes())
        }
        Dialect::Protobuf => {
            let result = BootstrapResult {
                version: TASK_API,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..Default::default()
            };
            result.write_to_bytes().map_err(|e| Error::internal(format!("encode the answer: {e}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_has_its_reply() {
        let address = "unix:///run/containerd/s/x";
        assert_eq!(reply(&Dialect::Bare, address).unwrap(), address.as_bytes());
        let json: serde_json::Value =
            serde_json::from_slice(&reply(&Dialect::Json, address).unwrap()).unwrap();
        assert_eq!(json, serde_json::json!({"version": 2, "address": address, "protocol": "ttrpc"}));
        let bytes = reply(&Dialect::Protobuf, address).unwrap();
        assert_eq!(BootstrapResult::parse_from_bytes(&bytes).unwrap().address, address);
    }

    #[test]
    fn a_socket_keeps_its_name_in_another_directory() {
        assert_eq!(in_dir("/run/s/", "unix:///run/containerd/s/abc"), "unix:///run/s/abc");
    }
}
