//! A network of two for a scenario: the box, and a namespace that a container is given by its path, as CNI leaves one
//! behind. Everything of it is on the undo list.

use crate::command::Cmd;
use crate::undo;
use anyhow::Result;

/// The namespace's name and path.
const NAME: &str = "krun-scenario";
pub const PATH: &str = "/run/netns/krun-scenario";
/// The box's end of the cable.
const BOX_END: &str = "kbox0";

/// Addresses of the box's end and of the namespace's.
pub const BOX: [&str; 2] = ["10.77.0.1", "fd77::1"];
pub const TASK: [&str; 2] = ["10.77.0.2", "fd77::2"];
/// The second cable's addresses.
pub const SECOND_BOX: &str = "10.76.0.1";
pub const SECOND_TASK: &str = "10.76.0.2";
/// A jumbo frame's.
pub const MTU: u32 = 9000;
/// A neighbour that is written down.
pub const NEIGHBOUR: (&str, &str) = ("10.77.0.77", "02:00:00:00:00:77");

/// Makes the namespace with an interface eth0.
pub fn make() -> Result<()> {
    undo::remember(&["ip", "netns", "delete", NAME])?;
    ip(&format!("netns add {NAME}"))?;
    // The cable goes with the namespace.
    ip(&format!("link add {BOX_END} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {NAME}"))?;
    ip(&format!("link set {BOX_END} up"))?;
    ip(&format!("-n {NAME} link set lo up"))?;
    ip(&format!("-n {NAME} link set eth0 up"))?;
    for ((ours, theirs), prefix) in BOX.iter().zip(TASK).zip([24, 64]) {
        let nodad = if prefix == 64 { "nodad" } else { "" };
        ip(&format!("address add {ours}/{prefix} dev {BOX_END} {nodad}"))?;
        ip(&format!("-n {NAME} address add {theirs}/{prefix} dev eth0 {nodad}"))?;
        ip(&format!("-n {NAME} route add default via {ours} dev eth0"))?;
    }
    let (neighbour, mac) = NEIGHBOUR;
    ip(&format!("-n {NAME} neighbour add {neighbour} lladdr {mac} dev eth0"))?;
    Ok(())
}

/// Another namespace's name and path, which holds its loopback interface alone.
pub const EMPTY: &str = "krun-scenario-empty";
pub const EMPTY_PATH: &str = "/run/netns/krun-scenario-empty";

/// Makes that one.
pub fn make_empty() -> Result<()> {
    undo::remember(&["ip", "netns", "delete", EMPTY])?;
    ip(&format!("netns add {EMPTY}"))?;
    ip(&format!("-n {EMPTY} link set lo up")).map(drop)
}

/// Gives the namespace an interface eth1 as well.
pub fn second_cable() -> Result<()> {
    ip(&format!("link add kbox1 type veth peer name eth1 netns {NAME}"))?;
    ip("link set kbox1 up")?;
    ip(&format!("-n {NAME} link set eth1 up"))?;
    ip(&format!("address add {SECOND_BOX}/24 dev kbox1"))?;
    ip(&format!("-n {NAME} address add {SECOND_TASK}/24 dev eth1"))?;
    Ok(())
}

/// What `ip ARGS…` says.
pub fn ip(args: &str) -> Result<String> {
    let argv: Vec<_> = ["ip"].into_iter().chain(args.split_whitespace()).collect();
    Ok(Cmd::new(&argv).run()?.ok()?.stdout_text())
}

/// The flags of a container in the namespace, in that mode of krun's if one is named.
pub fn flags(mode: Option<&str>) -> Vec<String> {
    let namespace = format!("--with-ns=network:{PATH}");
    let annotation = mode.map(|mode| format!("--annotation=io.containerd.krun.network={mode}"));
    [namespace].into_iter().chain(annotation).collect()
}

/// A command in the namespace.
pub fn inside(args: &[&str]) -> Cmd {
    Cmd::new(&[&["ip", "netns", "exec", NAME], args].concat())
}

/// The namespace's interfaces and queueing disciplines, which a VM must leave as they were.
pub fn state() -> Result<String> {
    let disciplines = Cmd::new(&["tc", "-n", NAME, "qdisc", "show"]).run()?.ok()?.stdout_text();
    Ok(ip(&format!("-n {NAME} -brief link"))? + &disciplines)
}
