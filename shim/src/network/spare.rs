//! A NIC for an interface that may come later. A namespace that holds none when the VM boots gets a tap that is joined to nothing,
//! and down: no frame passes it. Once the namespace has an interface, as after `ctr run --cni`, the tap is joined to that.

use std::{
    io,
    net::IpAddr,
    os::fd::AsRawFd,
    sync::{Mutex, PoisonError, TryLockError},
};

use guest_protocol::api;
use linux::netlink::{
    Netlink,
    netlink_packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage},
    },
};
use log::{info, warn};
use vm_launcher::Tap;

use super::{
    hold::{Hold, index_of, tap_of},
    links::{self, join},
    netns::Netns,
    snapshot::Snapshot,
    tap,
};
use crate::error::{Error, Result};

/// The hardware address of the guest's NIC until it is joined: libkrun fixes it at boot. Nothing is sent from it.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// No interface's index.
const NO_INTERFACE: u32 = 0;

/// A spare NIC's tap, or why there is none: the VM has its loopback interface only, then. Undone when dropped; the VM must be gone
/// by then, or dying.
pub struct Spare {
    netns: Netns,
    /// With the tap's index.
    hold: std::result::Result<(Hold, u32), Error>,
    state: Mutex<State>,
}

/// What has become of the tap.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is joined to nothing.
    Spare,
    Joined,
    /// It is being removed.
    Gone,
}

/// What a NIC is joined to.
pub struct Joined {
    /// How the guest configures it.
    pub guest: api::Network,
    /// The addresses that it gets.
    pub addresses: Vec<IpAddr>,
}

impl Spare {
    /// Makes one in `netns`.
    ///
    /// # Errors
    /// When there are too many files open.
    pub fn make(netns: &Netns) -> Result<Spare> {
        Spare::with(netns, || make().map(drop))
    }

    /// Takes the tap of a VM that has waited in the network namespace `from` to `netns`.
    ///
    /// # Errors
    /// When there are too many files open.
    pub fn take(from: &Netns, netns: &Netns) -> Result<Spare> {
        Spare::with(netns, || from.run(|| move_to(netns)).and_then(|moved| moved).map_err(failed))
    }

    fn with(netns: &Netns, get: impl FnOnce() -> Result<()> + Send) -> Result<Spare> {
        let made = Hold::take(netns, || {
            get()?;
            Netlink::open()
                .and_then(|mut netlink| index_of(&mut netlink, &tap_of(NO_INTERFACE)))
                .map_err(failed)
        });
        let hold = made.inspect_err(|error| warn!("no NIC for an interface that comes later: {error}"));
        let netns = netns.try_clone().map_err(failed)?;
        Ok(Spare { netns, hold, state: Mutex::new(State::Spare) })
    }

    /// The tap, which a VM opens once.
    pub fn tap(&self) -> Option<Tap> {
        self.hold.is_ok().then(tap)
    }

    /// As of [`Hold::begin_removal`]; not while it is being joined.
    pub fn begin_removal(&self) {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        *state = State::Gone;
        self.hold.iter().for_each(|(hold, _)| hold.begin_removal());
    }

    /// Joins the tap to the first configured interface that the namespace has by now, if it has one. The VM must have opened the
    /// tap: it has another name afterwards. Only the first call does something.
    ///
    /// # Errors
    /// When there is an interface, and no tap; what could not be done.
    pub fn join(&self, anti_spoofing: bool) -> Result<Option<Joined>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            State::Spare => {}
            State::Joined => return Ok(None),
            State::Gone => return Err(Error::precondition("the VM was killed")),
        }
        let joined = self.netns.run(|| {
            let snapshot = Snapshot::take().map_err(failed)?;
            let own = self.hold.as_ref().ok().map(|(_, index)| *index);
            let mut configured = snapshot.configured();
            // Somebody may have configured the tap itself.
            configured.retain(|interface| Some(interface.index) != own);
            let is_empty = configured.is_empty();
            let mut interfaces = links::usable(configured);
            let Some(interface) = interfaces.first() else {
                if !is_empty {
                    warn!("the network namespace got interfaces that no NIC can stand for: network = tsi reaches them");
                }
                return Ok(None);
            };
            let (_, tap) = self.hold.as_ref().map_err(Error::clone)?;
            let name = tap_of(interface.index);
            rename(*tap, &name).map_err(failed)?;
            join((*tap, &name), interface, links::rules(&snapshot, interface, anti_spoofing))?;
            info!("the VM's NIC is joined to interface {}", interface.name);
            if interfaces.len() > 1 {
                let more = interfaces.len() - 1;
                warn!("{more} more interfaces came after the VM, which has one NIC for such");
                interfaces.truncate(1);
            }
            let mut guest = snapshot.for_guest(&interfaces);
            guest.interfaces.iter_mut().for_each(|interface| interface.nic = MAC.into());
            Ok::<_, Error>(Some(Joined { guest, addresses: snapshot.addresses_of(&interfaces) }))
        });
        let joined = joined.map_err(failed)??;
        if joined.is_some() {
            *state = State::Joined;
        }
        Ok(joined)
    }
}

fn tap() -> Tap {
    Tap { name: tap_of(NO_INTERFACE), mac: MAC }
}

/// Makes the tap of a VM that is to wait in this thread's network namespace.
///
/// # Errors
/// What could not be done.
pub fn make() -> Result<Tap> {
    let tap = tap();
    tap::make(&tap.name)?;
    Ok(tap)
}

/// Moves the tap from this thread's network namespace to another one, where no interface has its name.
fn move_to(netns: &Netns) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let mut link = LinkMessage::default();
    link.header.index = index_of(&mut netlink, &tap_of(NO_INTERFACE))?;
    link.attributes = vec![LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd())];
    netlink.change(RouteNetlinkMessage::SetLink(link), 0)
}

fn failed(error: io::Error) -> Error {
    Error::internal("join the VM's NIC to an interface").because(error)
}

/// Gives an interface of this thread's namespace, which is down, another name.
fn rename(index: u32, to: &str) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::IfName(to.to_owned())];
    netlink.change(RouteNetlinkMessage::SetLink(link), 0)
}

#[cfg(test)]
mod tests {
    use nix::{
        sched::{CloneFlags, unshare},
        unistd::Uid,
    };

    use super::{super::hold::named, *};

    /// Names of the interfaces in `netns`, in alphabetical order.
    fn interfaces(netns: &Netns) -> Vec<String> {
        let listed = netns.run(|| named(&mut Netlink::open().unwrap()).unwrap()).unwrap();
        let mut names: Vec<_> = listed.into_iter().map(|found| found.name).collect();
        names.sort_unstable();
        names
    }

    /// A new namespace, as two shims have it, or none for who may not make one, or has no taps.
    fn namespace() -> Option<(Netns, Netns)> {
        if !Uid::effective().is_root() || !std::path::Path::new("/dev/net/tun").exists() {
            eprintln!("skipped: taps need root and /dev/net/tun");
            return None;
        }
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).ok()?;
            let open = || Netns::open(std::path::Path::new("/proc/thread-self/ns/net")).ok();
            open().zip(open())
        });
        made.join().unwrap()
    }

    #[test]
    fn one_vm_has_a_spare_nic_and_the_next_one_finds_nothing() {
        let Some((netns, again)) = namespace() else { return };
        let spare = Spare::make(&netns).unwrap();
        assert_eq!(spare.tap(), Some(Tap { name: "krun0".to_owned(), mac: MAC }));
        assert_eq!(interfaces(&netns), ["krun0", "lo"]);
        let second = Spare::make(&again).unwrap();
        assert_eq!(second.tap(), None);
        // Nothing has come.
        assert!(second.join(true).unwrap().is_none() && spare.join(true).unwrap().is_none());
        drop(second);
        assert_eq!(interfaces(&netns), ["krun0", "lo"]);
        spare.begin_removal();
        assert!(spare.join(true).err().unwrap().to_string().contains("killed"));
        drop(spare);
        assert_eq!(interfaces(&netns), ["lo"]);
    }
}
