//! What dials localhost in the task's network namespace reaches the guest's servers: the kubelet's
//! port-forward does so. With cards the namespace's own loopback interface is not the guest's, so
//! every connection to it is taken here and made once more in the guest.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
};

use guest_protocol::{api::Protocol, relay};
use log::debug;
use tokio::task::JoinSet;

use super::{
    netns::Netns,
    reach::Reach,
    sk_lookup::{self, Steering},
};

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
    pub fn start(netns: &Netns, reach: &Reach) -> io::Result<Localhost> {
        let (ipv4, ipv6) = netns.run(|| {
            // The ports are not of interest: no connection comes by them.
            let ipv4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            // There may be no IPv6.
            Ok::<_, io::Error>((ipv4, TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok()))
        })??;
        let steering = sk_lookup::steer(netns.as_fd(), &ipv4, ipv6.as_ref())?;
        let mut tasks = JoinSet::new();
        let listeners = [(Some(ipv4), IpAddr::from(Ipv4Addr::LOCALHOST)), (ipv6, Ipv6Addr::LOCALHOST.into())];
        for (listener, address) in listeners {
            let Some(listener) = listener else { continue };
            listener.set_nonblocking(true)?;
            tasks.spawn(accept(tokio::net::TcpListener::from_std(listener)?, address, reach.clone()));
        }
        Ok(Localhost { _steering: steering, _tasks: tasks })
    }
}

async fn accept(listener: tokio::net::TcpListener, address: IpAddr, reach: Reach) {
    let mut connections = JoinSet::new();
    loop {
        let Some(socket) = super::accept(&listener, &mut connections).await else { continue };
        let reach = reach.clone();
        connections.spawn(async move {
            // The address that was dialled, as the program steers connections and changes none.
            let Ok(dialled) = socket.local_addr() else { return };
            match reach.connect(Some(address), dialled.port(), Protocol::TCP).await {
                Ok((reader, writer)) => relay::bytes(socket, reader, writer).await,
                Err(error) => {
                    debug!("localhost port {}: {error}", dialled.port());
                    // As near as can be to a refusal.
                    let _ = socket.set_zero_linger();
                }
            }
        });
    }
}
