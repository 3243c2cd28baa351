//! The relay's sockets, and what a VM may take of them.

use std::{
    io,
    net::{self, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Relay, Transport, query, upstream};
use crate::error::{Error, Result};

/// Queries of a VM that are being answered.
const MAX_QUERIES: usize = 256;

/// Its connections.
const MAX_CONNECTIONS: usize = 32;

/// How long a connection may stand still.
const IDLE: Duration = Duration::from_secs(10);

/// How long nobody is accepted when there is no descriptor for the next connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The sockets at the gateway's address.
pub struct Sockets {
    udp: net::UdpSocket,
    tcp: net::TcpListener,
}

impl Sockets {
    /// Binds them.
    pub fn bind(address: SocketAddrV4) -> Result<Sockets> {
        let bound = || {
            let udp = net::UdpSocket::bind(address)?;
            let tcp = net::TcpListener::bind(address)?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok(Sockets { udp, tcp })
        };
        bound().map_err(|error: io::Error| {
            let needed = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    " (a DNS server of this host has the port on all addresses: give it some only)"
                }
                _ => "",
            };
            Error::new(format!("listen for the VM's DNS queries on {address}: {error}{needed}"))
        })
    }

    /// More handles of the same sockets.
    pub fn try_clone(&self) -> Result<Sockets> {
        let cloned = || Ok(Sockets { udp: self.udp.try_clone()?, tcp: self.tcp.try_clone()? });
        cloned().map_err(|error: io::Error| Error::new(format!("serve DNS: {error}")))
    }
}

/// Answers what comes, until it is dropped or a socket fails.
pub async fn serve(sockets: Result<Sockets>, relay: Relay) -> Result<()> {
    let Sockets { udp, tcp } = sockets?;
    let (relay, room) = (Arc::new(relay), Arc::new(Semaphore::new(MAX_QUERIES)));
    let served = async {
        tokio::select! {
            failed = datagrams(UdpSocket::from_std(udp)?, &relay, &room) => failed,
            failed = connections(TcpListener::from_std(tcp)?, &relay, &room) => failed,
        }
    };
    served.await.map_err(Error::at("serve DNS"))
}

async fn datagrams(socket: UdpSocket, relay: &Arc<Relay>, room: &Arc<Semaphore>) -> io::Result<()> {
    let socket = Arc::new(socket);
    let mut running = JoinSet::new();
    let mut buffer = [0; query::MAX + 1];
    loop {
        // What does not fit waits in the socket, or is lost there.
        let permit = permit(room).await?;
        let (length, from) = socket.recv_from(&mut buffer).await?;
        let (socket, relay, bytes) = (socket.clone(), relay.clone(), buffer[..length].to_vec());
        running.spawn(async move {
            if let Some(answer) = relay.answer(&bytes, Transport::Udp).await {
                // The VM asks again.
                let _ = socket.send_to(&answer, from).await;
            }
            drop(permit);
        });
        while running.try_join_next().is_some() {}
    }
}

async fn connections(listener: TcpListener, relay: &Arc<Relay>, room: &Arc<Semaphore>) -> io::Result<()> {
    let mut running = JoinSet::new();
    loop {
        while running.len() >= MAX_CONNECTIONS {
            running.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let (relay, room) = (relay.clone(), room.clone());
                // A VM that ends its connection, or lets it stand, is told nothing.
                running.spawn(async move { drop(connection(stream, &relay, &room).await) });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
        while running.try_join_next().is_some() {}
    }
}

async fn connection(mut stream: TcpStream, relay: &Relay, room: &Arc<Semaphore>) -> io::Result<()> {
    loop {
        let bytes = timeout(IDLE, upstream::read(&mut stream, query::MAX)).await??;
        let permit = permit(room).await?;
        let Some(answer) = relay.answer(&bytes, Transport::Tcp).await else { return Ok(()) };
        drop(permit);
        timeout(IDLE, upstream::write(&mut stream, &answer)).await??;
    }
}

async fn permit(room: &Arc<Semaphore>) -> io::Result<OwnedSemaphorePermit> {
    room.clone().acquire_owned().await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::{op::Message, rr::RecordType};

    use super::*;
    use crate::{
        dns::{query::tests::bytes, relay::tests::Fake},
        policy::Policy,
    };

    #[tokio::test]
    async fn queries_come_by_udp_and_by_tcp() {
        let sockets = Sockets::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (udp, tcp) = (sockets.udp.local_addr().unwrap(), sockets.tcp.local_addr().unwrap());
        let fake = Fake::start(Policy::default(), vec![]);
        let serving = tokio::spawn(serve(Ok(sockets), fake.relay));
        let query = bytes("a.example.", RecordType::AAAA);

        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"?", udp).await.unwrap();
        client.send_to(&query, udp).await.unwrap();
        let mut buffer = [0; 512];
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.id, 7);

        let mut client = TcpStream::connect(tcp).await.unwrap();
        for _ in 0..2 {
            upstream::write(&mut client, &query).await.unwrap();
            let answer = upstream::read(&mut client, 512).await.unwrap();
            assert_eq!(Message::from_vec(&answer).unwrap().metadata.id, 7);
        }
        // One that is too long ends the connection.
        upstream::write(&mut client, &[0; query::MAX + 1]).await.unwrap();
        upstream::read(&mut client, 512).await.unwrap_err();
        serving.abort();
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Sockets::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).err().unwrap().to_string();
        assert!(error.contains(&format!("127.0.0.1:{port}")) && error.contains("DNS server"), "{error}");
    }
}
