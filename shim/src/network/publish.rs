//! Published ports: the shim listens in the host's network namespace and makes each connection again in the task's, so
//! that nobody reaches a port that is not listed.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
};

use guest_protocol::relay;
use log::debug;
use tokio::{net::TcpStream, task::JoinSet};

use super::{
    Choice, Connections,
    dialer::Dialer,
    netns::Netns,
    ports::{Port, Protocol},
    udp,
};
use crate::error::{Error, Result};

/// Published ports that are bound and not served yet; dropping it frees them.
#[derive(Default)]
pub struct Bound {
    tcp: Vec<(Port, TcpListener)>,
    udp: Vec<(Port, UdpSocket)>,
}

/// Where published ports lead.
#[derive(Clone)]
pub enum Backend {
    /// To the sockets that the vmm has in the task's network namespace (tsi).
    Namespace(Arc<Netns>),
    /// To the guest, whose sockets are its own (tap).
    Guest(Dialer),
}

/// Refuses ports that a mode cannot serve.
///
/// # Errors
/// `FAILED_PRECONDITION` that names the port and the mode.
pub fn check(ports: &[Port], choice: Choice) -> Result<()> {
    let why = |port: &Port| match (choice, port.protocol) {
        (Choice::None, _) => Some("network = none has no way to the task; tsi and tap do"),
        (Choice::Tsi, Protocol::Udp) => Some("network = tsi has no UDP servers; tap does"),
        _ => None,
    };
    match ports.iter().find_map(|port| why(port).map(|why| (port, why))) {
        Some((port, why)) => Err(Error::precondition(format!("published port {port}: {why}"))),
        None => Ok(()),
    }
}

impl Bound {
    /// Binds the ports, on every address of the host.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` that names a port that is taken; none stays bound then.
    pub fn bind(ports: &[Port]) -> Result<Bound> {
        let mut bound = Bound::default();
        for port in ports {
            let taken = |e: io::Error| {
                Error::precondition(format!("published port {port}: port {} of the host", port.host))
                    .because(e)
            };
            match port.protocol {
                Protocol::Tcp => bound.tcp.push((*port, any(port.host, TcpListener::bind).map_err(taken)?)),
                Protocol::Udp => bound.udp.push((*port, any(port.host, UdpSocket::bind).map_err(taken)?)),
            }
        }
        Ok(bound)
    }

    /// Serves the ports until the returned tasks are dropped.
    ///
    /// # Errors
    /// When a socket cannot be watched.
    pub fn serve(self, backend: &Backend) -> io::Result<JoinSet<()>> {
        let mut tasks = JoinSet::new();
        for (port, listener) in self.tcp {
            listener.set_nonblocking(true)?;
            tasks.spawn(accept(port, tokio::net::TcpListener::from_std(listener)?, backend.clone()));
        }
        for (port, socket) in self.udp {
            socket.set_nonblocking(true)?;
            if let Backend::Guest(dialer) = backend {
                let socket = tokio::net::UdpSocket::from_std(socket)?;
                tasks.spawn(udp::serve(port.task, socket, dialer.clone()));
            }
        }
        Ok(tasks)
    }
}

/// Binds for IPv6 and IPv4, or for IPv4 alone where the host has no IPv6.
fn any<T>(port: u16, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(e)
            if e.raw_os_error() == Some(libc::EAFNOSUPPORT)
                || e.raw_os_error() == Some(libc::EADDRNOTAVAIL) =>
        {
            bind((Ipv4Addr::UNSPECIFIED, port).into())
        }
        done => done,
    }
}

async fn accept(port: Port, listener: tokio::net::TcpListener, backend: Backend) {
    let mut connections = Connections::new(listener);
    loop {
        connections.accept(|socket| serve(port, socket, backend.clone())).await;
    }
}

async fn serve(port: Port, socket: TcpStream, backend: Backend) {
    let failed = match &backend {
        Backend::Namespace(netns) => in_namespace(netns, port.task, socket).await.err(),
        Backend::Guest(dialer) => match dialer.connect(None, port.task, Protocol::Tcp).await {
            Ok((reader, writer)) => {
                relay::bytes(socket, reader, writer).await;
                None
            }
            Err(error) => {
                let _ = socket.set_zero_linger();
                Some(io::Error::other(error))
            }
        },
    };
    if let Some(error) = failed {
        debug!("published port {port}: {error}");
    }
}

/// Connects to a port of the namespace's localhost, IPv4 or else IPv6, and relays.
async fn in_namespace(netns: &Netns, port: u16, mut socket: TcpStream) -> io::Result<()> {
    let connected = async {
        // A socket belongs to the namespace in which it was made, wherever it is used.
        let ipv4 = netns.run(tokio::net::TcpSocket::new_v4)??;
        match ipv4.connect((Ipv4Addr::LOCALHOST, port).into()).await {
            Ok(connected) => Ok(connected),
            Err(_) => {
                let ipv6 = netns.run(tokio::net::TcpSocket::new_v6)??;
                ipv6.connect((Ipv6Addr::LOCALHOST, port).into()).await
            }
        }
    };
    match connected.await {
        Ok(mut server) => tokio::io::copy_bidirectional(&mut socket, &mut server).await.map(drop),
        Err(error) => {
            // The closest to a refused connection: the client gets a reset.
            let _ = socket.set_zero_linger();
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::ports::parse;

    #[test]
    fn a_mode_that_cannot_serve_a_port_is_named_with_it() {
        let ports = parse("8080:80,5353:53/udp").unwrap();
        let error = check(&ports, Choice::Tsi).unwrap_err().to_string();
        assert!(error.contains("5353:53/udp") && error.contains("tsi has no UDP"), "{error}");
        let error = check(&ports, Choice::None).unwrap_err().to_string();
        assert!(error.contains("8080:80") && error.contains("network = none"), "{error}");
        check(&ports, Choice::TapAtStart).unwrap();
        check(&ports, Choice::Spare).unwrap();
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind("0.0.0.0:0").unwrap();
        let host = taken.local_addr().unwrap().port();
        let port = Port { host, task: 80, protocol: Protocol::Tcp };
        let error = Bound::bind(&[port]).err().unwrap().to_string();
        assert!(error.contains(&format!("published port {host}:80")), "{error}");
    }

    #[tokio::test]
    async fn a_published_port_leads_to_the_tasks() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (host, task) = (listener.local_addr().unwrap().port(), server.local_addr().unwrap().port());
        let port = Port { host, task, protocol: Protocol::Tcp };
        let backend = Backend::Namespace(Netns::of(std::process::id()).unwrap().into());
        let bound = Bound { tcp: vec![(port, listener)], udp: Vec::new() };
        let _serving = bound.serve(&backend).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", host)).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        server.accept().await.unwrap().0.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");
    }
}
