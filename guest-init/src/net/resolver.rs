//! Docker's resolver, which is on a loopback interface of the host's. PID 1 takes what is sent to its address; each client gets a
//! stream to the host, which asks the resolver. RPCs: ListenForLookups, AcceptLookup.
//!
//! No socket is bound to that address, so that a container can serve names itself at all addresses. The kernel is told which socket gets
//! what is sent there. TCP's answers come from that address then; UDP's are written with it.

use std::fs::File;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use guest_protocol::api::Protocol;
use guest_protocol::mux::{Mux, Reader, Writer};
use guest_protocol::relay::{self, MAX_DATAGRAM, frame};
use guest_protocol::resolver::{ADDRESS, TIMEOUT};
use linux::sk_lookup::{Steering, one_port};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, sendto, setsockopt, socket,
    sockopt::RcvBuf,
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes of UDP's header. Source: RFC 768.
const UDP_HEADER: u16 = 8;

/// Clients by TCP at a time, so that those who hold a connection keep nobody from asking by UDP: the host serves more at a time.
const TCP_CLIENTS: usize = 64;

/// What the VM's programs take for the resolver.
pub struct Resolver {
    tcp: TcpListener,
    udp: UdpSocket,
    answers: Arc<Answers>,
    room: Arc<Semaphore>,
    _steering: Steering,
}

impl Resolver {
    /// Takes what is sent to its address in the network namespace of this thread.
    pub async fn listen() -> Result<Resolver> {
        Resolver::listen_at(ADDRESS).await
    }

    async fn listen_at(address: SocketAddrV4) -> Result<Resolver> {
        // Any port will do.
        let any = (*address.ip(), 0);
        let udp = UdpSocket::bind(any).await.context("make a UDP socket")?;
        let tcp = TcpListener::bind(any).await.context("make a TCP socket")?;
        let netns = File::open("/proc/thread-self/ns/net").context("open the network namespace")?;
        let steering = one_port(netns.as_fd(), address, tcp.as_fd(), udp.as_fd())
            .with_context(|| format!("take what is sent to {address} (sk_lookup)"))?;
        let answers = Arc::new(Answers::from(address)?);
        Ok(Resolver { tcp, udp, answers, room: Arc::new(Semaphore::new(TCP_CLIENTS)), _steering: steering })
    }

    /// Waits for a client, and connects it to `stream`. A client by UDP has one question.
    pub async fn accept(&self, mux: &Mux, stream: u32) -> Result<Protocol> {
        let open = || mux.open(stream).with_context(|| format!("open stream {stream}"));
        let mut question = vec![0; MAX_DATAGRAM];
        tokio::select! {
            accepted = self.accept_tcp() => {
                let (client, place) = accepted.context("accept a client")?;
                let (reader, writer) = open()?;
                tokio::spawn(async move {
                    // One that is late asks again.
                    let _ = timeout(TIMEOUT, relay::bytes(client, reader, writer)).await;
                    drop(place);
                });
                Ok(Protocol::TCP)
            }
            received = self.udp.recv_from(&mut question) => {
                let (length, client) = received.context("receive a question")?;
                question.truncate(length);
                let (reader, writer) = open()?;
                let answers = self.answers.clone();
                tokio::spawn(async move {
                    if let Ok(Some(answer)) = timeout(TIMEOUT, ask(&question, reader, writer)).await {
                        answers.send(client, &answer);
                    }
                });
                Ok(Protocol::UDP)
            }
        }
    }

    async fn accept_tcp(&self) -> Result<(TcpStream, OwnedSemaphorePermit)> {
        let place = self.room.clone().acquire_owned().await?;
        Ok((self.tcp.accept().await?.0, place))
    }
}

/// Sends answers by UDP from an address that no socket is bound to.
struct Answers {
    raw: OwnedFd,
    port: u16,
}

impl Answers {
    fn from(address: SocketAddrV4) -> Result<Answers> {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Udp)
            .context("make a raw socket")?;
        // It is there to send: the kernel keeps nothing for it.
        setsockopt(&raw, RcvBuf, &0).context("limit a raw socket")?;
        bind(raw.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(*address.ip(), 0)))
            .context("bind a raw socket")?;
        Ok(Answers { raw, port: address.port() })
    }

    /// UDP may lose an answer: a client asks again.
    fn send(&self, client: SocketAddr, answer: &[u8]) {
        let SocketAddr::V4(client) = client else { return };
        let Some(length) = u16::try_from(answer.len()).ok().and_then(|length| length.checked_add(UDP_HEADER))
        else {
            return;
        };
        // No checksum: the packet leaves no memory.
        let header = [self.port, client.port(), length, 0].map(u16::to_be_bytes);
        let packet = [header.as_flattened(), answer].concat();
        let to = SockaddrIn::from(SocketAddrV4::new(*client.ip(), 0));
        let _ = sendto(self.raw.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT);
    }
}

/// Asks the host. None when it has no answer.
async fn ask(question: &[u8], mut reader: Reader, mut writer: Writer) -> Option<Vec<u8>> {
    writer.send(&frame(question)).await.ok()?;
    relay::datagram(&mut reader).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the kernel lets this process load no program.
    fn is_denied(error: &anyhow::Error) -> bool {
        let of_the_kernels = error.root_cause().downcast_ref::<std::io::Error>();
        of_the_kernels.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    }

    /// A resolver, unless this process may not have one.
    async fn resolver(port: u16) -> Option<(SocketAddrV4, Resolver)> {
        let address = SocketAddrV4::new([127, 0, 0, 153].into(), port);
        match Resolver::listen_at(address).await {
            Err(error) if is_denied(&error) => {
                println!("skipped: {error:#}");
                None
            }
            resolver => Some((address, resolver.unwrap())),
        }
    }

    #[tokio::test]
    async fn who_holds_connections_keeps_nobody_from_asking() {
        let Some((address, resolver)) = resolver(5354).await else { return };
        let (a, b) = tokio::io::duplex(8192);
        let (_host, guest) = (Mux::start(a).0, Mux::start(b).0);
        let mut held = Vec::new();
        for _ in 0..=TCP_CLIENTS {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        for stream in 0..TCP_CLIENTS as u32 {
            assert_eq!(resolver.accept(&guest, 16 + stream).await.unwrap(), Protocol::TCP);
        }
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"who", address).await.unwrap();
        assert_eq!(resolver.accept(&guest, 1000).await.unwrap(), Protocol::UDP);
    }

    #[tokio::test]
    async fn a_question_gets_its_answer_from_the_host() {
        let Some((address, resolver)) = resolver(5353).await else { return };
        let (a, b) = tokio::io::duplex(8192);
        let (host, guest) = (Mux::start(a).0, Mux::start(b).0);
        // Somebody else serves at all addresses.
        let _other = UdpSocket::bind(("0.0.0.0", address.port())).await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // It takes no answer from elsewhere.
        client.connect(address).await.unwrap();
        client.send(b"who").await.unwrap();
        let (mut reader, mut writer) = host.open(16).unwrap();
        assert_eq!(resolver.accept(&guest, 16).await.unwrap(), Protocol::UDP);
        assert_eq!(*reader.recv().await.unwrap(), *frame(b"who"));
        writer.send(&frame(b"you")).await.unwrap();
        let mut answer = [0; 8];
        assert_eq!(client.recv(&mut answer).await.unwrap(), 3);
        assert_eq!(&answer[..3], b"you");
        // The host is done with it, and the guest's half with that.
        assert!(reader.recv().await.is_none());
    }
}
