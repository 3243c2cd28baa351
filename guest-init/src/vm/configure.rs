//! The configuration of the VM as a whole. RPC: Configure.

use std::time::Duration;

use anyhow::{Context, Result};
use guest_protocol::api::{ConfigureRequest, ConfigureResponse, IdRange};
use linux::user_namespace::{IdMaps, Range};
use nix::time::{ClockId, clock_gettime};

use crate::net::spare::{self, Spare};
use crate::net::{nics, seeming_address};
use crate::vm::{clock, users};

/// Applies the configuration. With the answer comes the NIC that is kept for later, if there is one.
pub fn configure(request: &ConfigureRequest) -> Result<(ConfigureResponse, Option<Spare>)> {
    if request.realtime_ns > 0 {
        clock::set(request.realtime_ns)?;
    }
    if !request.hostname.is_empty() {
        nix::unistd::sethostname(&request.hostname)
            .with_context(|| format!("set the hostname {:?}", request.hostname))?;
    }
    let spare = request.spare_nic.then(Spare::remember).transpose().context("keep a NIC")?;
    let maps = IdMaps { users: ranges(&request.users), groups: ranges(&request.groups) };
    if maps != IdMaps::default() {
        users::make(&maps, request.network.as_ref()).context("make the user namespace")?;
    } else if spare.is_some() {
        spare::leave().context("leave the namespace of the NIC")?;
    }
    if let Some(wanted) = request.network.as_ref() {
        nics::configure(wanted).context("set up the network")?;
    }
    if request.tsi {
        seeming_address::add().context("add an address to lo")?;
    }
    let uname = nix::sys::utsname::uname().context("ask for the kernel's version")?;
    let mut response = ConfigureResponse::new();
    response.kernel = uname.release().to_string_lossy().into_owned();
    Ok((response, spare))
}

fn ranges(ranges: &[IdRange]) -> Vec<Range> {
    let of = |range: &IdRange| Range { inside: range.inside, outside: range.outside, length: range.length };
    ranges.iter().map(of).collect()
}

/// Time since the kernel began.
pub fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
