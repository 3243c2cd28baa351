//! The network namespace whose interfaces a VM has. Our taps in it are known by their names, so that whoever has the namespace
//! next can remove what a shim that died has left.

use std::{
    io,
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use linux::netlink::{
    Netlink,
    netlink_packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
};
use log::warn;

use super::{
    filters::ingress,
    netns::{Claim, Netns},
};
use crate::error::{Error, Result};

/// What our taps are called, before the index of their interface, which is 0 as long as there is none.
const PREFIX: &str = "krun";

/// A namespace that one VM has. Its taps are removed when this is dropped; the VM must be gone by then, or dying.
pub struct Hold {
    netns: Netns,
    removal: Mutex<Option<JoinHandle<bool>>>,
    _claim: Claim,
}

impl Hold {
    /// Takes `netns`, removes what is left there, and then does `work` in it, which must not block.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when another VM has it; what could not be removed; those of `work`.
    pub fn take<T: Send>(netns: &Netns, work: impl FnOnce() -> Result<T> + Send) -> Result<(Hold, T)> {
        let failed = |e: io::Error| Error::internal("network = tap").because(e);
        let claim = netns.claim().map_err(failed)?.ok_or_else(|| {
            Error::precondition(
                "network = tap: another VM has the interfaces of this network namespace: \
                 one can have them at a time",
            )
        })?;
        let hold =
            Hold { netns: netns.try_clone().map_err(failed)?, removal: Mutex::default(), _claim: claim };
        let done = hold.netns.run(|| {
            undo().map_err(failed)?;
            work()
        });
        let done = done.map_err(failed)??;
        Ok((hold, done))
    }

    /// Begins to remove the taps of a VM that was killed: its process takes its time to go, and the kernel to remove a tap.
    pub fn begin_removal(&self) {
        let mut removal = self.removal.lock().unwrap_or_else(PoisonError::into_inner);
        if removal.is_none()
            && let Ok(netns) = self.netns.try_clone()
        {
            *removal = thread::Builder::new().name("taps".to_owned()).spawn(move || remove(&netns)).ok();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let begun = self.removal.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        match begun.map(JoinHandle::join) {
            Some(Ok(true)) => {}
            _ => {
                remove(&self.netns);
            }
        }
    }
}

/// Whether all taps went.
fn remove(netns: &Netns) -> bool {
    match netns.run(undo) {
        Ok(Ok(())) => true,
        Ok(Err(error)) | Err(error) => {
            warn!("remove the taps: {error}");
            false
        }
    }
}

/// Removes from `netns` what a shim that died has left there.
pub fn remove_leftovers(netns: &Netns) {
    if let (Ok(false), Ok(Some(_claim))) = (netns.is_host(), netns.claim()) {
        remove(netns);
    }
}

/// The name of the tap that belongs to an interface.
pub fn tap_of(interface: u32) -> String {
    format!("{PREFIX}{interface}")
}

/// The index of the interface that the tap `name` belongs to, if it is one of ours.
fn interface_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok().filter(|index| tap_of(*index) == name)
}

/// Whether an interface of this name is a tap of ours.
pub fn is_ours(name: &str) -> bool {
    interface_of(name).is_some()
}

/// The index of an interface of this thread's namespace.
///
/// # Errors
/// `NotFound` when there is none of this name; netlink's.
pub fn index_of(netlink: &mut Netlink, name: &str) -> io::Result<u32> {
    let found = named(netlink)?.into_iter().find(|found| found.name == name);
    found.map(|found| found.index).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// An interface.
pub struct Found {
    pub index: u32,
    pub name: String,
    /// Whether it is a tun or a tap.
    pub is_tun: bool,
}

/// Every interface of this thread's namespace that has a name.
///
/// # Errors
/// Netlink's.
pub fn named(netlink: &mut Netlink) -> io::Result<Vec<Found>> {
    let links = netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let found = |link: LinkMessage| {
        let (mut name, mut is_tun) = (None, false);
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(found) => name = Some(found),
                LinkAttribute::LinkInfo(info) => is_tun = info.contains(&LinkInfo::Kind(InfoKind::Tun)),
                _ => {}
            }
        }
        Some(Found { index: link.header.index, name: name?, is_tun })
    };
    let links = links.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => found(link),
        _ => None,
    });
    Ok(links.collect())
}

/// Removes our taps from this thread's namespace, and before each the qdisc that joins an interface to it: a tap that is there still
/// says what is left. One that cannot go keeps no other one.
fn undo() -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let mut all = Ok(());
    for found in named(&mut netlink)?.into_iter().filter(|found| found.is_tun) {
        let Some(interface) = interface_of(&found.name) else { continue };
        let mut tap = LinkMessage::default();
        tap.header.index = found.index;
        for removal in
            [RouteNetlinkMessage::DelQueueDiscipline(ingress(interface)), RouteNetlinkMessage::DelLink(tap)]
        {
            let removed = netlink.change(removal, 0);
            match removed.as_ref().map_err(io::Error::raw_os_error) {
                // The interface is gone, or never got its qdisc.
                Err(Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)) => {}
                _ => all = all.and(removed),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_taps_are_known() {
        assert_eq!(interface_of(&tap_of(12)), Some(12));
        for foreign in ["krun", "krun-1", "krun+5", "krun007", "krunx", "eth0", "tap0"] {
            assert_eq!(interface_of(foreign), None, "{foreign}");
        }
    }
}
