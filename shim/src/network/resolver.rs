//! Docker's resolver. In a user-defined network, dockerd answers look-ups at 127.0.0.11 in each container's network namespace, and
//! /etc/resolv.conf names it. With tap that namespace's loopback interface is not the guest's, so guest-init takes what
//! is sent to that address in the guest, and the shim asks the resolver for each client. A guest reaches nothing else in this way.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    net::{Ipv4Addr, UdpSocket},
    sync::Arc,
};

use guest_protocol::{
    api::{self, Protocol},
    failure::CallError,
    mux::{Reader, Writer},
    relay::{self, MAX_DATAGRAM, frame},
    resolver::{ADDRESS, TIMEOUT},
};
use log::debug;
use tokio::{
    net::TcpSocket,
    time::{sleep, timeout},
};
use ttrpc::context::Context;
use vm_launcher::Guest;

use super::{ACCEPT_PAUSE, netns::Netns};
use crate::{clients::Clients, id::StreamNumbers, warnings::Warnings};

/// The UDP sockets of this thread's network namespace. Source: proc_pid_net(5).
const SOCKETS: &str = "/proc/thread-self/net/udp";

/// The most of that list that is read, in bytes: some 65,000 sockets.
const MAX_LIST: u64 = 8 << 20;

/// The resolver of one network namespace.
pub struct Resolver(Netns);

impl Resolver {
    /// That of a namespace, if it has one.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or its sockets not be listed.
    #[expect(clippy::disallowed_methods, reason = "a list of the kernel's")]
    pub fn find(netns: Netns) -> io::Result<Option<Resolver>> {
        let is_there = netns.run(|| {
            let list = BufReader::new(File::open(SOCKETS)?.take(MAX_LIST));
            has_resolver(list.lines())
        })??;
        Ok(is_there.then_some(Resolver(netns)))
    }

    /// Answers the guest's look-ups until the guest is gone. Stopped by dropping it, with all clients.
    pub async fn serve(self, guest: Guest, numbers: StreamNumbers) {
        let netns = Arc::new(self.0);
        let warnings = Arc::new(Warnings::new("ask Docker's resolver"));
        let mut clients = Clients::new(guest, numbers);
        loop {
            let accepted = clients.next(async |guest: Guest, stream| {
                let request = api::AcceptLookupRequest { stream, ..Default::default() };
                guest.client.accept_lookup(Context::default(), &request).await
            });
            let client = match accepted.await {
                Ok(client) => client,
                Err(error @ CallError::Connection(_)) => return debug!("no more look-ups: {error}"),
                Err(error) => {
                    warnings.failed(error);
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (netns, warnings) = (netns.clone(), warnings.clone());
            clients.serve(client, async move |lookup: api::Lookup, reader, writer| {
                let answered = match lookup.protocol.enum_value_or_default() {
                    Protocol::TCP => by_tcp(&netns, reader, writer).await,
                    Protocol::UDP => by_udp(&netns, reader, writer).await,
                };
                if let Err(error) = answered {
                    warnings.failed(error);
                }
            });
        }
    }
}

/// Whether a list of sockets has the resolver's, whose port is any: dockerd has rules lead to it.
fn has_resolver(mut list: impl Iterator<Item = io::Result<String>>) -> io::Result<bool> {
    // The address as the kernel has it in memory, as a number of this machine's.
    let address = format!("{:08X}:", u32::from_ne_bytes(ADDRESS.ip().octets()));
    list.try_fold(false, |found, line| {
        Ok(found || line?.split_whitespace().nth(1).is_some_and(|local| local.starts_with(&address)))
    })
}

async fn by_tcp(netns: &Netns, reader: Reader, writer: Writer) -> io::Result<()> {
    // A socket belongs to the namespace in which it was made, wherever it is used.
    let socket = netns.run(TcpSocket::new_v4)??;
    let relayed = async {
        let server = socket.connect(ADDRESS.into()).await?;
        relay::bytes(server, reader, writer).await;
        Ok(())
    };
    // A client that holds its connection has no need of it.
    timeout(TIMEOUT, relayed).await.unwrap_or(Ok(()))
}

/// Asks one question, and passes on the answer, if there is one.
async fn by_udp(netns: &Netns, mut reader: Reader, mut writer: Writer) -> io::Result<()> {
    let socket = netns.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(ADDRESS)?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>(socket)
    })??;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let asked = async {
        let Some(question) = relay::datagram(&mut reader).await else { return Ok(()) };
        socket.send(&question).await?;
        let mut answer = vec![0; MAX_DATAGRAM];
        let length = socket.recv(&mut answer).await?;
        // The guest may be gone.
        let _ = writer.send(&frame(&answer[..length])).await;
        Ok(())
    };
    timeout(TIMEOUT, asked).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolver_is_found_by_its_address() {
        let is_there = |list: &str| has_resolver(list.lines().map(|line| Ok(line.to_owned()))).unwrap();
        let list = "   sl  local_address rem_address   st\n 1286: 0B00007F:8AA7 00000000:0000 07\n";
        assert!(is_there(list));
        for other in ["", " 1286: 0100007F:8AA7 0B00007F:0035 07\n", " 1286: 0B00007E:0035 00000000:0000 07"]
        {
            assert!(!is_there(other), "{other}");
        }
    }
}
