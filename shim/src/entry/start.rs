//! `start`: finds or starts the server of a container's sandbox, and tells containerd where it
//! listens, in whichever of its three dialects containerd speaks.
//!
//! The server inherits a socket that is bound here: containerd may connect at once, and is answered
//! when the server is ready. containerd kills a `start` whose client went away, and nothing may
//! stay behind then. So the server reads a pipe from its starter, and removes the socket and ends
//! unless the starter writes [`ANSWERED`].

#![expect(
    clippy::disallowed_methods,
    reason = "sockets are in a directory of containerd's; the program is this one"
)]

use std::{
    env, fs,
    fs::Permissions,
    io::{self, IsTerminal, PipeWriter, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
};

use containerd_shim::{
    Flags,
    bootstrap::{BootstrapParams, BootstrapResult, LogLevel},
    cgroup::set_cgroup_and_oom_score,
};
use containerd_shim_protos::protobuf::{Enum, Message};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, listen, socket};

use super::address;
use crate::{
    bundle,
    error::{Error, Result},
    files::state_dir::make_dir,
    id,
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

/// The version of the task API that we answer: with 2, containerd calls `start` for each
/// container and `Shutdown` after each delete, and makes up exits for a shim that dies.
const TASK_API: i32 = 2;

/// The most that is read from standard input, in bytes. Source: containerd `pkg/shim/shim.go`.
const MAX_INPUT: u64 = 10 << 20;

/// The modes of the socket and its directory. Source: containerd `pkg/shim/util_unix.go`, `NewSocket`.
const SOCKET_MODE: u32 = 0o600;
const SOCKET_DIR_MODE: u32 = 0o700;

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

/// What containerd asks for, in whichever dialect. What its parameters leave empty is as the flags and the environment
/// say.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    id: String,
    namespace: String,
    /// containerd's own address.
    containerd: String,
    /// Where it takes events; the server inherits the environment's when there is none.
    events: Option<String>,
    /// The directory for the socket, when it is not the usual one.
    socket_dir: Option<String>,
    debug: bool,
}

impl Request {
    fn new(flags: &Flags, params: Option<BootstrapParams>) -> Request {
        let params = params.unwrap_or_default();
        let given = |field: String| (!field.is_empty()).then_some(field);
        Request {
            id: flags.id.clone(),
            namespace: flags.namespace.clone(),
            containerd: given(params.containerd_grpc_address).unwrap_or_else(|| flags.address.clone()),
            events: given(params.containerd_ttrpc_address),
            socket_dir: params.socket_dir.and_then(given),
            debug: flags.debug || params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG.value(),
        }
    }
}

/// Answers containerd's `start`.
///
/// # Errors
/// When no server can be started; none is left behind, nor by a kill at any moment.
pub fn start(flags: &Flags) -> Result<()> {
    let mut input = Vec::new();
    if !io::stdin().is_terminal() {
        let read = io::stdin().take(MAX_INPUT).read_to_end(&mut input);
        read.map_err(|e| Error::internal("read standard input").because(e))?;
    }
    let params = parse_params(&input, flags);
    let dialect = match &params {
        Some(_) => Dialect::Protobuf,
        None if env::var_os(MAX_SHIM_VERSION).is_some() => Dialect::Json,
        None => Dialect::Bare,
    };
    let request = Request::new(flags, params);
    let bundle = env::current_dir().map_err(|e| Error::internal("find the bundle").because(e))?;
    // Create refuses a bad config.json; the container is its own sandbox here.
    let spec = bundle::load(&bundle).ok();
    id::check("container id", &request.id)?;
    spec.as_ref().map_or(Ok(()), bundle::check_pod)?;
    let sandbox = spec.as_ref().and_then(bundle::pod_of).unwrap_or(&request.id);
    let (address, mut server) = match running(&bundle, sandbox, &request)? {
        Some(address) => (address, None),
        None => {
            let address = own_address(sandbox, &request)?;
            let server = serve_at(&address, sandbox, &request)?;
            (address, Some(server))
        }
    };
    address::write(&bundle, &address)?;
    failpoint!(blocking "start.noted");
    let mut stdout = io::stdout();
    stdout
        .write_all(&reply(&dialect, &address)?)
        .and_then(|()| stdout.flush())
        .and_then(|()| server.as_mut().map_or(Ok(()), |server| server.write_all(&[ANSWERED])))
        .map_err(|e| Error::internal("answer containerd").because(e))
}

/// The parameters of containerd 2.3 and later. Older versions send the runtime's options, which are another message.
fn parse_params(input: &[u8], flags: &Flags) -> Option<BootstrapParams> {
    let params = BootstrapParams::parse_from_bytes(input).ok()?;
    let is_ours = !flags.id.is_empty()
        && params.instance_id == flags.id
        && [flags.namespace.as_str(), ""].contains(&params.namespace.as_str());
    is_ours.then_some(params)
}

fn own_address(sandbox: &str, request: &Request) -> Result<String> {
    address::compute(&request.containerd, &request.namespace, sandbox, request.socket_dir.as_deref())
}

/// The address of the sandbox's server, if one runs: where it would be started now, or where it was, before
/// containerd's configuration changed.
fn running(bundle: &Path, sandbox: &str, request: &Request) -> Result<Option<String>> {
    let mut addresses = vec![own_address(sandbox, request)?];
    addresses.extend(address::noted(bundle, sandbox));
    Ok(addresses.into_iter().find(|address| address::is_served(address)))
}

/// Starts a server whose socket is at `address`. It ends unless [`ANSWERED`] is written to the returned pipe.
fn serve_at(address: &str, sandbox: &str, request: &Request) -> Result<PipeWriter> {
    let failed = |e: nix::Error| Error::internal("make a socket").because(e);
    let listener =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    let server = spawn(sandbox, request, &listener)?;
    failpoint!(blocking "start.spawned");
    bind(&listener, address::socket_path(address))?;
    failpoint!(blocking "start.bound");
    Ok(server)
}

/// Binds the socket and listens. Replaces the socket of a dead server.
fn bind(listener: &OwnedFd, path: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::internal(format!("bind {}", path.display())).because(e);
    if let Some(dir) = path.parent() {
        make_dir(dir, SOCKET_DIR_MODE)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    UnixAddr::new(path)
        .and_then(|address| nix::sys::socket::bind(listener.as_raw_fd(), &address))
        .map_err(|e| failed(e.into()))?;
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    listen(listener, Backlog::MAXCONN).map_err(|e| failed(e.into()))
}

/// Starts the server, which inherits nothing from us but the listener and the pipe's other end.
fn spawn(sandbox: &str, request: &Request, listener: &OwnedFd) -> Result<PipeWriter> {
    let failed = |e: io::Error| Error::internal("start the shim's server").because(e);
    let (reader, writer) = io::pipe().map_err(failed)?;
    let mut command = Command::new(env::current_exe().map_err(failed)?);
    command
        .args(["-namespace", &request.namespace, "-id", &request.id, "-address", &request.containerd])
        .env(GROUP_ENV, sandbox)
        .envs(request.events.iter().map(|address| (TTRPC_ADDRESS, address)))
        .stdin(reader)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if request.debug {
        command.arg("-debug");
    }
    let listener = listener.as_raw_fd();
    // SAFETY: between fork and exec only dup2 and fcntl are called, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || inherit(listener));
    }
    let server = command.spawn().map_err(failed)?;
    set_cgroup_and_oom_score(server.id(), "")
        .map_err(|e| Error::internal("set up the shim's server").because(e))?;
    Ok(writer)
}

/// Makes `fd` the [`LISTENER_FD`] of the program that is executed next.
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
            result.write_to_bytes().map_err(|e| Error::internal("encode the answer").because(e))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn flags() -> Flags {
        Flags {
            id: "c1".to_owned(),
            namespace: "default".to_owned(),
            address: "/run/containerd/containerd.sock".to_owned(),
            ..Flags::default()
        }
    }

    /// As containerd 2.3 sends it.
    fn params() -> BootstrapParams {
        BootstrapParams {
            instance_id: "c1".to_owned(),
            namespace: "default".to_owned(),
            ..BootstrapParams::default()
        }
    }

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
    fn an_empty_parameter_is_not_given() {
        let empty = BootstrapParams { socket_dir: Some(String::new()), ..params() };
        let request = Request::new(&flags(), Some(empty));
        assert_eq!(request, Request::new(&flags(), None));
        // The server inherits TTRPC_ADDRESS then: an empty one would lose every event.
        assert_eq!(request.events, None);
        assert_eq!(request.containerd, "/run/containerd/containerd.sock");
    }

    #[test]
    fn parameters_come_before_flags() {
        let all = BootstrapParams {
            containerd_ttrpc_address: "/t".to_owned(),
            containerd_grpc_address: "/g".to_owned(),
            socket_dir: Some("/s".to_owned()),
            log_level: LogLevel::LOG_LEVEL_TRACE.into(),
            ..params()
        };
        let request = Request::new(&flags(), Some(all));
        assert_eq!((request.events.as_deref(), request.containerd.as_str()), (Some("/t"), "/g"));
        assert_eq!((request.socket_dir.as_deref(), request.debug), (Some("/s"), true));
    }

    #[test]
    fn only_our_own_parameters_are_taken() {
        let bytes = |params: BootstrapParams| params.write_to_bytes().unwrap();
        assert!(parse_params(&bytes(params()), &flags()).is_some());
        assert!(
            parse_params(&bytes(BootstrapParams { namespace: String::new(), ..params() }), &flags())
                .is_some()
        );
        // An Any, as older versions send it, has a type in the place of the id.
        let options = BootstrapParams { instance_id: "runtimeoptions.v1.Options".to_owned(), ..params() };
        assert!(parse_params(&bytes(options), &flags()).is_none());
        assert!(parse_params(b"", &flags()).is_none());
        assert!(parse_params(b"", &Flags::default()).is_none());
    }

    #[test]
    fn a_server_is_found_where_it_was_started() {
        let root = tempfile::tempdir().unwrap();
        let bundles = ["app", "pod"].map(|name| root.path().join("tasks").join(name));
        bundles.iter().for_each(|bundle| fs::create_dir_all(bundle).unwrap());
        let request =
            Request { socket_dir: Some(root.path().display().to_string()), ..Request::new(&flags(), None) };
        assert_eq!(running(&bundles[0], "pod", &request).unwrap(), None);

        let before = root.path().join("before");
        let _server = UnixListener::bind(&before).unwrap();
        let noted = format!("unix://{}", before.display());
        address::write(&bundles[1], &noted).unwrap();
        assert_eq!(running(&bundles[0], "pod", &request).unwrap(), Some(noted));
    }

    #[test]
    fn nobody_else_can_reach_the_socket() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s/socket");
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(&listener, &path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (SOCKET_MODE, SOCKET_DIR_MODE));
    }
}
