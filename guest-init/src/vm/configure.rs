//! What the host tells PID 1 about the VM as a whole, and what it wants to know.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use guest_protocol::api::{ConfigureRequest, ConfigureResponse};
use nix::time::{ClockId, clock_gettime};

use super::clock;

use super::network;

/// Applies the configuration.
pub fn configure(request: &ConfigureRequest) -> Result<ConfigureResponse> {
    if request.realtime_ns > 0 {
        clock::set(request.realtime_ns)?;
    }
    if !request.hostname.is_empty() {
        nix::unistd::sethostname(&request.hostname)
            .with_context(|| format!("set the hostname {:?}", request.hostname))?;
    }
    if let Some(wanted) = request.network.as_ref() {
        network::configure(wanted).context("set up the network")?;
    }
    let uname = nix::sys::utsname::uname().context("ask for the kernel's version")?;
    let path = "/proc/filesystems";
    let filesystems = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let mut response = ConfigureResponse::new();
    response.kernel = uname.release().to_string_lossy().into_owned();
    response.filesystems = names(&filesystems);
    Ok(response)
}

/// Time since the kernel began.
pub fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// The last word of each line; the first says "nodev" where it applies.
fn names(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems_are_the_last_words() {
        assert_eq!(names("nodev\tproc\n\text4\n\n"), ["proc", "ext4"]);
    }
}
