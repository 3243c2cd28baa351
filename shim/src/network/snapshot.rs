//! A snapshot of a network namespace: its interfaces, addresses, neighbours and routes, and the copy of them that a
//! guest gets.

use std::{fs, io, net::IpAddr};

use guest_protocol::api;
use linux::netlink::{
    Emitable, Netlink,
    netlink_packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
        neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType},
    },
};

/// An interface that is up and has an address that others can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its index in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; `None` for one that is not like Ethernet, which no NIC of a VM can replace.
    pub mac: Option<[u8; 6]>,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// What this thread's namespace held when the snapshot was taken.
#[derive(Debug, Default)]
pub struct Snapshot {
    links: Vec<LinkMessage>,
    addresses: Vec<AddressMessage>,
    neighbours: Vec<NeighbourMessage>,
    routes: Vec<RouteMessage>,
}

impl Snapshot {
    /// Takes one of this thread's namespace. Of one whose interfaces are all down, but for the loopback's, it has these alone.
    ///
    /// # Errors
    /// Netlink's.
    pub fn take() -> io::Result<Snapshot> {
        use RouteNetlinkMessage as Message;
        let mut netlink = Netlink::open()?;
        let requests = [
            Message::GetLink(LinkMessage::default()),
            Message::GetAddress(AddressMessage::default()),
            Message::GetNeighbour(NeighbourMessage::default()),
            Message::GetRoute(RouteMessage::default()),
        ];
        let mut snapshot = Snapshot::default();
        for request in requests {
            for found in netlink.dump(request)? {
                match found {
                    Message::NewLink(link) => snapshot.links.push(link),
                    Message::NewAddress(address) => snapshot.addresses.push(address),
                    Message::NewNeighbour(neighbour) => snapshot.neighbours.push(neighbour),
                    Message::NewRoute(route) => snapshot.routes.push(route),
                    _ => {}
                }
            }
            if !snapshot.links.iter().any(may_be_configured) {
                break;
            }
        }
        Ok(snapshot)
    }

    /// The interfaces that are up, are not the loopback's, and have an address beyond the link.
    pub fn configured(&self) -> Vec<Interface> {
        let reachable = |index: u32| {
            self.addresses.iter().any(|address| {
                address.header.index == index
                    && !matches!(address.header.scope, AddressScope::Link | AddressScope::Host)
            })
        };
        let wanted = |link: &&LinkMessage| may_be_configured(link) && reachable(link.header.index);
        self.links.iter().filter(wanted).map(interface).collect()
    }

    /// The addresses of `interfaces` that others can reach.
    pub fn addresses_of(&self, interfaces: &[Interface]) -> Vec<IpAddr> {
        let of_these = |address: &&AddressMessage| {
            interfaces.iter().any(|interface| interface.index == address.header.index)
                && !matches!(address.header.scope, AddressScope::Link | AddressScope::Host)
        };
        self.addresses.iter().filter(of_these).filter_map(own).collect()
    }

    /// All addresses of `interface`, those that only its link knows included.
    pub fn all_addresses_of(&self, interface: &Interface) -> Vec<IpAddr> {
        let addresses = self.addresses.iter().filter(|address| address.header.index == interface.index);
        addresses.filter_map(own).collect()
    }

    /// How the guest configures its NICs so that they are like `interfaces`.
    pub fn for_guest(&self, interfaces: &[Interface]) -> api::Network {
        let chosen = |index: u32| interfaces.iter().any(|interface| interface.index == index);
        let mut routes: Vec<_> = self.routes.iter().filter_map(|route| copied_route(route, chosen)).collect();
        // A gateway must be reachable by the time that a route through it is added.
        routes.sort_by_key(|route| route.attributes.iter().any(|a| matches!(a, RouteAttribute::Gateway(_))));
        let addresses = self.addresses.iter().filter(|address| chosen(address.header.index));
        let neighbours = self.neighbours.iter().filter(|neighbour| chosen(neighbour.header.ifindex));
        let interfaces = interfaces.iter().map(|interface| api::Interface {
            index: interface.index,
            name: interface.name.clone(),
            mac: interface.mac.unwrap_or_default().to_vec(),
            mtu: interface.mtu,
            ipv6: has_ipv6(&interface.name),
            ..Default::default()
        });
        api::Network {
            interfaces: interfaces.collect(),
            addresses: addresses.map(|address| body(&copied_address(address))).collect(),
            neighbours: neighbours.filter_map(copied_neighbour).map(|n| body(&n)).collect(),
            routes: routes.iter().map(body).collect(),
            ..Default::default()
        }
    }
}

/// Whether an interface is up and not the loopback's.
fn may_be_configured(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up) && !link.header.flags.contains(LinkFlags::Loopback)
}

/// IPv4's own address is LOCAL, as ADDRESS is the peer's; IPv6 has ADDRESS only, without a peer.
fn own(address: &AddressMessage) -> Option<IpAddr> {
    let find = |local: bool| {
        address.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    find(true).or_else(|| find(false))
}

fn interface(link: &LinkMessage) -> Interface {
    let mut interface = Interface { index: link.header.index, name: String::new(), mac: None, mtu: 1500 };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Address(mac) if link.header.link_layer_type == LinkLayerType::Ether => {
                interface.mac = mac.as_slice().try_into().ok();
            }
            _ => {}
        }
    }
    interface
}

/// Whether an interface of this thread's namespace may have IPv6 addresses.
#[expect(clippy::disallowed_methods, reason = "a path of /proc; no name of an interface leads elsewhere")]
fn has_ipv6(name: &str) -> bool {
    let setting = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    fs::read_to_string(setting).is_ok_and(|value| value.trim() == "0")
}

fn body(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

/// An address for the guest. It never expires, as the host watches its lifetime; it is usable at once; and it brings no
/// route with it, as all routes are copied.
fn copied_address(address: &AddressMessage) -> AddressMessage {
    let mut copy = address.clone();
    copy.attributes.retain(|attribute| {
        matches!(
            attribute,
            AddressAttribute::Address(_)
                | AddressAttribute::Local(_)
                | AddressAttribute::Broadcast(_)
                | AddressAttribute::Label(_)
        )
    });
    copy.header.flags = Default::default();
    copy.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute | AddressFlags::Nodad));
    copy
}

/// A permanent neighbour's copy; the guest finds the others itself.
fn copied_neighbour(neighbour: &NeighbourMessage) -> Option<NeighbourMessage> {
    if neighbour.header.state != NeighbourState::Permanent
        || !matches!(neighbour.header.family, AddressFamily::Inet | AddressFamily::Inet6)
    {
        return None;
    }
    let mut copy = neighbour.clone();
    copy.attributes.retain(|attribute| {
        matches!(attribute, NeighbourAttribute::Destination(_) | NeighbourAttribute::LinkLayerAddress(_))
    });
    Some(copy)
}

/// The copy of a route of the main table that leads through the chosen interfaces, or nowhere.
fn copied_route(route: &RouteMessage, chosen: impl Fn(u32) -> bool) -> Option<RouteMessage> {
    let mut nowhere =
        matches!(route.header.kind, RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) if !chosen(*index) => return None,
            RouteAttribute::MultiPath(hops) if !hops.iter().all(|hop| chosen(hop.interface_index)) => {
                return None;
            }
            RouteAttribute::Oif(_) | RouteAttribute::MultiPath(_) => nowhere = true,
            _ => {}
        }
    }
    if !nowhere
        || route.header.table != RouteHeader::RT_TABLE_MAIN
        || route.header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let mut copy = route.clone();
    // The other flags and attributes are the route's state on the host.
    copy.header.flags &= RouteFlags::Onlink;
    copy.attributes.retain(|attribute| {
        !matches!(
            attribute,
            RouteAttribute::CacheInfo(_)
                | RouteAttribute::MfcStats(_)
                | RouteAttribute::Expires(_)
                | RouteAttribute::MulticastExpires(_)
        )
    });
    Some(copy)
}

#[cfg(test)]
mod tests {
    use linux::netlink::netlink_packet_route::{address::CacheInfo, route::RouteProtocol};

    use super::*;

    fn link(index: u32, name: &str, flags: LinkFlags, kind: LinkLayerType) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = flags;
        link.header.link_layer_type = kind;
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(9000),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
        ];
        link
    }

    fn address(index: u32, scope: AddressScope) -> AddressMessage {
        let mut address = AddressMessage::default();
        address.header.index = index;
        address.header.scope = scope;
        address.attributes = vec![
            AddressAttribute::Local([10, 0, 0, 2].into()),
            AddressAttribute::CacheInfo(CacheInfo::default()),
        ];
        address
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            links: vec![
                link(1, "lo", LinkFlags::Up | LinkFlags::Loopback, LinkLayerType::Loopback),
                link(2, "eth0", LinkFlags::Up, LinkLayerType::Ether),
                link(3, "eth1", LinkFlags::empty(), LinkLayerType::Ether),
                link(4, "eth2", LinkFlags::Up, LinkLayerType::Ether),
                link(5, "wg0", LinkFlags::Up, LinkLayerType::None),
            ],
            addresses: vec![
                address(1, AddressScope::Host),
                address(2, AddressScope::Universe),
                address(3, AddressScope::Universe),
                address(4, AddressScope::Link),
                address(5, AddressScope::Universe),
            ],
            ..Snapshot::default()
        }
    }

    #[test]
    fn configured_is_up_with_an_address_beyond_the_link() {
        let found = snapshot().configured();
        let names: Vec<_> = found.iter().map(|i| (i.name.as_str(), i.mtu, i.mac.is_some())).collect();
        assert_eq!(names, [("eth0", 9000, true), ("wg0", 9000, false)]);
    }

    #[test]
    fn an_address_is_copied_for_good_and_without_its_route() {
        let copy = copied_address(&address(2, AddressScope::Universe));
        let flags = AddressFlags::Noprefixroute | AddressFlags::Nodad;
        let expected = [AddressAttribute::Local([10, 0, 0, 2].into()), AddressAttribute::Flags(flags)];
        assert_eq!(copy.attributes, expected);
    }

    fn route(table: u8, oif: u32, gateway: bool) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.table = table;
        route.header.protocol = RouteProtocol::Boot;
        route.attributes.push(RouteAttribute::Oif(oif));
        if gateway {
            route.attributes.push(RouteAttribute::Gateway(std::net::Ipv4Addr::new(10, 0, 0, 1).into()));
        }
        route
    }

    #[test]
    fn routes_of_the_main_table_are_copied_gateways_last() {
        let mut snapshot = snapshot();
        let main = RouteHeader::RT_TABLE_MAIN;
        snapshot.routes =
            vec![route(main, 2, true), route(main, 2, false), route(255, 2, false), route(main, 1, false)];
        let chosen = snapshot.configured();
        let told = snapshot.for_guest(&chosen[..1]);
        assert_eq!(told.routes, [body(&route(main, 2, false)), body(&route(main, 2, true))]);
        assert_eq!((told.interfaces.len(), told.addresses.len()), (1, 1));
        assert_eq!(snapshot.addresses_of(&chosen[..1]), [IpAddr::from([10, 0, 0, 2])]);
    }
}
