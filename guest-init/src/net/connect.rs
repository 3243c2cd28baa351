//! Connections to servers in the VM. The host asks for them to publish or forward a port; the bytes go through a stream.
//! RPC: Connect.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use guest_protocol::api::{ConnectRequest, Protocol};
use guest_protocol::mux::{Mux, Reader, Writer};
use guest_protocol::relay;
use tokio::net::{TcpStream, UdpSocket};

use crate::rpc::fault::Fault;

/// Connects, and starts to relay.
pub async fn connect(mux: &Mux, request: &ConnectRequest) -> Result<(), Fault> {
    let addresses = parse(request)?;
    let failed = |err: std::io::Error| {
        Fault::precondition(format!("connect to port {} in the VM: {err}", request.port))
    };
    let open = || -> Result<(Reader, Writer), Fault> {
        Ok(mux.open(request.stream).with_context(|| format!("open stream {}", request.stream))?)
    };
    let protocol = request.protocol.enum_value();
    match protocol.map_err(|number| Fault::invalid(format!("there is no protocol {number}")))? {
        Protocol::TCP => {
            let socket = TcpStream::connect(addresses.as_slice()).await.map_err(failed)?;
            let (reader, writer) = open()?;
            tokio::spawn(relay::bytes(socket, reader, writer));
        }
        Protocol::UDP => {
            let address = addresses.first().ok_or_else(|| Fault::invalid("no address to connect to"))?;
            let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
            socket.connect(address).await.map_err(failed)?;
            let (reader, writer) = open()?;
            tokio::spawn(relay::datagrams(socket, reader, writer));
        }
    }
    Ok(())
}

fn parse(request: &ConnectRequest) -> Result<Vec<SocketAddr>, Fault> {
    let port = u16::try_from(request.port)
        .map_err(|_| Fault::invalid(format!("port {}: must be at most {}", request.port, u16::MAX)))?;
    let address = |text: &String| {
        let ip: IpAddr = text.parse().map_err(|err| Fault::invalid(format!("address {text:?}: {err}")))?;
        Ok(SocketAddr::new(ip, port))
    };
    request.addresses.iter().map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_port_are_checked() {
        let request = |address: &str, port| ConnectRequest {
            addresses: vec![address.to_owned()],
            port,
            ..Default::default()
        };
        assert_eq!(parse(&request("::1", 80)).unwrap(), ["[::1]:80".parse().unwrap()]);
        assert!(parse(&request("localhost", 80)).unwrap_err().text.contains("localhost"));
        assert!(parse(&request("::1", 65536)).unwrap_err().text.contains("65536"));
    }

    #[tokio::test]
    async fn a_protocol_that_does_not_exist_is_refused() {
        let (a, _b) = tokio::io::duplex(64);
        let protocol = protobuf::EnumOrUnknown::from_i32(7);
        let request =
            ConnectRequest { addresses: vec!["127.0.0.1".to_owned()], protocol, ..Default::default() };
        let fault = connect(&Mux::start(a).0, &request).await.unwrap_err();
        assert!(fault.text.contains("protocol 7"), "{}", fault.text);
    }

    #[tokio::test]
    async fn a_port_without_a_server_is_an_error() {
        let (a, _b) = tokio::io::duplex(64);
        let request =
            ConnectRequest { addresses: vec!["127.0.0.1".to_owned()], port: 1, ..Default::default() };
        let fault = connect(&Mux::start(a).0, &request).await.unwrap_err();
        assert!(fault.text.contains("port 1"), "{}", fault.text);
    }
}
