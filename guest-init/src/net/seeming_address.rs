//! An address for programs that look whether there is one. Where sockets are the host's, a guest has no NIC, and its resolver
//! takes names for unknown that are looked up with AI_ADDRCONFIG (getaddrinfo(3)): `lo` has no address but its own.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use linux::netlink::Netlink;
use linux::netlink::netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use linux::netlink::netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use linux::netlink::netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

/// The IPv4 dummy address, which nobody has and no packet is sent to (RFC 7600, section 4.8).
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// The index of `lo` in every network namespace. Source: the kernel's `LOOPBACK_IFINDEX`.
const LOOPBACK: u32 = 1;

/// Gives `lo` the address.
pub fn add() -> Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.scope = AddressScope::Host;
    message.header.index = LOOPBACK;
    let address = IpAddr::V4(ADDRESS);
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    let mut netlink = Netlink::open().context("open netlink")?;
    Ok(netlink.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)?)
}
