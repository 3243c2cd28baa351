//! Unix sockets of the host that a container was given: the guest listens where the container
//! dials, and for each of its clients the shim dials the real server. Only the sockets that the
//! spec binds can be reached.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use guest_protocol::{api, relay};
use log::{debug, warn};
use tokio::{net::UnixStream, sync::Semaphore, task::JoinSet};
use ttrpc::context::Context;
use vm_launcher::Guest;

use crate::{
    error::{Error, Result},
    network::Numbers,
};

/// How many clients a socket may have at once; more wait. Each costs a descriptor and up to two windows of a stream.
const CLIENTS: usize = 128;

/// Whether `path` is a socket, itself or by a symbolic link.
pub fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// What the guest has to know of the socket at `path`.
///
/// # Errors
/// `INVALID_ARGUMENT` when it is gone.
pub fn describe(path: &Path) -> Result<api::Socket> {
    let metadata =
        fs::metadata(path).map_err(|e| Error::invalid(format!("mount source {}: {e}", path.display())))?;
    Ok(api::Socket {
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        ..Default::default()
    })
}

/// One forwarded socket.
pub struct Forward {
    /// The container that dials.
    pub container: String,
    /// The socket's number among the container's.
    pub number: usize,
    /// Where the server listens, on the host.
    pub path: PathBuf,
}

impl Forward {
    /// Serves clients until the guest or its container is gone. Stopped by dropping it, with all connections.
    pub async fn serve(self, guest: Guest, numbers: Numbers) {
        let room = Arc::new(Semaphore::new(CLIENTS));
        let mut clients = JoinSet::new();
        loop {
            // Never closed.
            let Ok(place) = room.clone().acquire_owned().await else { return };
            while clients.try_join_next().is_some() {}
            let stream = numbers.next();
            let (reader, writer) = match guest.streams.open(stream) {
                Ok(halves) => halves,
                Err(error) => return debug!("{}: {error}", self.path.display()),
            };
            let request = api::AcceptRequest {
                container_id: self.container.clone(),
                socket: self.number as u32,
                stream,
                ..Default::default()
            };
            if let Err(error) = guest.client.accept(Context::default(), &request).await {
                return debug!("no more clients of {}: {error}", self.path.display());
            }
            let path = self.path.clone();
            clients.spawn(async move {
                // Dropping the stream is what the client sees of a server that is not there.
                match UnixStream::connect(&path).await {
                    Ok(server) => relay::local(server, reader, writer).await,
                    Err(error) => warn!("connect a container to {}: {error}", path.display()),
                }
                drop(place);
            });
        }
    }
}
