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
use log::info;
use vm_launcher::Tap;

use super::{
    anti_spoofing::{self, Rule},
    filters::{guarded, ingress, unguarded},
    hold::{Hold, index_of, tap_of},
    netns::Netns,
    snapshot::{Interface, Snapshot},
    tap,
};
use crate::error::{Error, Result};

/// Joined interfaces. Undone when dropped; the VM must be gone by then, or dying.
pub struct Links {
    /// The taps of the VM's NICs.
    pub taps: Vec<Tap>,
    /// How the guest configures its NICs.
    pub guest: api::Network,
    /// The addresses that its NICs get.
    pub addresses: Vec<IpAddr>,
    hold: Hold,
}

impl Links {
    /// Joins every configured interface of `netns` to a tap, which lets through only frames from that interface's own
    /// addresses if `anti_spoofing`.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when there is none, or another VM has them; else what could not be
    /// done. Nothing stays behind.
    pub fn join(netns: &Netns, anti_spoofing: bool) -> Result<Links> {
        let (hold, (taps, guest, addresses)) = Hold::take(netns, || {
            let snapshot = Snapshot::take().map_err(|e| Error::internal("network = tap").because(e))?;
            let interfaces = few(usable(snapshot.configured()))?;
            let guest = snapshot.for_guest(&interfaces);
            let taps = interfaces.iter().map(|interface| {
                let name = tap_of(interface.index);
                tap::make(&name)?;
                let made = Netlink::open().and_then(|mut netlink| index_of(&mut netlink, &name));
                let made = made.map_err(|e| Error::internal(format!("find the tap {name}")).because(e))?;
                join((made, &name), interface, rules(&snapshot, interface, anti_spoofing))?;
                Ok(Tap { name, mac: interface.mac.unwrap_or_default() })
            });
            let taps: Result<Vec<_>> = taps.collect();
            Ok((taps?, guest, snapshot.addresses_of(&interfaces)))
        })?;
        Ok(Links { taps, guest, addresses, hold })
    }

    /// As of [`Hold::begin_removal`].
    pub fn begin_removal(&self) {
        self.hold.begin_removal();
    }
}

/// The interfaces that a NIC can replace.
pub fn usable(interfaces: Vec<Interface>) -> Vec<Interface> {
    let (usable, unfit): (Vec<_>, Vec<_>) =
        interfaces.into_iter().partition(|interface| interface.mac.is_some());
    for interface in &unfit {
        info!("interface {} is not like Ethernet: the VM has no NIC for it", interface.name);
    }
    usable
}

/// No more of them than a VM can have, and no fewer than one.
fn few(interfaces: Vec<Interface>) -> Result<Vec<Interface>> {
    match interfaces.len() {
        0 => Err(Error::precondition(
            "network = tap: the network namespace holds no configured interface like Ethernet; tsi needs none",
        )),
        1..=vm_launcher::config::MAX_DEVICES => Ok(interfaces),
        count => Err(Error::precondition(format!(
            "network = tap: the network namespace holds {count} configured interfaces: a VM has at most {}",
            vm_launcher::config::MAX_DEVICES
        ))),
    }
}

/// What may come through the tap of `interface`; without `anti_spoofing`, everything.
pub fn rules(snapshot: &Snapshot, interface: &Interface, anti_spoofing: bool) -> Option<Vec<Rule>> {
    let mac = interface.mac.unwrap_or_default();
    anti_spoofing.then(|| anti_spoofing::rules(mac, &snapshot.all_addresses_of(interface)))
}

/// Joins one interface of this thread's namespace to its tap, by index and name, which is down until then. `rules` say what comes through from there;
/// without any, everything does.
///
/// # Errors
/// What could not be done.
pub fn join((index, name): (u32, &str), interface: &Interface, rules: Option<Vec<Rule>>) -> Result<()> {
    let failed = |what: &str, e: io::Error| {
        Error::internal(format!("join the VM's NIC to interface {}: {what}", interface.name)).because(e)
    };
    let mut netlink = Netlink::open().map_err(|e| failed("open netlink", e))?;
    keep_silent(name);
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
    // Not before: a frame that no filter sees is the namespace's own to take.
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes.push(LinkAttribute::Mtu(interface.mtu));
    netlink.change(RouteNetlinkMessage::SetLink(link), 0).map_err(|e| failed("bring up the tap", e))
}

/// Without IPv6 the namespace's kernel sends nothing of its own over the tap.
#[expect(clippy::disallowed_methods, reason = "a path of /proc; no name of an interface leads elsewhere")]
fn keep_silent(tap: &str) {
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{tap}/disable_ipv6"), "1");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, mac: Option<[u8; 6]>) -> Interface {
        Interface { index, name: format!("eth{index}"), mac, mtu: 1500 }
    }

    #[test]
    fn interfaces_without_a_hardware_address_are_left_out_and_too_many_refused() {
        let mac = Some([2; 6]);
        assert_eq!(usable(vec![interface(1, None), interface(2, mac)]), [interface(2, mac)]);
        let error = few(usable(vec![interface(1, None)])).unwrap_err().to_string();
        assert!(error.contains("no configured interface"), "{error}");
        let error = few((0..7).map(|i| interface(i, mac)).collect()).unwrap_err().to_string();
        assert!(error.contains("holds 7") && error.contains("at most 6"), "{error}");
    }
}
