//! What may leave a guest through a NIC: frames from the hardware and network addresses of the interface that the NIC
//! stands for. Everything else is dropped at the tap, where the guest cannot change anything.
//!
//! The rules are filters of tc's u32, which compares bytes at fixed places, so that no header of the guest's can move
//! what is compared.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use linux::netlink::netlink_packet_route::tc::TcU32Key;

/// Protocols of a frame. Source: linux/if_ether.h.
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

/// Next headers of IPv6. Source: IANA, Assigned Internet Protocol Numbers.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;

/// The types of neighbour discovery that a router or the owner of an address sends. Source: RFC 4861.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// What a member of a multicast group sends, behind one hop-by-hop option. Source: RFC 2710, RFC 3810.
const MEMBERSHIPS: [u8; 3] = [131, 132, 143];

/// Where addresses and the like are, in bytes from the network header. Source: IEEE 802.3, RFC 791, RFC 826, RFC 8200,
/// RFC 4861.
mod at {
    pub const SOURCE_MAC: i32 = -8;
    pub const IPV4_SOURCE: i32 = 12;
    pub const ARP_KIND: i32 = 0;
    pub const ARP_SIZES: i32 = 4;
    pub const ARP_SENDER_MAC: i32 = 8;
    pub const ARP_SENDER: i32 = 14;
    pub const IPV6_NEXT_HEADER: i32 = 4;
    pub const IPV6_SOURCE: i32 = 8;
    pub const ICMPV6_TYPE: i32 = 40;
    pub const ADVERTISED: i32 = 48;
    /// Behind one option of eight bytes.
    pub const OPTION: i32 = 40;
    pub const TYPE_BEHIND_OPTION: i32 = 48;
}

/// What becomes of frames of `protocol` in which all `keys` match.
pub struct Rule {
    /// As in the frame's header.
    pub protocol: u16,
    /// Bytes that are compared.
    pub keys: Vec<TcU32Key>,
    /// Whether the frame may go on. Else it is dropped.
    pub passes: bool,
}

/// The rules for a NIC with these addresses, of which the first that matches decides.
pub fn rules(mac: [u8; 6], addresses: &[IpAddr]) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut rule = |protocol, passes, parts: &[Vec<TcU32Key>]| {
        rules.push(Rule { protocol, keys: parts.concat(), passes });
    };
    let from = hardware(at::SOURCE_MAC, mac);
    let arp = [
        // Ethernet's addresses for IPv4's, 6 and 4 bytes long.
        vec![
            key(at::ARP_KIND, [0, 1, 8, 0], [0xff; 4]),
            key(at::ARP_SIZES, [6, 4, 0, 0], [0xff, 0xff, 0, 0]),
        ],
        from.clone(),
        hardware(at::ARP_SENDER_MAC, mac),
    ]
    .concat();
    // Who asks whether an address is free has none yet. Source: RFC 5227.
    rule(ARP, true, &[arp.clone(), ipv4(at::ARP_SENDER, Ipv4Addr::UNSPECIFIED)]);
    let next_header = |number| key(at::IPV6_NEXT_HEADER, [0, 0, number, 0], [0, 0, 0xff, 0]);
    let icmp = |kind| vec![next_header(ICMPV6), key(at::ICMPV6_TYPE, [kind, 0, 0, 0], [0xff, 0, 0, 0])];
    for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
        rule(IPV6, false, &[icmp(kind)]);
    }
    let ipv6_addresses: Vec<_> = addresses.iter().filter_map(as_ipv6).chain([link_local(mac)]).collect();
    for address in &ipv6_addresses {
        let advertised = ipv6(at::ADVERTISED, *address);
        rule(
            IPV6,
            true,
            &[icmp(NEIGHBOUR_ADVERTISEMENT), from.clone(), ipv6(at::IPV6_SOURCE, *address), advertised],
        );
    }
    rule(IPV6, false, &[icmp(NEIGHBOUR_ADVERTISEMENT)]);
    for address in addresses {
        if let IpAddr::V4(address) = address {
            rule(IPV4, true, &[from.clone(), ipv4(at::IPV4_SOURCE, *address)]);
            rule(ARP, true, &[arp.clone(), ipv4(at::ARP_SENDER, *address)]);
        }
    }
    let ipv6_addresses: Vec<_> = ipv6_addresses.into_iter().chain([Ipv6Addr::UNSPECIFIED]).collect();
    for (address, kind) in ipv6_addresses.iter().flat_map(|address| MEMBERSHIPS.map(|kind| (address, kind))) {
        let membership = vec![
            next_header(HOP_BY_HOP),
            key(at::OPTION, [ICMPV6, 0, 0, 0], [0xff, 0xff, 0, 0]),
            key(at::TYPE_BEHIND_OPTION, [kind, 0, 0, 0], [0xff, 0, 0, 0]),
        ];
        rule(IPV6, true, &[membership, from.clone(), ipv6(at::IPV6_SOURCE, *address)]);
    }
    // Neighbour discovery could hide behind them.
    for number in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS] {
        rule(IPV6, false, &[vec![next_header(number)]]);
    }
    for address in ipv6_addresses {
        rule(IPV6, true, &[from.clone(), ipv6(at::IPV6_SOURCE, address)]);
    }
    rules
}

fn as_ipv6(address: &IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    }
}

/// The address that a kernel gives an interface for its link. Source: RFC 4291, appendix A.
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Compares four bytes at `offset`, as far as `mask` has bits.
fn key(offset: i32, value: [u8; 4], mask: [u8; 4]) -> TcU32Key {
    let mut key = TcU32Key::default();
    // As they are in the frame.
    (key.val, key.mask, key.off) = (u32::from_ne_bytes(value), u32::from_ne_bytes(mask), offset);
    key
}

fn hardware(offset: i32, [a, b, c, d, e, f]: [u8; 6]) -> Vec<TcU32Key> {
    vec![key(offset, [a, b, c, d], [0xff; 4]), key(offset + 4, [e, f, 0, 0], [0xff, 0xff, 0, 0])]
}

fn ipv4(offset: i32, address: Ipv4Addr) -> Vec<TcU32Key> {
    vec![key(offset, address.octets(), [0xff; 4])]
}

fn ipv6(offset: i32, address: Ipv6Addr) -> Vec<TcU32Key> {
    let octets = address.octets();
    let (parts, _) = octets.as_chunks::<4>();
    parts.iter().zip([0, 4, 8, 12]).map(|(part, within)| key(offset + within, *part, [0xff; 4])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0x11, 0x22, 0x33, 0x44, 0x55];
    const OTHER_MAC: [u8; 6] = [2, 0x11, 0x22, 0x33, 0x44, 0x56];

    fn addresses() -> [IpAddr; 2] {
        ["10.77.0.2".parse().unwrap(), "fd77::2".parse().unwrap()]
    }

    /// Whether a frame passes, by the rules' own reading: bytes that are not there match nothing, and what no rule
    /// names is dropped.
    fn passes(frame: &[u8]) -> bool {
        let protocol = u16::from_be_bytes([frame[12], frame[13]]);
        let matches = |key: &TcU32Key| {
            let start = usize::try_from(14 + key.off).unwrap();
            let bytes =
                frame.get(start..start + 4).map(|bytes| u32::from_ne_bytes(bytes.try_into().unwrap()));
            bytes.is_some_and(|bytes| bytes & key.mask == key.val)
        };
        let rules = rules(MAC, &addresses());
        let first = rules.iter().find(|rule| rule.protocol == protocol && rule.keys.iter().all(matches));
        first.is_some_and(|rule| rule.passes)
    }

    fn frame(mac: [u8; 6], protocol: u16, payload: &[u8]) -> Vec<u8> {
        [&[0xff; 6], &mac[..], &protocol.to_be_bytes(), payload].concat()
    }

    fn packet(mac: [u8; 6], source: &str) -> Vec<u8> {
        match source.parse().unwrap() {
            IpAddr::V4(source) => {
                frame(mac, IPV4, &[&[0x45; 12], &source.octets()[..], &[10, 0, 0, 9]].concat())
            }
            IpAddr::V6(source) => discovery(mac, source, 0, Ipv6Addr::UNSPECIFIED),
        }
    }

    fn arp(mac: [u8; 6], sender_mac: [u8; 6], sender: [u8; 4]) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, 2];
        frame(mac, ARP, &[&head[..], &sender_mac, &sender, &[0; 10]].concat())
    }

    fn discovery(mac: [u8; 6], source: Ipv6Addr, kind: u8, target: Ipv6Addr) -> Vec<u8> {
        let head = [0x60, 0, 0, 0, 0, 24, ICMPV6, 255];
        let icmp = [kind, 0, 0, 0, 0, 0, 0, 0];
        frame(mac, IPV6, &[&head[..], &source.octets(), &[0xff; 16], &icmp, &target.octets()].concat())
    }

    #[test]
    fn a_guests_own_frames_pass() {
        for source in ["10.77.0.2", "fd77::2", "fe80::11:22ff:fe33:4455", "::"] {
            assert!(passes(&packet(MAC, source)), "{source}");
        }
        for sender in [[10, 77, 0, 2], [0; 4]] {
            assert!(passes(&arp(MAC, MAC, sender)), "{sender:?}");
        }
        for address in ["fd77::2".parse().unwrap(), link_local(MAC)] {
            assert!(passes(&discovery(MAC, address, NEIGHBOUR_ADVERTISEMENT, address)), "{address}");
        }
    }

    #[test]
    fn others_addresses_do_not() {
        for source in ["10.77.0.1", "127.0.0.1", "0.0.0.0", "fd77::1", "fe80::1"] {
            assert!(!passes(&packet(MAC, source)), "{source}");
        }
        for source in ["10.77.0.2", "fd77::2"] {
            assert!(!passes(&packet(OTHER_MAC, source)), "{source}");
        }
    }

    #[test]
    fn a_guest_does_not_speak_for_its_neighbours() {
        assert!(!passes(&arp(MAC, MAC, [10, 77, 0, 1])));
        assert!(!passes(&arp(MAC, OTHER_MAC, [10, 77, 0, 2])));
        assert!(!passes(&arp(OTHER_MAC, MAC, [10, 77, 0, 2])));
        let (own, router) = ("fd77::2".parse().unwrap(), "fd77::1".parse().unwrap());
        assert!(!passes(&discovery(MAC, own, NEIGHBOUR_ADVERTISEMENT, router)));
        for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
            assert!(!passes(&discovery(MAC, link_local(MAC), kind, own)), "{kind}");
        }
    }

    #[test]
    fn nothing_hides_behind_options() {
        let source: Ipv6Addr = "fd77::2".parse().unwrap();
        let behind = |header: u8, next: u8, kind: u8| {
            let head = [0x60, 0, 0, 0, 0, 32, header, 255];
            let option = [next, 0, 1, 4, 0, 0, 0, 0];
            let icmp = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &[0xfd; 16]].concat();
            frame(MAC, IPV6, &[&head[..], &source.octets(), &[0xff; 16], &option, &icmp].concat())
        };
        for kind in MEMBERSHIPS {
            assert!(passes(&behind(HOP_BY_HOP, ICMPV6, kind)), "{kind}");
        }
        for header in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS] {
            for kind in [ROUTER_ADVERTISEMENT, NEIGHBOUR_ADVERTISEMENT, REDIRECT] {
                assert!(!passes(&behind(header, ICMPV6, kind)), "{kind} behind {header}");
            }
        }
        assert!(!passes(&behind(HOP_BY_HOP, DESTINATION_OPTIONS, MEMBERSHIPS[0])));
    }

    #[test]
    fn other_protocols_do_not_pass() {
        // A VLAN's tag, 802.1ad, IEEE 802.1X, and a length in place of a protocol.
        for protocol in [0x8100, 0x88a8, 0x888e, 0x0040] {
            assert!(!passes(&frame(MAC, protocol, &[0; 60])), "{protocol:#x}");
        }
    }
}
