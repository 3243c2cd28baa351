//! A network namespace for one VM, with a way out by NAT and a [`Policy`] for it.
//!
//! The host enforces the policy, whatever the guest does: frames that a guest writes to its tap reach the namespace's interface
//! past the namespace's own netfilter, so every rule is on the host's side of the veth pair. The VM speaks IPv4 only, and
//! from its own address only. Of the host it reaches the DNS relay on the gateway's address, and nothing else.
//!
//! What a host needs: root, `nft` (nftables), and a kernel with nf_tables,
//! nf_conntrack_netlink and veth. IPv4 forwarding is switched on
//! (`net.ipv4.ip_forward`), as Docker does. Other firewalls of the host stay in force: where one drops what is forwarded, or
//! what comes in on port 53, it needs an exception for the interfaces `krun*`.

mod conntrack;
mod dns;
mod error;
mod links;
mod netns;
mod network;
mod nft;
mod policy;
mod reserved;
mod rules;
mod slot;

pub use error::{Error, Result};
pub use network::PrivateNetwork;
pub use policy::{AllowHost, AllowNet, Policy};
