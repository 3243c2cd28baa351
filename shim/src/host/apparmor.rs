//! Whether this host has AppArmor.

use std::fs;

use crate::error::{Error, Result};

/// What the kernel says of itself. Source: security/apparmor/lsm.c.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

/// Refuses a profile where the kernel could not put a vmm under it. Only the kernel knows whether it is loaded: the vmm
/// hears that.
///
/// # Errors
/// One that names the profile.
#[expect(clippy::disallowed_methods, reason = "a constant path of /sys")]
pub fn check(profile: &str) -> Result<()> {
    match fs::read_to_string(ENABLED) {
        Ok(said) if said.trim_end() == "Y" => Ok(()),
        _ => Err(Error::precondition(format!(
            "apparmor profile {profile}: AppArmor is not supported or not enabled on this host"
        ))),
    }
}
