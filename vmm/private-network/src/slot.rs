//! The addresses that VMs get: each VM a /30 of 10.213.0.0/16, and an interface of the host with that one's number.

use std::{fmt, net::Ipv4Addr};

/// What all VMs' addresses are of.
const ALL: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 0);

/// Bits of a VM's network.
pub const PREFIX: u8 = 30;

/// What the names of all VMs' interfaces on the host begin with.
pub const LINKS: &str = "krun";

/// The number of one VM's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u16);

impl Slot {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Slot> {
        (0..1 << 14).map(Slot)
    }

    /// The host's address in it.
    pub fn gateway(self) -> Ipv4Addr {
        self.at(1)
    }

    /// The VM's address.
    pub fn address(self) -> Ipv4Addr {
        self.at(2)
    }

    /// Whether it has an address of a network with this prefix.
    pub fn overlaps(self, network: Ipv4Addr, prefix: u8) -> bool {
        let bits = u32::from(prefix.min(PREFIX));
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        (self.at(0).to_bits() ^ network.to_bits()) & mask == 0
    }

    fn at(self, host: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(ALL.to_bits() | u32::from(self.0) << (32 - PREFIX) | host)
    }
}

/// The name of its interface on the host.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LINKS}{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_no_address() {
        let (first, last) = (Slot(0), Slot::all().last().unwrap());
        assert_eq!(first.gateway(), Ipv4Addr::new(10, 213, 0, 1));
        assert_eq!(first.address(), Ipv4Addr::new(10, 213, 0, 2));
        assert_eq!(Slot(64).address(), Ipv4Addr::new(10, 213, 1, 2));
        assert_eq!(last.address(), Ipv4Addr::new(10, 213, 255, 254));
        assert_eq!(last.to_string(), "krun16383");
    }

    #[test]
    fn a_network_of_the_hosts_overlaps() {
        assert!(
            Slot(1).overlaps(Ipv4Addr::new(10, 0, 0, 7), 8)
                && Slot(1).overlaps(Ipv4Addr::new(10, 213, 0, 6), 32)
        );
        assert!(
            !Slot(1).overlaps(Ipv4Addr::new(10, 213, 0, 1), 30)
                && !Slot(1).overlaps(Ipv4Addr::new(10, 0, 0, 7), 24)
        );
        assert!(Slot(1).overlaps(Ipv4Addr::new(192, 0, 2, 1), 0));
    }
}
