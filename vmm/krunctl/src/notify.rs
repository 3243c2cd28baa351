//! Tells a service manager when the VM's server answers. Source: sd_notify(3).

use std::{net::SocketAddr, time::Duration};

use private_network::PrivateNetwork;
use sd_notify::NotifyState;
use shim::direct::{Protocol, parse_ports};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

/// How long one attempt to reach the server may take, and how long it is until the next.
const ATTEMPT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// Says that the VM is ready: once it runs, or once its first published TCP port answers. For ever, if it never does.
pub async fn ready(network: Option<&PrivateNetwork>, ports: &str) {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        if let Some(server) = network.and_then(|network| server(network, ports)) {
            answers(server).await;
        }
        if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
            log::warn!("telling the service manager that the VM is ready: {error}");
        }
    }
    std::future::pending().await
}

fn server(network: &PrivateNetwork, ports: &str) -> Option<SocketAddr> {
    let ports = parse_ports(ports).ok()?;
    let first = ports.iter().find(|port| port.protocol == Protocol::Tcp)?;
    Some((network.address(), first.task).into())
}

async fn answers(server: SocketAddr) {
    while !matches!(timeout(ATTEMPT, TcpStream::connect(server)).await, Ok(Ok(_))) {
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_answers_once_it_listens() {
        // Nobody else can have the port meanwhile, and nobody listens yet.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let waiting = tokio::spawn(answers(address));
        assert!(timeout(4 * PAUSE, TcpStream::connect(address)).await.unwrap().is_err());
        let _listener: TcpListener = socket.listen(1).unwrap();
        timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
    }
}
