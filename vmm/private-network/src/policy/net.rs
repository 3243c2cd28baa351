//! A network that a VM may connect to, as `--allow-net` says it.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use super::{METADATA, port};

/// A network that a VM may connect to: `10.0.0.0/8`, one address, and a TCP and UDP port if only that is allowed
/// (`10.0.0.0/8:443`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowNet {
    address: Ipv4Addr,
    prefix: u8,
    port: Option<u16>,
}

impl AllowNet {
    /// All ports of a network. The address's other bits must be zero.
    pub(crate) const fn new(address: Ipv4Addr, prefix: u8) -> AllowNet {
        AllowNet { address, prefix, port: None }
    }

    /// The only port that is allowed there.
    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether it has the address.
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.address.to_bits()
    }

    /// Whether it is within the network of the metadata services.
    pub(crate) fn is_metadata(&self) -> bool {
        self.prefix >= METADATA.prefix && METADATA.contains(self.address)
    }
}

/// The bits that the addresses of a network share.
fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// The network as nft takes it, without the port.
impl fmt::Display for AllowNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for AllowNet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('[') || text.matches(':').count() > 1 {
            return Err("a VM has no IPv6: it must be IPv4, as 10.0.0.0/8:443".to_owned());
        }
        let (net, port) = port::split(text)?;
        let (address, prefix) = net.split_once('/').unwrap_or((net, "32"));
        let address = address.parse::<Ipv4Addr>().map_err(|_| {
            format!("{address:?} is no IPv4 address: it must be NET[:PORT], as 10.0.0.0/8:443 or 192.0.2.7")
        })?;
        let prefix = match prefix.parse::<u8>() {
            Ok(bits @ 0..=32) if !prefix.starts_with('+') => bits,
            _ => {
                return Err(format!("{prefix:?} is no length of a prefix: it must be a number from 0 to 32"));
            }
        };
        let first = Ipv4Addr::from_bits(address.to_bits() & mask(prefix));
        if first != address {
            return Err(format!(
                "{address}/{prefix} is no network: its first address is {first}, so write {first}/{prefix}"
            ));
        }
        Ok(AllowNet { address, prefix, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_a_prefix_and_maybe_a_port() {
        let net: AllowNet = "10.0.0.0/8:443".parse().unwrap();
        assert_eq!((net.to_string().as_str(), net.port()), ("10.0.0.0/8", Some(443)));
        assert!(net.contains(Ipv4Addr::new(10, 255, 0, 1)) && !net.contains(Ipv4Addr::new(11, 0, 0, 0)));
        let one: AllowNet = "192.0.2.7".parse().unwrap();
        assert_eq!((one.to_string().as_str(), one.port()), ("192.0.2.7/32", None));
        let all: AllowNet = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST) && !all.is_metadata());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in [
            ("", "NET[:PORT]"),
            ("example.com", "IPv4 address"),
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("10.0.0.0/33", "0 to 32"),
            ("10.0.0.0/+8", "0 to 32"),
            ("10.0.0.0/8:0", "1 to 65535"),
            ("fd00::/8", "no IPv6"),
            ("[::1]:80", "no IPv6"),
        ] {
            let error = text.parse::<AllowNet>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
