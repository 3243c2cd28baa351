//! Unix sockets of the host that a container was given: the guest listens where the container
//! dials, and for each of its clients the shim dials the real server. Only the sockets that the
//! spec binds can be reached.

use std::{io, os::unix::net::UnixStream as BlockingStream, sync::Arc, time::Duration};

use guest_protocol::{api, failure::CallError, relay};
use log::debug;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt, sockopt::Timeout};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinSet, spawn_blocking},
};
use ttrpc::context::Context;
use vm_launcher::Guest;

use super::pin::{Socket, path_of};
use crate::{id::StreamNumbers, warnings::Warnings};

/// How many clients a socket may have at once; more wait. Each costs a descriptor and up to two windows of a stream.
const CLIENTS: usize = 128;

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
        let room = Arc::new(Semaphore::new(CLIENTS));
        // One thread at most waits for this socket, whose directory may hang.
        let turn = Arc::new(Semaphore::new(1));
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
            let client = guest.client.clone();
            // A task of its own: a call that is given up while it is written is the end of the connection.
            let call = tokio::spawn(async move { client.accept(Context::default(), &request).await });
            let Ok(accepted) = call.await else { return };
            if let Err(error) = accepted.map_err(CallError::from) {
                return debug!("no more clients of {}: {error}", self.socket.path().display());
            }
            let (socket, warnings, turn) = (self.socket.clone(), warnings.clone(), turn.clone());
            clients.spawn(async move {
                // Never closed.
                let Ok(turn) = turn.acquire_owned().await else { return };
                // Dropping the stream is what the client sees of a server that is not there.
                match connect(socket, turn).await {
                    Ok(server) => relay::local(server, reader, writer).await,
                    Err(error) => warnings.failed(error),
                }
                drop(place);
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
