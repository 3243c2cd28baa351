//! Where a VM's cgroup is: below the service's that runs krunctl, if its manager leaves that to the service, so that the service's
//! limits count; else at the top.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use shim::direct::{Delegated, Entered};

/// The part of a service's cgroup that krunctl itself is in: only a cgroup without processes has limited ones below it.
/// Source: the kernel's cgroup-v2.rst.
const OURS: &str = "krunctl";

/// Where the cgroups of VMs are that end with this process.
pub struct Place(Option<Entered>);

impl Place {
    /// Below the service's cgroup, until this is dropped, or at the top.
    ///
    /// # Errors
    /// When this process cannot leave the service's cgroup to its parts.
    pub fn find() -> Result<Place> {
        match Delegated::enter(OURS).context("making a part of the service's cgroup")? {
            Delegated::Entered(entered) => Ok(Place(Some(entered))),
            Delegated::NotOurs => Ok(Place(None)),
            Delegated::Shared => {
                eprintln!(
                    "krunctl: this service has other processes in its cgroup: its limits do not reach the VM"
                );
                Ok(Place(None))
            }
        }
    }

    /// The cgroup of the VM of this id.
    pub fn cgroup(&self, id: &str) -> PathBuf {
        match &self.0 {
            Some(entered) => entered.service().join(name(id)),
            None => at_top(id),
        }
    }
}

/// The cgroup of the VM of this id at the top.
pub fn at_top(id: &str) -> PathBuf {
    Path::new("/").join(name(id))
}

fn name(id: &str) -> String {
    format!("krunctl-{id}")
}
