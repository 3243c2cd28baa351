//! The rules for one VM, as text for `nft`. All are on the host's side of the VM's veth pair.

use std::{fmt::Write as _, net::Ipv4Addr, time::Duration};

use crate::{
    error::Result,
    nft,
    policy::{METADATA, Policy},
    slot::{LINKS, Slot},
};

/// What the names of all tables begin with.
const TABLES: &str = "krunctl-";

/// Addresses of names that a set holds at most.
pub const MAX_OPENED: usize = 4096;

/// What a VM may say in ICMP of a connection that is allowed. No redirects: they would change the host's routes.
const ERRORS: &str = "{ destination-unreachable, time-exceeded, parameter-problem }";

/// What opens for an address that a name led to: one port, or all.
pub type Opening = (Ipv4Addr, Option<u16>);

/// The table of the VM's `name`.
pub fn table(name: &str) -> String {
    format!("{TABLES}{name}")
}

/// The table of the VM `name` and all in it; it is an error when there is one. `left` are tables to remove.
pub fn text(name: &str, slot: Slot, policy: &Policy, left: &[String]) -> String {
    let mut text: String = left.iter().map(|table| removal(table)).collect();
    let (table, gateway, address) = (table(name), slot.gateway(), slot.address());
    // A reply to the VM, or what an error in ICMP says of what it sent.
    let known = |link: &str| {
        format!(
            "    {link}ct state established accept\n    {link}ct state related icmp type {ERRORS} accept\n"
        )
    };
    let (from, to) = (format!("iifname \"{slot}\" "), format!("oifname \"{slot}\" "));
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        r#"create table inet {table}
table inet {table} {{
  set hosts {{
    type ipv4_addr
    flags timeout
    size {MAX_OPENED}
  }}
  set host-ports {{
    type ipv4_addr . inet_service
    flags timeout
    size {MAX_OPENED}
  }}
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    {from}meta nfproto ipv6 counter drop
    {from}ip saddr != {address} counter drop
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
{known_in}    {from}ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
    {from}counter drop
    iifname != {{ "{slot}", "lo" }} ip daddr {gateway} counter drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    {from}jump from-{slot}
{known_to}    {to}counter drop
  }}
  chain from-{slot} {{
    oifname "{LINKS}*" counter drop
{known_from}{allowed}  }}
  chain refuse {{
    limit rate 5/second log prefix "krunctl {name} refused: "
    meta l4proto tcp counter reject with tcp reset
    counter reject with icmpx type admin-prohibited
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname != "{slot}" ip saddr {address} masquerade
  }}
}}
"#,
        known_in = known(&from),
        known_to = known(&to),
        known_from = known(""),
        allowed = allowed(policy),
    );
    text
}

/// What a packet passes that begins a connection.
fn allowed(policy: &Policy) -> String {
    let refuse_metadata = format!("    ip daddr {METADATA} counter jump refuse\n");
    if policy.is_open() {
        return format!("{refuse_metadata}    accept\n");
    }
    let rules = |is_metadata: bool| {
        let nets = policy.nets.iter().filter(move |net| net.is_metadata() == is_metadata);
        nets.map(|net| match net.port() {
            Some(port) => format!("    ip daddr {net} meta l4proto {{ tcp, udp }} th dport {port} accept\n"),
            None => format!("    ip daddr {net} accept\n"),
        })
    };
    let mut text: String = rules(true).collect();
    text.push_str(&refuse_metadata);
    text.extend(rules(false));
    text.push_str("    ip daddr @hosts accept\n");
    text.push_str("    meta l4proto { tcp, udp } ip daddr . th dport @host-ports accept\n    jump refuse\n");
    text
}

/// Removes the table of the VM `name`, if there is one.
pub fn remove(name: &str) -> String {
    removal(&table(name))
}

fn removal(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// Opens the policy for addresses that names led to, for so long from now.
pub fn open(name: &str, openings: &[(Opening, Duration)]) -> String {
    let table = table(name);
    let mut text = String::new();
    for ((address, port), time) in openings {
        let (set, element) = match port {
            Some(port) => ("host-ports", format!("{address} . {port}")),
            None => ("hosts", address.to_string()),
        };
        let seconds = time.as_secs();
        // Older kernels do not prolong what is there already. All three are one transaction.
        let _ = write!(
            text,
            "add element inet {table} {set} {{ {element} }}\n\
             delete element inet {table} {set} {{ {element} }}\n\
             add element inet {table} {set} {{ {element} timeout {seconds}s }}\n"
        );
    }
    text
}

/// The tables of other VMs that have rules for the interface of `slot`. They are left from processes that were killed: the
/// interface is the caller's.
///
/// # Errors
/// nft's.
pub fn left(slot: Slot) -> Result<Vec<String>> {
    Ok(tables_with(&nft::list(&["list", "chains", "inet"])?, &format!("from-{slot}")))
}

/// Those of our tables in nft's list that have the chain.
fn tables_with(list: &str, chain: &str) -> Vec<String> {
    let (mut table, mut found) = ("", Vec::new());
    for line in list.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("table"), Some("inet"), Some(name)) => table = name,
            (Some("chain"), Some(name), _) if name == chain && table.starts_with(TABLES) => {
                found.push(table.to_owned());
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::policy;

    fn slot() -> Slot {
        Slot::all().nth(7).unwrap()
    }

    fn chain(text: &str, name: &str) -> Vec<String> {
        let lines = text.lines().skip_while(|line| line.trim() != format!("chain {name} {{")).skip(1);
        lines.take_while(|line| line.trim() != "}").map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn without_a_policy_all_but_metadata_services_is_allowed() {
        let text = text("a", slot(), &Policy::default(), &[]);
        assert_eq!(
            chain(&text, "from-krun7"),
            [
                "oifname \"krun*\" counter drop",
                "ct state established accept",
                "ct state related icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
                "ip daddr 169.254.0.0/16 counter jump refuse",
                "accept",
            ]
        );
    }

    #[test]
    fn a_policy_allows_what_it_lists_and_metadata_services_on_their_own_only() {
        let policy = policy(&["0.0.0.0/0:443", "169.254.169.254", "10.0.0.0/8"], &["a.example"]);
        let text = text("a", slot(), &policy, &[]);
        assert_eq!(
            chain(&text, "from-krun7")[3..],
            [
                "ip daddr 169.254.169.254/32 accept",
                "ip daddr 169.254.0.0/16 counter jump refuse",
                "ip daddr 0.0.0.0/0 meta l4proto { tcp, udp } th dport 443 accept",
                "ip daddr 10.0.0.0/8 accept",
                "ip daddr @hosts accept",
                "meta l4proto { tcp, udp } ip daddr . th dport @host-ports accept",
                "jump refuse",
            ]
        );
    }

    #[test]
    fn the_host_and_other_vms_are_out_of_reach() {
        let text = text("a", slot(), &Policy::default(), &[]);
        assert_eq!(
            chain(&text, "prerouting")[1..],
            [
                "iifname \"krun7\" meta nfproto ipv6 counter drop",
                "iifname \"krun7\" ip saddr != 10.213.0.30 counter drop",
            ]
        );
        assert_eq!(
            chain(&text, "input")[3..],
            [
                "iifname \"krun7\" ip daddr 10.213.0.29 meta l4proto { tcp, udp } th dport 53 accept",
                "iifname \"krun7\" counter drop",
                "iifname != { \"krun7\", \"lo\" } ip daddr 10.213.0.29 counter drop",
            ]
        );
        assert_eq!(chain(&text, "forward").last().unwrap(), "oifname \"krun7\" counter drop");
    }

    #[test]
    fn what_is_left_of_others_on_the_interface_is_found() {
        let list = "table inet other {\n\tchain from-krun7 {\n\t}\n}\ntable inet krunctl-a {\n\tchain input {\n\t\ttype filter \
                    hook input priority filter; policy accept;\n\t}\n\tchain from-krun7 {\n\t}\n}\ntable inet krunctl-b \
                    {\n\tchain from-krun70 {\n\t}\n}\n";
        assert_eq!(tables_with(list, "from-krun7"), ["krunctl-a"]);
    }
}
