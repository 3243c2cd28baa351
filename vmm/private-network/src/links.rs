//! The veth pair: `krun<N>` on the host, `eth0` in the VM's namespace.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
};

use linux::{
    loopback,
    netlink::{
        Netlink,
        netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL},
        netlink_packet_route::{
            AddressFamily, RouteNetlinkMessage,
            address::{AddressAttribute, AddressMessage},
            link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
            route::{
                RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
            },
        },
    },
};
use nix::net::if_::if_nametoindex;

use crate::{
    error::{Error, Result},
    netns::Netns,
    slot::{LINKS, PREFIX, Slot},
};

/// The interface in the VM's namespace.
const INNER: &str = "eth0";

/// Set on the host's interface, so that what is left of a VM is found: the name of its table.
type Alias<'a> = &'a str;

/// The pair; it goes when this is dropped.
pub struct Pair {
    slot: Slot,
}

impl Pair {
    /// Makes it with the first number that is free, down and without rules.
    pub fn make(inner: &Netns, alias: Alias) -> Result<Pair> {
        let failed = "make a veth pair for the VM";
        let mut netlink = Netlink::open().map_err(Error::at(failed))?;
        let taken = addresses(&mut netlink).map_err(Error::at("list the host's addresses"))?;
        let free = Slot::all().filter(|slot| !taken.iter().any(|(net, prefix)| slot.overlaps(*net, *prefix)));
        for slot in free {
            match make(&mut netlink, slot, inner) {
                // Another VM has it, or one is just being made.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error) => {
                    return Err(Error::new(format!(
                        "{failed}, {slot}: {error} (it needs root and the module veth)"
                    )));
                }
                Ok(()) => {
                    let pair = Pair { slot };
                    prepare(&mut netlink, slot, alias)
                        .map_err(Error::at(format!("prepare interface {slot}")))?;
                    return Ok(pair);
                }
            }
        }
        Err(Error::new(format!(
            "{failed}: no /30 of 10.213.0.0/16 is free: the host's interfaces or other VMs have them all"
        )))
    }

    /// Its number.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Brings it up, with the VM's address and its way out.
    pub fn bring_up(&self, inner: &Netns) -> Result<()> {
        let slot = self.slot;
        let up = Netlink::open().and_then(|mut netlink| set_up(&mut netlink, &slot.to_string()));
        up.map_err(Error::at(format!("bring up interface {slot}")))?;
        let configured = inner.run(|| {
            loopback::bring_up()?;
            no_ipv6(INNER);
            let mut netlink = Netlink::open()?;
            add_address(&mut netlink, INNER, slot.address())?;
            set_up(&mut netlink, INNER)?;
            add_default_route(&mut netlink, slot.gateway())
        });
        configured.map_err(Error::at(format!("configure {INNER} of the VM's network namespace")))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let removed = Netlink::open().and_then(|mut netlink| remove(&mut netlink, &self.slot.to_string()));
        if let Err(error) = removed {
            log::warn!("remove interface {}: {error}", self.slot);
        }
    }
}

/// Removes the host's interfaces of a VM that is no more.
pub fn remove_left(alias: Alias) -> Result<()> {
    let failed = "remove what is left of a VM's interfaces";
    let mut netlink = Netlink::open().map_err(Error::at(failed))?;
    let links =
        netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).map_err(Error::at(failed))?;
    for message in links {
        let RouteNetlinkMessage::NewLink(link) = message else { continue };
        let is_left = link.attributes.contains(&LinkAttribute::IfAlias(alias.to_owned()));
        let name = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) if name.starts_with(LINKS) => Some(name),
            _ => None,
        });
        if let Some(name) = name.filter(|_| is_left) {
            remove(&mut netlink, &name).map_err(Error::at(format!("{failed}, {name}")))?;
        }
    }
    Ok(())
}

/// The IPv4 addresses of this thread's network namespace, with the prefixes of their networks.
pub fn addresses(netlink: &mut Netlink) -> io::Result<Vec<(Ipv4Addr, u8)>> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    let found = netlink.dump(RouteNetlinkMessage::GetAddress(request))?;
    let addresses = found.into_iter().filter_map(|message| {
        let RouteNetlinkMessage::NewAddress(message) = message else { return None };
        let prefix = message.header.prefix_len;
        message.attributes.into_iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some((address, prefix)),
            _ => None,
        })
    });
    Ok(addresses.collect())
}

fn make(netlink: &mut Netlink, slot: Slot, inner: &Netns) -> io::Result<()> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![LinkAttribute::IfName(INNER.to_owned()), LinkAttribute::NetNsFd(inner.fd())];
    let mut link = LinkMessage::default();
    let kind = LinkInfo::Kind(InfoKind::Veth);
    let info = vec![kind, LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
    link.attributes = vec![LinkAttribute::IfName(slot.to_string()), LinkAttribute::LinkInfo(info)];
    netlink.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
}

fn prepare(netlink: &mut Netlink, slot: Slot, alias: Alias) -> io::Result<()> {
    let name = slot.to_string();
    let mut link = LinkMessage::default();
    link.header.index = if_nametoindex(name.as_str())?;
    link.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
    netlink.change(RouteNetlinkMessage::SetLink(link), 0)?;
    no_ipv6(&name);
    add_address(netlink, &name, slot.gateway())
}

/// Keeps the kernel from sending anything of its own there. What a guest sends is dropped anyway.
fn no_ipv6(name: &str) {
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
}

fn add_address(netlink: &mut Netlink, name: &str, address: Ipv4Addr) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = PREFIX;
    message.header.index = if_nametoindex(name)?;
    let address = IpAddr::V4(address);
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    netlink.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn set_up(netlink: &mut Netlink, name: &str) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = if_nametoindex(name)?;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    netlink.change(RouteNetlinkMessage::SetLink(link), 0)
}

fn add_default_route(netlink: &mut Netlink, gateway: Ipv4Addr) -> io::Result<()> {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
    netlink.change(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL)
}

/// Removes an interface, unless it is gone: it goes with the namespace of its other side.
fn remove(netlink: &mut Netlink, name: &str) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = match if_nametoindex(name) {
        Ok(index) => index,
        Err(nix::errno::Errno::ENODEV) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    match netlink.change(RouteNetlinkMessage::DelLink(link), 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        removed => removed,
    }
}
