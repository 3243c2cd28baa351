//! Unix sockets of the host in a container. PID 1 listens where the container dials; each client gets a stream to the
//! host, which connects it to the real server. RPC: Accept.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use guest_protocol::api::Socket;
use guest_protocol::boot::socket_path;
use guest_protocol::mux::Mux;
use guest_protocol::relay;
use tokio::net::UnixListener;

use crate::rpc::fault::Fault;

/// The sockets of one container, by their numbers. Their files are below the container's directory, and are removed with
/// it.
pub struct Sockets(BTreeMap<u32, UnixListener>);

impl Sockets {
    /// Listens on the sockets of container `id`, each with its server's owner and permissions.
    pub fn listen(id: &str, sockets: &[Socket]) -> Result<Sockets> {
        let listen = |socket: &Socket| {
            let path = PathBuf::from(socket_path(id, socket.number as usize));
            let listener = one(&path, socket).with_context(|| format!("listen on {}", path.display()))?;
            Ok((socket.number, listener))
        };
        sockets.iter().map(listen).collect::<Result<_>>().map(Sockets)
    }

    /// Waits for a client of socket `number`, and connects it to `stream`.
    pub async fn accept(&self, mux: &Mux, number: u32, stream: u32) -> Result<(), Fault> {
        let listener = self
            .0
            .get(&number)
            .ok_or_else(|| Fault::not_found(format!("the container has no socket {number}")))?;
        let (client, _) = listener.accept().await.context("accept a client")?;
        let (reader, writer) = mux.open(stream).with_context(|| format!("open stream {stream}"))?;
        tokio::spawn(relay::local(client, reader, writer));
        Ok(())
    }
}

fn one(path: &Path, socket: &Socket) -> Result<UnixListener> {
    let dir = path.parent().context("no parent")?;
    fs::create_dir_all(dir)?;
    // Through a descriptor: the path may be longer than a socket's address can be.
    let dir = fs::File::open(dir)?;
    let name = path.file_name().and_then(|name| name.to_str()).context("no name")?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?;
    chown(path, Some(socket.uid), Some(socket.gid))?;
    fs::set_permissions(path, Permissions::from_mode(socket.mode & 0o777))?;
    Ok(listener)
}
