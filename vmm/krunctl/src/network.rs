//! How a VM reaches the network: through sockets of this host's network, through a network of its own, or not at all.
//!
//! A network of its own is a namespace with a way out by NAT, where ports are published from and the host enforces a policy, whatever
//! the guest does.

use std::{fs::File, io::Read, net::IpAddr, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use private_network::{AllowHost, AllowNet, Policy, PrivateNetwork};
use serde::{Deserialize, Serialize};
use shim::direct::parse_ports;

use crate::{bundle::Bundle, spec::Namespace};

/// This host's list of name servers, and the one that systemd-resolved asks itself. Source: systemd-resolved(8).
const HOSTS_LIST: &str = "/etc/resolv.conf";
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// Bytes of a list that are read.
const MAX_LIST: u64 = 64 << 10;

/// The file in a bundle whose VM has a network of its own, or is about to.
const MARK: &str = "network";

/// The namespace's file in a bundle.
const NETNS: &str = "netns";

/// The file in a bundle that is the container's /etc/resolv.conf.
pub const RESOLV_CONF: &str = "resolv.conf";

/// The flags about the network.
#[derive(Args)]
#[group(skip)]
pub struct Arguments {
    /// How commands reach the network: through sockets of this host (tsi, the default), through a NIC in a network of the VM's own
    /// (tap, the default with -p and --allow-…), or not at all
    #[arg(long, value_enum)]
    network: Option<Mode>,
    /// Let the VM reach these addresses, and nothing else that is not allowed
    #[arg(long, value_name = "NET[:PORT]", value_parser = checked::<AllowNet>)]
    allow_net: Vec<String>,
    /// Let the VM reach the host of this name, or *.NAME, and nothing else that is not allowed
    #[arg(long, value_name = "NAME[:PORT]", value_parser = checked::<AllowHost>)]
    allow_host: Vec<String>,
    /// Let the VM reach nothing that is not allowed
    #[arg(long)]
    deny_all: bool,
}

/// Published ports, as flags.
#[derive(Args)]
#[group(skip)]
pub struct Ports {
    /// Have a port of this host lead to one of the VM's
    #[arg(short = 'p', long, value_name = "HOST:GUEST[/udp]", value_parser = port)]
    publish: Vec<String>,
}

impl Ports {
    /// As the annotation lists them.
    ///
    /// # Errors
    /// When one is there twice.
    pub fn list(&self) -> Result<String> {
        let list = self.publish.join(",");
        if !list.is_empty() {
            parse_ports(&list).context("-p")?;
        }
        Ok(list)
    }
}

/// Keeps the text of what can be understood.
fn checked<T: std::str::FromStr<Err = String>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned())
}

fn port(text: &str) -> Result<String, String> {
    match text.contains(',') {
        true => Err("it must be one port, as 8080:80".to_owned()),
        false => {
            let parsed = parse_ports(text).map_err(|error| error.to_string().replace("TASK", "GUEST"));
            parsed.map(|_| text.to_owned())
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Tsi,
    Tap,
    None,
}

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    mode: Mode,
    /// Whether the VM has a network of its own.
    own: bool,
    allow_net: Vec<String>,
    allow_host: Vec<String>,
    deny_all: bool,
    /// Whether the container gets a list of name servers where it has this host's network.
    resolver: bool,
}

impl Arguments {
    /// What the flags ask for, for a VM that publishes ports or does not, and whose root has a list of name servers of its own or
    /// `needs` one.
    ///
    /// # Errors
    /// When they contradict each other.
    pub fn plan(&self, publishes: bool, needs: bool) -> Result<Plan> {
        let has_policy = self.deny_all || !self.allow_net.is_empty() || !self.allow_host.is_empty();
        let wants_own = publishes || has_policy;
        let (mode, own) = match self.network {
            None if wants_own => (Mode::Tap, true),
            None => (Mode::Tsi, false),
            Some(Mode::None) if wants_own => {
                bail!("--network none: -p, --allow-net, --allow-host and --deny-all need tap or tsi")
            }
            Some(Mode::Tap) => (Mode::Tap, true),
            Some(mode) => (mode, wants_own),
        };
        Ok(Plan {
            mode,
            own,
            allow_net: self.allow_net.clone(),
            allow_host: self.allow_host.clone(),
            deny_all: self.deny_all,
            resolver: own || needs && mode == Mode::Tsi,
        })
    }
}

impl Plan {
    /// The mode's name in a configuration of the sandbox.
    pub fn mode(&self) -> &'static str {
        match self.mode {
            Mode::Tsi => "tsi",
            Mode::Tap => "tap",
            Mode::None => "none",
        }
    }

    /// Whether the container gets a list of name servers: [`RESOLV_CONF`].
    pub fn has_resolver(&self) -> bool {
        self.resolver
    }

    /// The VM's network namespace, whose bundle is in this directory.
    pub fn namespace(&self, bundle: &Path) -> Namespace {
        match (self.own, self.mode) {
            (true, _) => Namespace::Path(bundle.join(NETNS)),
            (false, Mode::None) => Namespace::Empty,
            (false, _) => Namespace::Host,
        }
    }

    /// Makes the VM's own network, if it has one.
    ///
    /// # Errors
    /// What is missing or could not be done; nothing is left then.
    pub fn make(&self, bundle: &Bundle) -> Result<Option<PrivateNetwork>> {
        if !self.own {
            if self.resolver {
                bundle.write(RESOLV_CONF, &resolv_conf())?;
            }
            return Ok(None);
        }
        let policy = Policy {
            deny_all: self.deny_all,
            nets: parsed(&self.allow_net)?,
            hosts: parsed(&self.allow_host)?,
        };
        // It says that there may be something to remove.
        bundle.write(MARK, b"")?;
        let network = PrivateNetwork::create(bundle.id(), &bundle.path().join(NETNS), &policy)
            .context("making the VM's network")?;
        bundle.write(RESOLV_CONF, network.resolv_conf().as_bytes())?;
        Ok(Some(network))
    }
}

/// This host's list of name servers; empty where there is none.
fn resolv_conf() -> Vec<u8> {
    let read = |path: &str| {
        let mut text = Vec::new();
        File::open(path).and_then(|file| file.take(MAX_LIST).read_to_end(&mut text)).map(|_| text)
    };
    let list = read(HOSTS_LIST).unwrap_or_default();
    // A stub on this host's loopback interface takes no sockets that are connected (docs/networking.md).
    if is_local(&list)
        && let Ok(behind) = read(BEHIND_STUB)
    {
        return behind;
    }
    list
}

/// Whether all servers of a list are this host.
fn is_local(list: &[u8]) -> bool {
    let text = String::from_utf8_lossy(list);
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = servers.filter_map(|address| address.trim().parse::<IpAddr>().ok());
    addresses.into_iter().all(|address| address.is_loopback())
}

fn parsed<T: std::str::FromStr<Err = String>>(texts: &[String]) -> Result<Vec<T>> {
    texts.iter().map(|text| text.parse().map_err(|error: String| anyhow!("{text}: {error}"))).collect()
}

/// Answers the VM's questions for names for as long as it is polled. To be called on a runtime.
pub async fn attend(network: Option<&PrivateNetwork>) {
    if let Some(network) = network
        && let Err(error) = network.serve_dns().await
    {
        log::error!("the VM's names are not resolved any more: {error}");
    }
    std::future::pending().await
}

/// Removes what a killed process has left of the network of the VM with this bundle. Its links went with its namespace.
///
/// # Errors
/// When it cannot be removed, with what is left.
pub fn clean(id: &str, bundle: &Path) -> Result<()> {
    if bundle.join(MARK).exists() {
        PrivateNetwork::remove_left(id).with_context(|| format!("removing the network of {id}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        network: Arguments,
        #[command(flatten)]
        ports: Ports,
    }

    fn plan(flags: &[&str]) -> Result<Plan> {
        let flags = Flags::try_parse_from([&["x"], flags].concat())?;
        flags.network.plan(!flags.ports.list()?.is_empty(), false)
    }

    fn of(flags: &[&str]) -> (Mode, bool) {
        let plan = plan(flags).unwrap();
        (plan.mode, plan.own)
    }

    #[test]
    fn ports_and_policies_need_a_network_of_its_own() {
        assert_eq!(of(&[]), (Mode::Tsi, false));
        assert_eq!(of(&["--network", "none"]), (Mode::None, false));
        assert_eq!(of(&["--network", "tap"]), (Mode::Tap, true));
        assert_eq!(of(&["-p", "8080:80"]), (Mode::Tap, true));
        assert_eq!(of(&["--deny-all"]), (Mode::Tap, true));
        assert_eq!(of(&["--allow-host", "example.com", "--network", "tsi"]), (Mode::Tsi, true));
        assert!(plan(&["--network", "none", "--allow-net", "10.0.0.0/8"]).is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (flags, words) in [
            (&["-p", "80"][..], "HOST:GUEST"),
            (&["-p", "127.0.0.1:80:80"], "80:80"),
            (&["-p", "8080:80", "-p", "8080:81"], "twice"),
            (&["-p", "8080:80,81:81"], "one port"),
            (&["--allow-net", "10.0.0.0/40"], "10.0.0.0/40"),
            (&["--allow-host", "a b"], "a b"),
        ] {
            let error = format!("{:#}", plan(flags).unwrap_err());
            assert!(error.contains(words), "{flags:?}: {error}");
        }
    }

    #[test]
    fn a_list_of_this_hosts_own_servers_is_told() {
        assert!(is_local(b"# x\nnameserver 127.0.0.53\noptions edns0\nnameserver ::1\n"));
        assert!(!is_local(b"nameserver 127.0.0.53\nnameserver 192.0.2.1\n"));
    }

    #[test]
    fn a_plan_survives_json() {
        let plan = plan(&["-p", "8080:80", "--allow-host", "*.example.com:443", "--deny-all"]).unwrap();
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    }
}
