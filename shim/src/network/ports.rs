//! Published ports as an annotation lists them: `8080:80,5353:53/udp`.

use std::fmt;

use crate::error::{Error, Result};

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A connection each.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A port of the host that leads to one of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The host's.
    pub host: u16,
    /// The task's.
    pub task: u16,
    /// Both's.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "/udp",
        };
        write!(f, "{}:{}{protocol}", self.host, self.task)
    }
}

/// Reads a list.
///
/// # Errors
/// `INVALID_ARGUMENT` that names what is wrong and says what is allowed.
pub fn parse(list: &str) -> Result<Vec<Port>> {
    let mut ports: Vec<Port> = Vec::new();
    for text in list.split(',').map(str::trim) {
        let port = one(text)?;
        if ports.iter().any(|other| (other.host, other.protocol) == (port.host, port.protocol)) {
            return Err(Error::invalid(format!("{text:?}: port {} of the host is there twice", port.host)));
        }
        ports.push(port);
    }
    Ok(ports)
}

fn one(text: &str) -> Result<Port> {
    let (pair, protocol) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
        Some((pair, "udp")) => (pair, Protocol::Udp),
        Some((_, other)) => {
            return Err(Error::invalid(format!("{text:?}: protocol {other:?} must be tcp or udp")));
        }
    };
    let number = |port: &str| {
        let number = port.parse::<u16>().ok().filter(|port| *port != 0);
        number.ok_or_else(|| Error::invalid(format!("{text:?}: port {port:?} must be 1 to {}", u16::MAX)))
    };
    let (host, task) = pair.split_once(':').ok_or_else(|| {
        Error::invalid(format!("{text:?}: must be HOST:TASK, each a port, with /udp if it is UDP's"))
    })?;
    Ok(Port { host: number(host)?, task: number(task)?, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read() {
        let ports = parse("8080:80, 5353:53/udp,5353:53/tcp").unwrap();
        let shown: Vec<_> = ports.iter().map(Port::to_string).collect();
        assert_eq!(shown, ["8080:80", "5353:53/udp", "5353:53"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (list, expected) in [
            ("", "\"\": must be HOST:TASK"),
            ("80", "\"80\": must be HOST:TASK"),
            ("8080:80,", "\"\": must be"),
            ("0:80", "\"0:80\": port \"0\" must be 1 to 65535"),
            ("8080:65536", "port \"65536\" must be 1 to 65535"),
            ("8000-8010:80", "port \"8000-8010\" must be"),
            ("8080:80/sctp", "protocol \"sctp\" must be tcp or udp"),
            ("8080:80,8080:81", "\"8080:81\": port 8080 of the host is there twice"),
        ] {
            let error = parse(list).unwrap_err().to_string();
            assert!(error.contains(expected), "{list}: {error}");
        }
    }
}
