//! All that a VM's network is made of, from its making to its end.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
};

use crate::{
    conntrack,
    dns::{Relay, Sockets, Upstreams, serve},
    error::{Error, Result},
    links::{self, Pair},
    netns::{Mount, Netns},
    nft,
    policy::Policy,
    rules,
};

/// Whether the host forwards what it gets for others. Source: the kernel's Documentation/networking/ip-sysctl.rst.
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Where the host's programs find their resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The longest name of a VM: it is part of the prefix of log lines, which the kernel cuts at 127 bytes.
const MAX_NAME: usize = 64;

/// A network namespace with a way out, for one VM. All of it goes when this is dropped.
pub struct PrivateNetwork {
    name: String,
    policy: Policy,
    mount: Mount,
    dns: Sockets,
    // Before the rules: without them nothing may pass.
    pair: Pair,
    _table: Table,
    _netns: Netns,
}

/// The VM's rules.
struct Table {
    name: String,
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Err(error) = nft::apply(&rules::remove(&self.name)) {
            log::warn!("remove the firewall's table {}: {error}", rules::table(&self.name));
        }
    }
}

impl PrivateNetwork {
    /// Makes the network of the VM `name` in this thread's network namespace, which is the host's. The VM's is mounted on
    /// `netns`, a file that is made for it. The caller's mount namespace should be its own, so that the mount goes with it.
    ///
    /// # Errors
    /// What could not be done and what is needed. Nothing stays behind, but that the host forwards IPv4.
    pub fn create(name: &str, netns: &Path, policy: &Policy) -> Result<PrivateNetwork> {
        check(name)?;
        let inner = Netns::new()?;
        let table = rules::table(name);
        let pair = Pair::make(&inner, &table)?;
        let slot = pair.slot();
        // The interface is down until here: no packet is ahead of the rules.
        let text = rules::text(name, slot, policy, &rules::left(slot)?);
        nft::apply(&text)
            .map_err(Error::at(format!("make the firewall's table {table}, which must not be there")))?;
        let table = Table { name: name.to_owned() };
        conntrack::forget(slot.address()).map_err(Error::at(
            "forget the connections of another VM before this one (it needs the module nf_conntrack_netlink)",
        ))?;
        pair.bring_up(&inner)?;
        forward()?;
        let dns = Sockets::bind(SocketAddrV4::new(slot.gateway(), 53))?;
        let mount = inner.mount(netns)?;
        Ok(PrivateNetwork {
            name: name.to_owned(),
            policy: policy.clone(),
            mount,
            dns,
            pair,
            _table: table,
            _netns: inner,
        })
    }

    /// Removes what is left of the VM `name`, whose process was killed.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove_left(name: &str) -> Result<()> {
        check(name)?;
        // Before the rules: without them nothing may pass.
        links::remove_left(&rules::table(name))?;
        nft::apply(&rules::remove(name))
    }

    /// Where the VM's network namespace is mounted.
    pub fn netns_path(&self) -> PathBuf {
        self.mount.path().to_owned()
    }

    /// The VM's address.
    pub fn address(&self) -> Ipv4Addr {
        self.pair.slot().address()
    }

    /// The host's address there, which is also the VM's DNS server.
    pub fn gateway(&self) -> Ipv4Addr {
        self.pair.slot().gateway()
    }

    /// What /etc/resolv.conf of the VM must say.
    pub fn resolv_conf(&self) -> String {
        format!("nameserver {}\n", self.gateway())
    }

    /// Answers the VM's DNS queries, on the caller's runtime, which needs I/O and time. It ends with an error only.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn serve_dns(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let upstreams = Upstreams::of(PathBuf::from(RESOLV_CONF));
        let relay = Relay::new(self.name.clone(), self.policy.clone(), upstreams);
        serve(self.dns.try_clone(), relay)
    }
}

/// The name is part of nft's text, which must stay what it is.
fn check(name: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain) {
        true => Ok(()),
        false => Err(Error::new(format!(
            "{name:?} is no name of a VM's network: it has 1 to {MAX_NAME} letters, digits, - and _"
        ))),
    }
}

/// Has the host forward IPv4. Not written when it does: that would reset settings of its interfaces.
fn forward() -> Result<()> {
    let failed = || format!("switch on IPv4 forwarding in {FORWARD}");
    match fs::read_to_string(FORWARD).map_err(Error::at(failed()))?.trim() {
        "1" => Ok(()),
        _ => fs::write(FORWARD, "1").map_err(Error::at(failed())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain() {
        for name in ["", "a b", "a\"", "a;b", "a/b", "a.b", &"x".repeat(65)] {
            let error = PrivateNetwork::remove_left(name).unwrap_err().to_string();
            assert!(error.contains("letters, digits"), "{error}");
        }
        check("krunctl-7_a").unwrap();
    }
}
