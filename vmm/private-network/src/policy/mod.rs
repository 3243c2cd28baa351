//! Where a VM may connect to.

mod host;
mod net;
mod port;

use std::net::Ipv4Addr;

pub use host::AllowHost;
pub use net::AllowNet;

/// Where clouds answer a machine's questions about itself, often with credentials. It must be listed to be reached.
pub(crate) const METADATA: AllowNet = AllowNet::new(Ipv4Addr::new(169, 254, 0, 0), 16);

/// Where a VM may connect to. Nothing in it: everywhere but 169.254.0.0/16, where clouds have their metadata services.
/// Anything in it: only to what is listed. The host itself and other VMs are out of reach, listed or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Nowhere, but to what the others list. No name is resolved, but those of `hosts`: a query can carry a message to whoever
    /// answers it.
    pub deny_all: bool,
    /// Networks that the VM may connect to. Only one that is within 169.254.0.0/16 allows an address there. Without the two
    /// others, every name is resolved.
    pub nets: Vec<AllowNet>,
    /// Names that the VM may connect to. When there is one, no other name is resolved.
    pub hosts: Vec<AllowHost>,
}

impl Policy {
    /// Whether everything is allowed that is not listed.
    pub(crate) fn is_open(&self) -> bool {
        !self.deny_all && self.nets.is_empty() && self.hosts.is_empty()
    }

    /// Whether only listed names are resolved.
    pub(crate) fn filters_names(&self) -> bool {
        self.deny_all || !self.hosts.is_empty()
    }

    /// Whether a listed network has the address, on any port.
    pub(crate) fn lists(&self, address: Ipv4Addr) -> bool {
        let is_metadata = METADATA.contains(address);
        self.nets.iter().any(|net| net.contains(address) && (!is_metadata || net.is_metadata()))
    }

    /// The ports that the VM may connect to on the hosts of this name; `None` is every port. Empty: the name is not listed.
    pub(crate) fn ports(&self, name: &str) -> Vec<Option<u16>> {
        let mut ports: Vec<_> =
            self.hosts.iter().filter(|host| host.matches(name)).map(AllowHost::port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The policy of `--allow-net` and `--allow-host`.
    pub fn policy(nets: &[&str], hosts: &[&str]) -> Policy {
        Policy {
            deny_all: false,
            nets: nets.iter().map(|text| text.parse().unwrap()).collect(),
            hosts: hosts.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn only_a_policy_without_a_word_is_open() {
        assert!(Policy::default().is_open() && !Policy::default().filters_names());
        assert!(!policy(&["10.0.0.0/8"], &[]).is_open() && !policy(&["10.0.0.0/8"], &[]).filters_names());
        assert!(!policy(&[], &["a.example"]).is_open() && policy(&[], &["a.example"]).filters_names());
        let nothing = Policy { deny_all: true, ..Policy::default() };
        assert!(!nothing.is_open() && nothing.filters_names());
    }

    #[test]
    fn metadata_services_are_listed_on_their_own_only() {
        let metadata = Ipv4Addr::new(169, 254, 169, 254);
        assert!(!policy(&["0.0.0.0/0"], &[]).lists(metadata));
        assert!(policy(&["169.254.169.254"], &[]).lists(metadata));
        assert!(policy(&["0.0.0.0/0"], &[]).lists(Ipv4Addr::new(10, 0, 0, 1)));
    }

    #[test]
    fn a_name_has_the_ports_of_all_its_entries() {
        let policy = policy(&[], &["a.example:443", "*.example:80", "*.example:443", "b.example"]);
        assert_eq!(policy.ports("a.example"), [Some(80), Some(443)]);
        assert_eq!(policy.ports("b.example"), [None, Some(80), Some(443)]);
        assert!(policy.ports("a.test").is_empty());
    }
}
