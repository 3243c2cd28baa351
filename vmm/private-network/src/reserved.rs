//! Addresses that are nobody's on the Internet. A name that leads to one of them may be somebody's try to have a VM reach what
//! is near the host (DNS rebinding).

use std::net::Ipv4Addr;

use crate::policy::AllowNet;

/// Source: IANA's registry of special-purpose IPv4 addresses (RFC 6890). Those for documentation are left out: nobody has them.
const NETS: [AllowNet; 12] = [
    AllowNet::new(Ipv4Addr::new(0, 0, 0, 0), 8),
    AllowNet::new(Ipv4Addr::new(10, 0, 0, 0), 8),
    AllowNet::new(Ipv4Addr::new(100, 64, 0, 0), 10),
    AllowNet::new(Ipv4Addr::new(127, 0, 0, 0), 8),
    crate::policy::METADATA,
    AllowNet::new(Ipv4Addr::new(172, 16, 0, 0), 12),
    AllowNet::new(Ipv4Addr::new(192, 0, 0, 0), 24),
    AllowNet::new(Ipv4Addr::new(192, 88, 99, 0), 24),
    AllowNet::new(Ipv4Addr::new(192, 168, 0, 0), 16),
    AllowNet::new(Ipv4Addr::new(198, 18, 0, 0), 15),
    AllowNet::new(Ipv4Addr::new(224, 0, 0, 0), 4),
    AllowNet::new(Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Whether it is one.
pub fn contains(address: Ipv4Addr) -> bool {
    NETS.iter().any(|net| net.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_addresses_are_known() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.53",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.1.1",
            "255.255.255.255",
        ] {
            assert!(contains(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "93.184.215.14", "203.0.113.7"] {
            assert!(!contains(address.parse().unwrap()), "{address}");
        }
    }
}
