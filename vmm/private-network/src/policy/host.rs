//! A name that a VM may connect to, as `--allow-host` says it.

use std::str::FromStr;

use super::port;

/// Longest name and longest part of one. Source: RFC 1035, 2.3.4.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A name that a VM may resolve and connect to: `example.com`, or `*.example.com` for all names below that one; and a TCP and
/// UDP port if only that is allowed (`example.com:443`). What is opened is the address that the name leads to, for 1 minute to 1
/// hour as its record says: whatever else is served at that address is reached too. A name that leads to a private address or
/// one of the host's is refused, unless a network is allowed that has it; then that says which ports are open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowHost {
    /// In lower case; of a wildcard what follows its `*`.
    name: String,
    is_wildcard: bool,
    port: Option<u16>,
}

impl AllowHost {
    /// The only port that is allowed there.
    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether it allows the name, which is in lower case and ends with no dot.
    pub(crate) fn matches(&self, name: &str) -> bool {
        match self.is_wildcard {
            true => name.strip_suffix(&self.name).is_some_and(|below| !below.is_empty()),
            false => name == self.name,
        }
    }
}

impl FromStr for AllowHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, port) = port::split(text)?;
        let plain = name.strip_prefix("*.").unwrap_or(name);
        let plain = plain.strip_suffix('.').unwrap_or(plain).to_ascii_lowercase();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let is_label = |label: &str| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(is_plain);
        if plain.len() > MAX_NAME || !plain.split('.').all(is_label) {
            return Err(format!(
                "{name:?} is no name of a host: it must be NAME[:PORT] of letters, digits, - and _ between dots, as \
                 example.com:443, or *.example.com for the names below it"
            ));
        }
        if plain.parse::<std::net::Ipv4Addr>().is_ok() {
            return Err(format!("{plain} is an address: allow it as a network"));
        }
        let is_wildcard = name.starts_with("*.");
        let name = if is_wildcard { format!(".{plain}") } else { plain };
        Ok(AllowHost { name, is_wildcard, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(entry: &str, name: &str) -> bool {
        entry.parse::<AllowHost>().unwrap().matches(name)
    }

    #[test]
    fn a_name_is_itself_and_a_wildcard_what_is_below() {
        assert!(matches("Example.COM.", "example.com") && matches("example.com:443", "example.com"));
        assert!(!matches("example.com", "a.example.com") && !matches("example.com", "badexample.com"));
        assert!(matches("*.example.com", "a.example.com") && matches("*.example.com", "b.a.example.com"));
        assert!(!matches("*.example.com", "example.com") && !matches("*.example.com", "badexample.com"));
        assert!(!matches("*.example.com", ".example.com"));
        assert_eq!("example.com:443".parse::<AllowHost>().unwrap().port(), Some(443));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in [
            ("", "NAME[:PORT]"),
            ("*", "NAME[:PORT]"),
            ("a..b", "NAME[:PORT]"),
            ("a.*.b", "letters"),
            ("a b", "letters"),
            ("a\"b", "letters"),
            ("example.com:x", "1 to 65535"),
            ("10.0.0.1", "network"),
            ("https://example.com", "1 to 65535"),
        ] {
            let error = text.parse::<AllowHost>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!("x".repeat(64).parse::<AllowHost>().is_err());
    }
}
