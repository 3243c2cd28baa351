//! Docker's resolver, which both sides know.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

/// Where it is on the loopback interface of a container's network namespace. Source: moby's libnetwork, `resolverIPSandbox` and
/// `dnsPort`.
pub const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);

/// How long a look-up may take. A client's library has asked again by then. Source: resolv.conf(5), `timeout`.
pub const TIMEOUT: Duration = Duration::from_secs(10);
