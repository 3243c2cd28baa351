//! Where a VM's cgroup is: below the service's that runs krunctl, if its manager leaves that to the service, so that the service's
//! limits count; else at the top.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The part of a service's cgroup that krunctl itself is in: only a cgroup without processes has limited ones below it.
/// Source: the kernel's cgroup-v2.rst.
const OURS: &str = "krunctl";

/// The one of the VM of this id at the top.
pub fn at_top(id: &str) -> PathBuf {
    Path::new("/").join(name(id))
}

/// The one of the VM of this id that ends with this process.
///
/// # Errors
/// When this process cannot leave its cgroup to its parts.
pub fn of_run(id: &str) -> Result<PathBuf> {
    let service = shim::direct::enter_delegated(OURS).context("making a part of the service's cgroup")?;
    Ok(service.map_or_else(|| at_top(id), |service| service.join(name(id))))
}

fn name(id: &str) -> String {
    format!("krunctl-{id}")
}
