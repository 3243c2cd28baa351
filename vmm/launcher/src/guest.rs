//! The guest's two connections.
//!
//! A connection must first send the nonce. When both connections are there, the listener is closed.

use std::{fs, io, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use guest_protocol::{
    api::GuestClient,
    hello::{self, HelloError, Role},
    mux::{self, Mux, MuxError},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{UnixListener, UnixStream},
    sync::watch,
};
use ttrpc::r#async::{Client, transport::Socket};

use crate::{
    VmEnd,
    control::Control,
    lines::Lines,
    lost::{Announcer, Lost},
    probe::ProbeError,
};

/// Connections without the right hello that are dropped; one more ends the wait. A good guest makes none.
const MAX_REFUSED: usize = 16;

/// PID 1 of a running VM. Clones refer to the same guest.
#[derive(Clone)]
pub struct Guest {
    /// Calls to the guest: [`guest_protocol::api`] has them all. The first must be `configure`. A call's error becomes a
    /// [`CallError`](guest_protocol::failure::CallError), which says whether the guest refused, was late, or is gone.
    pub client: GuestClient,
    /// Byte streams from and to the guest. The caller chooses their numbers: [`mux::FIRST_STREAM`] and up, each once in a VM.
    pub streams: Mux,
    lost: watch::Receiver<Option<Lost>>,
}

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The vmm ended first.
    #[error("the VM ended before its guest was ready: {0}")]
    Ended(VmEnd),
    /// KVM cannot run the guest.
    #[error(transparent)]
    NoKvm(#[from] ProbeError),
    /// The guest did not connect in time.
    #[error(
        "the guest did not answer within {} s of boot; `krunctl check` says whether this host can run VMs",
        .0.as_secs()
    )]
    Timeout(Duration),
    /// The socket failed.
    #[error("accepting the guest's connections")]
    Accept(#[source] io::Error),
    /// The guest's connections do not introduce themselves as they should.
    #[error("the guest introduced more than {MAX_REFUSED} connections wrongly")]
    Refused(#[source] Refusal),
    /// It cannot be another process's.
    #[error("the VM was not launched to be given away (VmConfig::given_away)")]
    NotGivenAway,
    /// [`crate::Vm::guest`] was already called.
    #[error("the guest was already taken by an earlier call")]
    Taken,
}

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its introduction is wrong.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The guest has one of this role.
    #[error("there is one of its role, {0:?}")]
    Twice(Role),
}

impl Guest {
    /// Waits until the connection to the guest is lost, and says why. Any number may wait. A guest that is lost does not come
    /// back; its VM may live on until it is killed.
    pub async fn lost(&self) -> Lost {
        let mut lost = self.lost.clone();
        match lost.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(lost)) => lost.clone(),
            _ => Lost::Ended("the connection's task was cancelled".to_owned()),
        }
    }

    /// A guest over two connections that are past their hello: calls (ttrpc) go over `control`, byte streams (the mux)
    /// over `streams`.
    ///
    /// [`crate::Vm::guest`] makes a VM's guest of the two that PID 1 dialled. A test makes a guest without a VM of any
    /// pair, such as `tokio::net::UnixStream::pair` or `tokio::io::duplex`, and is PID 1 on the other ends: a ttrpc
    /// server (`ttrpc::asynchronous::Server` takes a connected socket through `transport::Listener::new`) and a
    /// [`Mux`] of its own. The guest is lost when either connection ends, or breaks the protocol.
    ///
    /// To be called within a tokio runtime, which runs the connections' tasks.
    pub fn over<C, S>(control: C, streams: S) -> Self
    where
        C: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (streams, ended) = Mux::start(streams);
        let (announcer, lost) = Announcer::new();
        let control = Control::new(control, announcer.clone());
        tokio::spawn(async move {
            announcer.announce(match ended.await {
                Ok(Ok(())) => Lost::Ended("the guest closed the connection".to_owned()),
                Ok(Err(error @ MuxError::Transport(_))) => {
                    Lost::Ended(format!("the guest's streams failed: {error}"))
                }
                Ok(Err(error)) => Lost::Broken(format!("the guest's streams failed: {error}")),
                Err(error) => Lost::Ended(format!("the task of the guest's streams failed: {error}")),
            });
        });
        match streams.open(mux::LOG_STREAM) {
            Ok((reader, _)) => drop(tokio::spawn(pass_on_log(reader))),
            Err(error) => log::warn!("no log from the guest: {error}"),
        }
        Guest { client: GuestClient::new(Client::new(Socket::new(control))), streams, lost }
    }
}

async fn pass_on_log(mut reader: mux::Reader) {
    let log = |line: &str| log::info!(target: "guest", "{line}");
    let mut lines = Lines::default();
    while let Some(bytes) = reader.recv().await {
        lines.feed(&bytes, log);
    }
    lines.end(log);
}

/// The two connections of a guest, past their hello.
pub struct Connections {
    pub control: UnixStream,
    pub streams: UnixStream,
}

impl From<Connections> for Guest {
    fn from(Connections { control, streams }: Connections) -> Guest {
        Guest::over(control, streams)
    }
}

/// The socket that the guest connects to. Dropping it closes and removes it.
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    nonce: String,
}

impl Listener {
    /// Listens on a new socket at `path`.
    pub fn bind(path: &std::path::Path, nonce: String) -> io::Result<Self> {
        let listener = Listener { socket: UnixListener::bind(path)?, path: path.to_owned(), nonce };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    /// Accepts connections until both of the guest's are there, one of each role. Only the vmm can reach the socket: if a connection stays
    /// silent, it delays only its own VM, and the caller's limit for the boot ends it.
    pub async fn connections(self) -> Result<Connections, GuestError> {
        let (mut control, mut streams) = (None, None);
        let mut refused = 0;
        loop {
            let (mut connection, _) = self.socket.accept().await.map_err(GuestError::Accept)?;
            let slot = match hello::expect(&mut connection, &self.nonce).await {
                Ok(Role::Control) if control.is_none() => &mut control,
                Ok(Role::Streams) if streams.is_none() => &mut streams,
                other => {
                    let error = other.map_or_else(Refusal::from, Refusal::Twice);
                    log::warn!("dropped a connection on {}: {error}", self.path.display());
                    refused += 1;
                    if refused > MAX_REFUSED {
                        return Err(GuestError::Refused(error));
                    }
                    continue;
                }
            };
            *slot = Some(connection);
            if control.is_some() && streams.is_some() {
                break;
            }
        }
        // Both are there, by the loop's condition.
        control
            .zip(streams)
            .map(|(control, streams)| Connections { control, streams })
            .ok_or(GuestError::Taken)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_guest_needs_no_vm_but_two_streams() {
        let (control, mut their_control) = tokio::io::duplex(1024);
        let (streams, their_streams) = UnixStream::pair().unwrap();
        let guest = Guest::over(control, streams);
        let (theirs, _) = Mux::start(their_streams);
        let (mut from_guest, _) = guest.streams.open(mux::FIRST_STREAM).unwrap();
        let (_, mut to_host) = theirs.open(mux::FIRST_STREAM).unwrap();
        to_host.send(b"hello").await.unwrap();
        assert_eq!(from_guest.recv().await.unwrap(), b"hello"[..]);
        let request = guest_protocol::api::ConfigureRequest::new();
        let call = guest.client.configure(ttrpc::context::with_duration(Duration::from_secs(60)), &request);
        let (answer, head) = tokio::join!(call, async {
            let mut head = [0; 10];
            their_control.read_exact(&mut head).await.unwrap();
            drop(their_control);
            head
        });
        // A ttrpc request: length, stream 1, type 1 (PROTOCOL.md of ttrpc).
        assert_eq!(head[4..], [0, 0, 0, 1, 1, 0]);
        assert!(answer.is_err());
        drop((theirs, to_host));
    }

    #[tokio::test]
    async fn two_connections_with_the_nonce_are_the_guest_and_others_are_dropped() {
        let path = std::env::temp_dir().join(format!("vmm-guest-test-{}", std::process::id()));
        let nonce = "ab".repeat(32);
        let listener = Listener::bind(&path, nonce.clone()).unwrap();
        let guest_side = tokio::spawn({
            let path = path.clone();
            async move {
                let mut kept = Vec::new();
                for (role, told) in [
                    (Role::Control, "cd".repeat(32)),
                    (Role::Streams, nonce.clone()),
                    (Role::Control, nonce.clone()),
                ] {
                    let mut connection = UnixStream::connect(&path).await.unwrap();
                    hello::introduce(&mut connection, role, &told).await.unwrap();
                    kept.push(connection);
                }
                kept
            }
        });
        let guest = Guest::from(listener.connections().await.unwrap());
        assert!(!path.exists());
        drop(guest_side.await.unwrap());
        assert!(
            guest.lost().await.to_string().starts_with("the guest closed the "),
            "{}",
            guest.lost().await
        );
    }

    #[tokio::test]
    async fn a_guest_that_goes_on_to_dial_wrongly_is_given_up() {
        let nonce = "ab".repeat(32);
        for told in ["cd".repeat(32), nonce.clone()] {
            let path = std::env::temp_dir().join(format!("vmm-refused-test-{}", std::process::id()));
            let listener = Listener::bind(&path, nonce.clone()).unwrap();
            let guest_side = tokio::spawn({
                let path = path.clone();
                async move {
                    // Until it is refused, as nobody listens any more.
                    while let Ok(mut connection) = UnixStream::connect(&path).await {
                        let _ = hello::introduce(&mut connection, Role::Control, &told).await;
                    }
                }
            });
            assert!(matches!(listener.connections().await, Err(GuestError::Refused(_))));
            guest_side.await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_that_nobody_asked_for_loses_the_guest() {
        let ((control, mut theirs), (streams, _kept)) = (tokio::io::duplex(1024), tokio::io::duplex(1024));
        let guest = Guest::over(control, streams);
        // A ttrpc response to call 1 (PROTOCOL.md of ttrpc), which was not made.
        theirs.write_all(&[0, 0, 0, 0, 0, 0, 0, 1, 2, 0]).await.unwrap();
        assert!(matches!(guest.lost().await, Lost::Broken(reason) if reason.contains("call 1")));
    }
}
