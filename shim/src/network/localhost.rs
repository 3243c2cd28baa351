//! Connections to localhost in the task's network namespace reach the guest's servers; the kubelet's port-forward makes
//! such. With tap the namespace's loopback interface is not the guest's, so the shim accepts each connection to it and
//! makes it again in the guest.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    os::fd::AsFd,
};

use guest_protocol::relay;
use linux::sk_lookup::{self, Steering};
use log::debug;
use tokio::{net::TcpStream, task::JoinSet};

use super::{Connections, dialer::Dialer, netns::Netns, ports::Protocol};

/// The relay of one namespace; it ends when this is dropped.
pub struct Localhost {
    _steering: Steering,
    _tasks: JoinSet<()>,
}

impl Localhost {
    /// Starts relaying. The namespace's `lo` must be up for anybody to get here.
    ///
    /// # Errors
    /// The kernel's; nothing is relayed then.
    pub fn start(netns: &Netns, dialer: &Dialer) -> io::Result<Localhost> {
        let (ipv4, ipv6) = netns.run(|| {
            // Any port will do: connections come by the steering, not by port.
            let ipv4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            // There may be no IPv6.
            Ok::<_, io::Error>((ipv4, TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok()))
        })??;
        let steering = sk_lookup::localhost(netns.as_fd(), ipv4.as_fd(), ipv6.as_ref().map(AsFd::as_fd))?;
        let mut tasks = JoinSet::new();
        let listeners = [(Some(ipv4), IpAddr::from(Ipv4Addr::LOCALHOST)), (ipv6, Ipv6Addr::LOCALHOST.into())];
        for (listener, address) in listeners {
            let Some(listener) = listener else { continue };
            listener.set_nonblocking(true)?;
            tasks.spawn(accept(tokio::net::TcpListener::from_std(listener)?, address, dialer.clone()));
        }
        Ok(Localhost { _steering: steering, _tasks: tasks })
    }
}

async fn accept(listener: tokio::net::TcpListener, address: IpAddr, dialer: Dialer) {
    let mut connections = Connections::new(listener);
    loop {
        connections.accept(|socket| serve(socket, address, dialer.clone())).await;
    }
}

async fn serve(socket: TcpStream, address: IpAddr, dialer: Dialer) {
    // Steering leaves the address that the client dialled.
    let Ok(dialled) = socket.local_addr() else { return };
    match dialer.connect(Some(address), dialled.port(), Protocol::Tcp).await {
        Ok((reader, writer)) => relay::bytes(socket, reader, writer).await,
        Err(error) => {
            debug!("localhost port {}: {error}", dialled.port());
            // The closest to a refused connection: the client gets a reset.
            let _ = socket.set_zero_linger();
        }
    }
}
