//! The VM's NICs get the settings of the interfaces on the host that they stand for: name, MTU, addresses, neighbours and
//! routes. The host sends these as netlink messages; only the interface indexes in them differ here.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use guest_protocol::api::{Interface, Network};
use linux::netlink::Netlink;
use linux::netlink::netlink_packet_core::{
    NLM_F_CREATE, NLM_F_REPLACE, NetlinkDeserializable, NetlinkHeader,
};
use linux::netlink::netlink_packet_route::RouteNetlinkMessage;
use linux::netlink::netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use linux::netlink::netlink_packet_route::route::RouteAttribute;

/// Message types (linux/rtnetlink.h).
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

/// Settings of an interface's IPv6: off, or without duplicate address detection, as the host has done that. Source: the kernel's Documentation/networking/ip-sysctl.rst.
const NO_IPV6: (&str, &str) = ("disable_ipv6", "1");
const IPV6_AT_ONCE: (&str, &str) = ("accept_dad", "0");

/// Our interface index for each of the host's.
type Indexes = HashMap<u32, u32>;

/// Configures every NIC.
pub fn configure(network: &Network) -> Result<()> {
    let mut netlink = Netlink::open().context("open netlink")?;
    let indexes = find(&mut netlink, &network.interfaces)?;
    for (interface, index) in network.interfaces.iter().zip(&indexes) {
        // So that no NIC has the name that another one is to get.
        set(&mut netlink, *index, [LinkAttribute::IfName(format!("krun{index}"))])
            .with_context(|| format!("rename interface {}", interface.name))?;
    }
    for (interface, index) in network.interfaces.iter().zip(&indexes) {
        bring_up(&mut netlink, interface, *index)
            .with_context(|| format!("bring up interface {}", interface.name))?;
    }
    let indexes = network.interfaces.iter().map(|interface| interface.index).zip(indexes).collect();
    let messages = [
        ("address", RTM_NEWADDR, &network.addresses),
        ("neighbour", RTM_NEWNEIGH, &network.neighbours),
        ("route", RTM_NEWROUTE, &network.routes),
    ];
    for (what, kind, bodies) in messages {
        for body in bodies {
            let message = ours(decode(kind, body).with_context(|| format!("decode a(n) {what}"))?, &indexes);
            let attempt = format!("add {what} {message:?}");
            netlink.change(message, NLM_F_CREATE | NLM_F_REPLACE).context(attempt)?;
        }
    }
    Ok(())
}

/// Moves every NIC from the network namespace of `netlink` to another one, where it has to be configured.
pub fn give_away(netlink: &mut Netlink, network: &Network, namespace: &impl AsRawFd) -> Result<()> {
    for index in find(netlink, &network.interfaces)? {
        set(netlink, index, [LinkAttribute::NetNsFd(namespace.as_raw_fd())])?;
    }
    Ok(())
}

/// Our index of each interface: that of the NIC with its hardware address, or with the one that it has until it is set up. NICs
/// with the same address come in the order of their interfaces.
fn find(netlink: &mut Netlink, interfaces: &[Interface]) -> Result<Vec<u32>> {
    let links =
        netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).context("list the NICs")?;
    let mut nics: Vec<_> = links.iter().filter_map(nic).collect();
    nics.sort();
    let mut indexes = Vec::new();
    for interface in interfaces {
        let wanted = if interface.nic.is_empty() { &interface.mac } else { &interface.nic };
        let found = nics.iter().position(|(_, mac)| mac == wanted);
        let found =
            found.with_context(|| format!("no NIC has the address of interface {}", interface.name))?;
        indexes.push(nics.remove(found).0);
    }
    Ok(indexes)
}

fn nic(message: &RouteNetlinkMessage) -> Option<(u32, &[u8])> {
    let RouteNetlinkMessage::NewLink(link) = message else { return None };
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => Some(mac.as_slice()),
        _ => None,
    })?;
    Some((link.header.index, mac))
}

fn bring_up(netlink: &mut Netlink, interface: &Interface, index: u32) -> Result<()> {
    let name = &interface.name;
    set(netlink, index, [LinkAttribute::IfName(name.clone()), LinkAttribute::Mtu(interface.mtu)])?;
    if !interface.nic.is_empty() {
        set(netlink, index, [LinkAttribute::Address(interface.mac.clone())])?;
    }
    let (setting, value) = if interface.ipv6 { IPV6_AT_ONCE } else { NO_IPV6 };
    let path = format!("/proc/sys/net/ipv6/conf/{name}/{setting}");
    match fs::write(&path, value) {
        // A kernel without IPv6.
        Err(err) if err.kind() == ErrorKind::NotFound => {}
        done => done.with_context(|| format!("write {path}"))?,
    }
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    netlink.change(RouteNetlinkMessage::SetLink(message), 0).context("set it up")
}

fn set<const N: usize>(netlink: &mut Netlink, index: u32, attributes: [LinkAttribute; N]) -> Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let attempt = format!("set {attributes:?}");
    message.attributes = attributes.into();
    netlink.change(RouteNetlinkMessage::SetLink(message), 0).context(attempt)
}

fn decode(kind: u16, body: &[u8]) -> Result<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    Ok(RouteNetlinkMessage::deserialize(&header, body)?)
}

/// The message with our interface indexes.
fn ours(mut message: RouteNetlinkMessage, indexes: &Indexes) -> RouteNetlinkMessage {
    let translate = |index: &mut u32| *index = indexes.get(index).copied().unwrap_or(*index);
    match &mut message {
        RouteNetlinkMessage::NewAddress(address) => translate(&mut address.header.index),
        RouteNetlinkMessage::NewNeighbour(neighbour) => translate(&mut neighbour.header.ifindex),
        RouteNetlinkMessage::NewRoute(route) => {
            for attribute in &mut route.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => translate(index),
                    RouteAttribute::MultiPath(hops) => {
                        hops.iter_mut().for_each(|hop| translate(&mut hop.interface_index));
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    message
}

#[cfg(test)]
mod tests {
    use linux::netlink::netlink_packet_core::Emitable;
    use linux::netlink::netlink_packet_route::route::RouteMessage;

    use super::*;

    #[test]
    fn a_route_keeps_all_but_its_interface() {
        let mut route = RouteMessage::default();
        route.attributes = vec![RouteAttribute::Oif(7), RouteAttribute::Priority(3)];
        let mut body = vec![0; route.buffer_len()];
        route.emit(&mut body);
        let message = ours(decode(RTM_NEWROUTE, &body).unwrap(), &Indexes::from([(7, 2)]));
        route.attributes[0] = RouteAttribute::Oif(2);
        assert_eq!(message, RouteNetlinkMessage::NewRoute(route));
    }

    #[test]
    fn a_nic_is_found_by_the_address_that_it_has_for_now() {
        let lo = Interface { mac: vec![9; 6], nic: vec![0; 6], ..Default::default() };
        assert_eq!(find(&mut Netlink::open().unwrap(), &[lo]).unwrap(), [1]);
    }

    #[test]
    fn a_nic_that_is_not_there_is_named() {
        let absent = Interface { name: "net7".to_owned(), mac: vec![9; 6], ..Default::default() };
        let error = find(&mut Netlink::open().unwrap(), &[absent]).unwrap_err();
        assert!(error.to_string().contains("net7"), "{error}");
    }
}
