//! Connections to servers in a VM: once its guest is up, each is a stream of its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use guest_protocol::{
    api,
    mux::{Reader, Writer},
};
use ttrpc::context;
use vm_launcher::Guest;

use super::ports::Protocol;
use crate::{
    error::{Error, Result},
    id::StreamNumbers,
};

/// Waits for a VM's guest.
#[async_trait]
pub trait AwaitGuest: Send + Sync {
    /// The guest, once it is up.
    ///
    /// # Errors
    /// Why it did not come up.
    async fn guest(&self) -> Result<Guest>;
}

/// Dials servers in one VM, which it does not keep alive.
#[derive(Clone)]
pub struct Dialer {
    guest: Arc<dyn AwaitGuest>,
    numbers: StreamNumbers,
    /// The addresses of the guest's NICs, once they are known.
    addresses: Arc<OnceLock<Vec<IpAddr>>>,
}

impl Dialer {
    /// Dials in the VM of `guest`, over streams of these numbers.
    pub fn new(guest: impl AwaitGuest + 'static, numbers: StreamNumbers) -> Dialer {
        Dialer { guest: Arc::new(guest), numbers, addresses: Arc::default() }
    }

    /// Tells the addresses of the guest's NICs. Only the first call counts.
    pub fn set_addresses(&self, addresses: Vec<IpAddr>) {
        let _ = self.addresses.set(addresses);
    }

    /// The guest, once it is up.
    ///
    /// # Errors
    /// Why it did not come up.
    pub async fn guest(&self) -> Result<Guest> {
        self.guest.guest().await
    }

    /// Connects to a server in the VM: at `to`, or where it is, on one of the VM's own addresses or
    /// on its loopback interface.
    ///
    /// # Errors
    /// The guest's: nobody listens there.
    pub async fn connect(
        &self,
        to: Option<IpAddr>,
        port: u16,
        protocol: Protocol,
    ) -> Result<(Reader, Writer)> {
        let guest = self.guest().await?;
        let stream = self.numbers.next();
        let opened = guest.streams.open(stream);
        let halves = opened.map_err(|e: io::Error| Error::internal("open a stream").because(e))?;
        let request = self.request(to, port, protocol, stream);
        guest.client.connect(context::with_duration(super::CONNECT), &request).await?;
        Ok(halves)
    }

    fn request(&self, to: Option<IpAddr>, port: u16, protocol: Protocol, stream: u32) -> api::ConnectRequest {
        let anywhere = || {
            let own = self.addresses.get().into_iter().flatten().copied();
            own.chain([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]).collect()
        };
        let addresses = to.map_or_else(anywhere, |address| vec![address]);
        api::ConnectRequest {
            addresses: addresses.iter().map(IpAddr::to_string).collect(),
            port: port.into(),
            protocol: match protocol {
                Protocol::Tcp => api::Protocol::TCP,
                Protocol::Udp => api::Protocol::UDP,
            }
            .into(),
            stream,
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that never comes up.
    struct Nobody;

    #[async_trait]
    impl AwaitGuest for Nobody {
        async fn guest(&self) -> Result<Guest> {
            Err(Error::internal("no guest"))
        }
    }

    #[tokio::test]
    async fn a_server_is_looked_for_on_every_address_of_the_guest() {
        let dialer = Dialer::new(Nobody, StreamNumbers::default());
        assert_eq!(dialer.request(None, 80, Protocol::Tcp, 7).addresses, ["127.0.0.1", "::1"]);
        dialer.set_addresses(vec![[10, 0, 0, 2].into()]);
        let request = dialer.request(None, 53, Protocol::Udp, 7);
        assert_eq!(request.addresses, ["10.0.0.2", "127.0.0.1", "::1"]);
        assert_eq!((request.port, request.protocol, request.stream), (53, api::Protocol::UDP.into(), 7));
        let request = dialer.request(Some(Ipv6Addr::LOCALHOST.into()), 80, Protocol::Tcp, 8);
        assert_eq!(
            (request.addresses, request.protocol),
            (vec!["::1".to_owned()], api::Protocol::TCP.into())
        );
        let error = dialer.connect(None, 80, Protocol::Tcp).await.err().unwrap();
        assert_eq!(error.to_string(), "no guest");
    }
}
