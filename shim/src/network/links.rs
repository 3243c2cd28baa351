//! Joins the interfaces of a namespace to a VM's NICs. Each interface has a tap beside it, and tc redirects what comes
//! in on one to the other (an ingress qdisc, a filter that matches all, mirred). The namespace's own network stack sees
//! none of it: the interface keeps the addresses that CNI gave it, and the guest uses them.

use std::{fs, io, net::IpAddr};

use guest_protocol::api;
use linux::netlink::{
    Netlink,
    netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    netlink_packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkFlags, LinkMessage},
    },
};
use log::{info, warn};
use vm_launcher::Tap;

use super::{
    anti_spoofing::{self, Rule},
    filters::{guarded, ingress, unguarded},
    netns::{Claim, Netns},
    snapshot::{Interface, Snapshot},
    tap,
};
use crate::error::{Error, Result};

/// What our taps are called, before the index of their interface.
const PREFIX: &str = "krun";

/// Joined interfaces. Undone when dropped; the VM must be gone by then.
pub struct Links {
    netns: Netns,
    /// The taps of the VM's NICs.
    pub taps: Vec<Tap>,
    /// How the guest configures its NICs.
    pub guest: api::Network,
    /// The addresses that its NICs get.
    pub addresses: Vec<IpAddr>,
    _claim: Claim,
}

impl Links {
    /// Joins every configured interface of `netns` to a tap, which lets through only frames from that interface's own
    /// addresses if `anti_spoofing`.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when there is none, or another VM has them; else what could not be
    /// done. Nothing stays behind.
    pub fn join(netns: &Netns, anti_spoofing: bool) -> Result<Links> {
        let held = |e: io::Error| Error::internal("network = tap").because(e);
        let claim = netns.claim().map_err(held)?.ok_or_else(|| {
            Error::precondition(
                "network = tap: another VM has the interfaces of this network namespace: \
                 one can have them at a time",
            )
        })?;
        let mut links = Links {
            netns: netns.try_clone().map_err(held)?,
            taps: Vec::new(),
            guest: api::Network::new(),
            addresses: Vec::new(),
            _claim: claim,
        };
        let (taps, guest, addresses) = links
            .netns
            .run(|| {
                // A shim that died may have left some.
                undo().map_err(held)?;
                let snapshot = Snapshot::take().map_err(held)?;
                let interfaces = usable(snapshot.configured())?;
                let guest = snapshot.for_guest(&interfaces);
                let taps = interfaces.iter().map(|interface| {
                    let rules = anti_spoofing.then(|| {
                        let mac = interface.mac.unwrap_or_default();
                        anti_spoofing::rules(mac, &snapshot.all_addresses_of(interface))
                    });
                    join(interface, rules)
                });
                let taps: Result<Vec<_>> = taps.collect();
                Ok::<_, Error>((taps?, guest, snapshot.addresses_of(&interfaces)))
            })
            .map_err(held)??;
        (links.taps, links.guest, links.addresses) = (taps, guest, addresses);
        Ok(links)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        match self.netns.run(undo) {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => warn!("remove the taps: {error}"),
        }
    }
}

/// Removes from `netns` what a shim that died has left there.
pub fn remove_leftovers(netns: &Netns) {
    let removed = match (netns.is_host(), netns.claim()) {
        (Ok(false), Ok(Some(_claim))) => netns.run(undo),
        _ => return,
    };
    if let Ok(Err(error)) | Err(error) = removed {
        warn!("remove the taps: {error}");
    }
}

/// The interfaces that a NIC can replace.
fn usable(interfaces: Vec<Interface>) -> Result<Vec<Interface>> {
    let (usable, unfit): (Vec<_>, Vec<_>) =
        interfaces.into_iter().partition(|interface| interface.mac.is_some());
    for interface in &unfit {
        info!("interface {} is not like Ethernet: the VM has no NIC for it", interface.name);
    }
    match usable.len() {
        0 => Err(Error::precondition(
            "network = tap: the network namespace holds no configured interface like Ethernet; tsi needs none",
        )),
        1..=vm_launcher::config::MAX_NICS => Ok(usable),
        count => Err(Error::precondition(format!(
            "network = tap: the network namespace holds {count} configured interfaces: a VM has at most {}",
            vm_launcher::config::MAX_NICS
        ))),
    }
}

/// Joins one interface of this thread's namespace to a new tap. `rules` say what comes through from there; without any,
/// everything does.
#[expect(clippy::disallowed_methods, reason = "a path of /proc; no name of an interface leads elsewhere")]
fn join(interface: &Interface, rules: Option<Vec<Rule>>) -> Result<Tap> {
    let name = format!("{PREFIX}{}", interface.index);
    let failed = |what: &str, e: io::Error| {
        Error::internal(format!("network = tap: {what} (interface {})", interface.name)).because(e)
    };
    tap::make(&name)?;
    let mut netlink = Netlink::open().map_err(|e| failed("open netlink", e))?;
    let index = index_of(&mut netlink, &name).map_err(|e| failed("find the tap", e))?;
    // Without IPv6 the namespace's kernel sends nothing of its own over the tap.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes.push(LinkAttribute::Mtu(interface.mtu));
    netlink.change(RouteNetlinkMessage::SetLink(link), 0).map_err(|e| failed("bring up the tap", e))?;
    let from_guest = match rules {
        Some(rules) => guarded(rules, interface.index),
        None => unguarded(interface.index),
    };
    let directions = [(interface.index, unguarded(index)), (index, from_guest)];
    for (from, filters) in directions {
        netlink
            .change(RouteNetlinkMessage::NewQueueDiscipline(ingress(from)), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|e| failed("add an ingress qdisc", e))?;
        for mut filter in filters {
            filter.header.index = from as i32;
            netlink
                .change(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE | NLM_F_EXCL)
                .map_err(|e| failed("add a filter", e))?;
        }
    }
    Ok(Tap { name, mac: interface.mac.unwrap_or_default() })
}

fn index_of(netlink: &mut Netlink, name: &str) -> io::Result<u32> {
    let taps = named(netlink)?;
    let found = taps.into_iter().find(|(_, found)| found == name);
    found.map(|(index, _)| index).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Every interface of this thread's namespace with its name.
fn named(netlink: &mut Netlink) -> io::Result<Vec<(u32, String)>> {
    let links = netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let name = |link: LinkMessage| {
        link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some((link.header.index, name)),
            _ => None,
        })
    };
    let links = links.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => name(link),
        _ => None,
    });
    Ok(links.collect())
}

/// Removes our taps from this thread's namespace, and the qdiscs that join them to interfaces.
fn undo() -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    for (index, name) in named(&mut netlink)? {
        let Some(interface) = interface_of(&name) else { continue };
        let mut tap = LinkMessage::default();
        tap.header.index = index;
        netlink.change(RouteNetlinkMessage::DelLink(tap), 0)?;
        let removed = netlink.change(RouteNetlinkMessage::DelQueueDiscipline(ingress(interface)), 0);
        match removed.as_ref().map_err(io::Error::raw_os_error) {
            // The interface is gone, or never got its qdisc.
            Err(Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)) => {}
            _ => removed?,
        }
    }
    Ok(())
}

/// The index of the interface that the tap `name` belongs to, if it is one of ours.
fn interface_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, mac: Option<[u8; 6]>) -> Interface {
        Interface { index, name: format!("eth{index}"), mac, mtu: 1500 }
    }

    #[test]
    fn only_our_own_taps_are_known() {
        assert_eq!(interface_of("krun12"), Some(12));
        for foreign in ["krun", "krun-1", "krunx", "eth0", "tap0"] {
            assert_eq!(interface_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn interfaces_without_a_hardware_address_are_left_out_and_too_many_refused() {
        let mac = Some([2; 6]);
        assert_eq!(usable(vec![interface(1, None), interface(2, mac)]).unwrap(), [interface(2, mac)]);
        let error = usable(vec![interface(1, None)]).unwrap_err().to_string();
        assert!(error.contains("no configured interface"), "{error}");
        let error = usable((0..7).map(|i| interface(i, mac)).collect()).unwrap_err().to_string();
        assert!(error.contains("holds 7") && error.contains("at most 6"), "{error}");
    }
}
