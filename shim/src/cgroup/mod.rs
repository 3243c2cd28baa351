//! The sandbox's cgroup on the host: the vmm and the anchors live in it, so what the guest uses
//! is accounted to, and bounded by, the container's or the pod's own group.
//!
//! Only cgroup v2. A unit of systemd's (`slice:prefix:name`) is a transient scope, delegated to
//! us, where systemd runs, and else a cgroup in the place that systemd would give it. The guest
//! has a hierarchy of its own, and knows nothing of this one.

mod path;

use std::path::{Path, PathBuf};

use libcgroups::{
    common::CgroupManager,
    systemd::manager::{Manager as Systemd, PROCESS_IN_CGROUP_TIMEOUT_DURATION},
    v2::manager::Manager as Direct,
};
use log::warn;
use nix::unistd::Pid;

use self::path::Named;
use crate::error::{Error, Result};

/// Where cgroup v2 is mounted. Source: systemd's file-hierarchy(7).
const ROOT: &str = "/sys/fs/cgroup";

/// There when systemd is the init. Source: sd_booted(3).
const SYSTEMD: &str = "/run/systemd/system";

/// A cgroup, removed when it is dropped; by then its processes must be dead or dying.
pub struct HostCgroup {
    named: Named,
    path: PathBuf,
    /// Whether we made it: one that was there before is somebody else's to remove.
    ours: bool,
}

impl HostCgroup {
    /// The cgroup that a spec names. It is made when the first process joins.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what names none.
    pub fn new(path: &Path) -> Result<HostCgroup> {
        let named = Named::parse(path)?;
        let below = named.path();
        let full = Path::new(ROOT).join(below.strip_prefix("/").unwrap_or(below));
        let ours = !full.exists();
        Ok(HostCgroup { named, path: full, ours })
    }

    /// Moves a process into the cgroup.
    ///
    /// # Errors
    /// The library's, naming the cgroup.
    pub fn add(&self, pid: Pid) -> Result<()> {
        let pid = nix_for_libcgroups::unistd::Pid::from_raw(pid.as_raw());
        self.manage(|systemd| systemd.add_task(pid), |direct| direct.add_task(pid))
            .map_err(|e| Error::internal(format!("join cgroup {}: {e}", self.path.display())))
    }

    fn remove(&self) -> Result<(), String> {
        self.manage(Systemd::remove, Direct::remove)
    }

    /// Has whoever is in charge of the cgroup do something with it.
    fn manage(
        &self,
        by_systemd: impl FnOnce(&Systemd) -> Result<(), <Systemd as CgroupManager>::Error>,
        directly: impl FnOnce(&Direct) -> Result<(), <Direct as CgroupManager>::Error>,
    ) -> Result<(), String> {
        match &self.named {
            Named::Unit { name, .. } if Path::new(SYSTEMD).is_dir() => {
                let wait = PROCESS_IN_CGROUP_TIMEOUT_DURATION;
                // The last part is the unit's description.
                let description = name.rsplit(':').next().unwrap_or(name).to_owned();
                let manager = Systemd::new(ROOT.into(), name.into(), description, true, wait);
                manager.and_then(|manager| by_systemd(&manager)).map_err(|e| format!("by systemd: {e}"))
            }
            named => {
                let below = PathBuf::from("/").join(named.path());
                let manager = Direct::new(ROOT.into(), below).map_err(|e| e.to_string())?;
                directly(&manager).map_err(|e| e.to_string())
            }
        }
    }
}

/// Removes the cgroup that a dead shim left at `path`, with the processes in it.
pub fn remove(path: &Path) {
    if let Ok(mut cgroup) = HostCgroup::new(path) {
        cgroup.ours = true;
    }
}

impl Drop for HostCgroup {
    fn drop(&mut self) {
        if self.ours
            && self.path.exists()
            && let Err(error) = self.remove()
        {
            warn!("remove cgroup {}: {error}", self.path.display());
        }
    }
}
