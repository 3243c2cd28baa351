//! The way to servers in a VM: its guest, once that is up, and stream numbers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use guest_protocol::{
    api,
    mux::{self, Reader, Writer},
};
use tokio::sync::watch;
use ttrpc::context;
use vm_launcher::Guest;

use crate::error::{Error, Result};

/// What has become of a boot.
#[derive(Clone)]
pub enum Boot {
    /// The VM is not launched yet.
    Awaited,
    UnderWay,
    Done(Guest),
    Failed(String),
}

/// Stream numbers, each given once.
#[derive(Clone)]
pub struct Numbers(Arc<AtomicU32>);

impl Default for Numbers {
    fn default() -> Self {
        Numbers(Arc::new(AtomicU32::new(mux::FIRST_STREAM)))
    }
}

impl Numbers {
    /// One that was never used in this VM.
    pub fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The way to a VM's guest. It does not keep the VM.
#[derive(Clone)]
pub struct Reach {
    /// How far the boot is.
    pub boot: watch::Receiver<Boot>,
    /// The VM's stream numbers.
    pub numbers: Numbers,
    /// The addresses of the guest's cards, once they are known.
    pub addresses: Arc<OnceLock<Vec<IpAddr>>>,
}

impl Reach {
    /// The guest, once it is up.
    ///
    /// # Errors
    /// Why it did not come up.
    pub async fn guest(mut self) -> Result<Guest> {
        loop {
            match &*self.boot.borrow_and_update() {
                Boot::Done(guest) => return Ok(guest.clone()),
                Boot::Failed(reason) => return Err(Error::internal(reason.clone())),
                Boot::Awaited | Boot::UnderWay => {}
            }
            self.boot.changed().await.map_err(|_| Error::internal("the VM is gone"))?;
        }
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
        protocol: api::Protocol,
    ) -> Result<(Reader, Writer)> {
        let guest = self.clone().guest().await?;
        let anywhere = || {
            let own = self.addresses.get().into_iter().flatten().copied();
            own.chain([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]).collect()
        };
        let addresses = to.map_or_else(anywhere, |address| vec![address]);
        let stream = self.numbers.next();
        let opened = guest.streams.open(stream);
        let halves = opened.map_err(|e: io::Error| Error::internal(format!("open a stream: {e}")))?;
        let request = api::ConnectRequest {
            addresses: addresses.iter().map(IpAddr::to_string).collect(),
            port: port.into(),
            protocol: protocol.into(),
            stream,
            ..Default::default()
        };
        guest.client.connect(context::with_duration(super::CONNECT), &request).await?;
        Ok(halves)
    }
}
