//! The container's name, and its /etc/hosts.

use std::{fmt::Write as _, net::IpAddr, str::FromStr};

/// The longest name of a host. Source: linux/utsname.h, `__NEW_UTS_LEN`.
const MAX_NAME: usize = 64;

/// What stands in every list. Source: Docker's.
const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

const FORM: &str = "it must be NAME:ADDRESS, as db:10.0.0.7";

/// A line of /etc/hosts, as `--add-host` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    name: String,
    address: IpAddr,
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, address) = text.split_once([':', '=']).ok_or(FORM)?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address = address.parse().map_err(|_| format!("{address:?} is no IP address; {FORM}"))?;
        Ok(Entry { name: name(host)?, address })
    }
}

/// Checks a host's name.
///
/// # Errors
/// When it is none, saying what is allowed.
pub fn name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(is_plain) {
        return Err(format!("a host's name has 1 to {MAX_NAME} letters, digits, -, . and _"));
    }
    Ok(text.to_owned())
}

/// The text of /etc/hosts.
pub fn text(hostname: &str, entries: &[Entry]) -> String {
    let mut text = format!("{LOCAL}127.0.1.1\t{hostname}\n");
    for Entry { name, address } in entries {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_names_and_addresses() {
        let entries: Vec<Entry> =
            ["db:10.0.0.7", "v6:2001:db8::1", "b=[::2]"].map(|text| text.parse().unwrap()).to_vec();
        assert!(text("me", &entries).ends_with("127.0.1.1\tme\n10.0.0.7\tdb\n2001:db8::1\tv6\n::2\tb\n"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in
            [("db", "NAME:ADDRESS"), ("db:x", "\"x\""), ("d b:1.2.3.4", "letters"), (":1.2.3.4", "letters")]
        {
            assert!(text.parse::<Entry>().unwrap_err().contains(word), "{text}");
        }
        assert!(name(&"x".repeat(65)).is_err());
    }
}
