//! Unix sockets of the host that a container was given: the guest listens where the container
//! dials, and for each of its clients the shim dials the real server. Only the sockets that the
//! spec binds can be reached.

use std::{io, os::unix::net::UnixStream as BlockingStream, sync::Arc, time::Duration};

use guest_protocol::{api, relay};
use log::debug;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt, sockopt::Timeout};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};
use ttrpc::context::Context;
use vm_launcher::Guest;

use super::pin::{Socket, path_of};
use crate::{clients::Clients, id::StreamNumbers, warnings::Warnings};

/// How long a server may take to have room for one more client.
const CONNECT: Duration = Duration::from_secs(30);

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
        // One thread at most waits for this socket, whose directory may hang.
        let turn = Arc::new(Semaphore::new(1));
        let path = self.socket.path().display().to_string();
        let warnings = Arc::new(Warnings::new(format!("connect a container to {path}")));
        let mut clients = Clients::new(guest, numbers);
        loop {
            let (container_id, socket) = (self.container.clone(), self.number as u32);
            let accepted = clients.next(async move |guest: Guest, stream| {
                let request = api::AcceptRequest { container_id, socket, stream, ..Default::default() };
                guest.client.accept(Context::default(), &request).await
            });
            let client = match accepted.await {
                Ok(client) => client,
                Err(error) => return debug!("no more clients of {path}: {error}"),
            };
            let (socket, warnings, turn) = (self.socket.clone(), warnings.clone(), turn.clone());
            clients.serve(client, async move |_, reader, writer| {
                // Never closed.
                let Ok(turn) = turn.acquire_owned().await else { return };
                // Dropping the stream is what the client sees of a server that is not there.
                match connect(socket, turn).await {
                    Ok(server) => relay::local(server, reader, writer).await,
                    Err(error) => warnings.failed(error),
                }
            });
        }
    }
}

/// Connects to the server that has the socket now. The thread that waits for it keeps `turn`.
async fn connect(socket: Socket, turn: OwnedSemaphorePermit) -> io::Result<UnixStream> {
    let connecting = spawn_blocking(move || {
        let _turn = turn;
        connect_within(CONNECT, &socket)
    });
    let server = connecting.await.map_err(io::Error::other)??;
    server.set_nonblocking(true)?;
    UnixStream::from_std(server)
}

/// Connects, and waits for at most `limit` for a server that has as many waiting clients as it wants.
#[expect(clippy::disallowed_methods, reason = "the path of a descriptor")]
fn connect_within(limit: Duration, socket: &Socket) -> io::Result<BlockingStream> {
    let server = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // It bounds a connect as well. Source: socket(7), SO_SNDTIMEO.
    sockopt::set_socket_timeout(&server, Timeout::Send, Some(limit))?;
    let open = socket.open()?;
    net::connect(&server, &SocketAddrUnix::new(path_of(&open))?)?;
    Ok(server.into())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread, time::Instant};

    use rustix::net::listen;

    use super::*;
    use crate::files::pin::Source;

    fn pinned(path: &std::path::Path) -> Socket {
        let Source::Socket(socket) = Source::resolve(path).unwrap() else { panic!("it is a socket") };
        socket
    }

    /// A server with room for one waiting client, and that client.
    fn full(path: &std::path::Path) -> (UnixListener, BlockingStream) {
        let listener = UnixListener::bind(path).unwrap();
        listen(&listener, 0).unwrap();
        let waiting = BlockingStream::connect(path).unwrap();
        (listener, waiting)
    }

    #[test]
    fn a_client_waits_for_a_server_that_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (listener, _waiting) = full(&path);
        let socket = pinned(&path);
        let client = thread::spawn(move || connect_within(Duration::from_secs(60), &socket));
        // The first that is taken makes room for the other.
        let _served = [listener.accept().unwrap(), listener.accept().unwrap()];
        client.join().unwrap().unwrap();
    }

    #[test]
    fn a_server_that_never_accepts_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _full = full(&path);
        let began = Instant::now();
        let error = connect_within(Duration::from_millis(200), &pinned(&path)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        // The kernel counts in ticks, of which the first has begun already.
        assert!(began.elapsed() >= Duration::from_millis(100));
    }
}
