//! Unix sockets of the host that a container was given: the guest listens where the container
//! dials, and for each of its clients the shim dials the real server. Only the sockets that the
//! spec binds can be reached.

use std::{io, sync::Arc};

use guest_protocol::{api, failure::CallError, relay};
use log::debug;
use tokio::{
    net::UnixStream,
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
};
use ttrpc::context::Context;
use vm_launcher::Guest;

use super::pin::{Socket, path_of};
use crate::{id::StreamNumbers, warnings::Warnings};

/// How many clients a socket may have at once; more wait. Each costs a descriptor and up to two windows of a stream.
const CLIENTS: usize = 128;

/// Describes socket `number` of a container to the guest.
pub fn describe(number: usize, socket: &Socket) -> api::Socket {
    let number = number as u32;
    api::Socket { mode: socket.mode, uid: socket.uid, gid: socket.gid, number, ..Default::default() }
}

/// One forwarded socket.
pub struct Forward {
    /// The container that dials.
    pub container: String,
    /// The socket's number among the container's.
    pub number: usize,
    /// Where the server listens, on the host.
    pub socket: Socket,
}

impl Forward {
    /// Serves clients until the guest or its container is gone. Stopped by dropping it, with all connections.
    pub async fn serve(self, guest: Guest, numbers: StreamNumbers) {
        let room = Arc::new(Semaphore::new(CLIENTS));
        let warnings =
            Arc::new(Warnings::new(format!("connect a container to {}", self.socket.path().display())));
        let mut clients = JoinSet::new();
        loop {
            // Never closed.
            let Ok(place) = room.clone().acquire_owned().await else { return };
            while clients.try_join_next().is_some() {}
            let stream = numbers.next();
            let (reader, writer) = match guest.streams.open(stream) {
                Ok(halves) => halves,
                Err(error) => return debug!("{}: {error}", self.socket.path().display()),
            };
            let request = api::AcceptRequest {
                container_id: self.container.clone(),
                socket: self.number as u32,
                stream,
                ..Default::default()
            };
            if let Err(error) = guest.client.accept(Context::default(), &request).await {
                let error = CallError::from(error);
                return debug!("no more clients of {}: {error}", self.socket.path().display());
            }
            let (socket, warnings) = (self.socket.clone(), warnings.clone());
            clients.spawn(async move {
                // Dropping the stream is what the client sees of a server that is not there.
                match connect(&socket).await {
                    Ok(server) => relay::local(server, reader, writer).await,
                    Err(error) => warnings.failed(error),
                }
                drop(place);
            });
        }
    }
}

/// Connects to the server that has the socket now.
#[expect(clippy::disallowed_methods, reason = "the path of a descriptor")]
async fn connect(socket: &Socket) -> io::Result<UnixStream> {
    let looked_up = socket.clone();
    let open = spawn_blocking(move || looked_up.open()).await.map_err(io::Error::other)??;
    UnixStream::connect(path_of(&open)).await
}
