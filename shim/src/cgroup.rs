//! The sandbox's cgroup on the host: the vmm and the anchors live in it, so what the guest uses
//! is accounted to, and bounded by, the container's or the pod's own group.
//!
//! Only cgroup v2, by a path below the hierarchy's root (the cgroupfs driver's form).

use std::path::{Path, PathBuf};

use libcgroups::{common::CgroupManager as _, v2::manager::Manager};
use log::warn;
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// Where cgroup v2 is mounted. Source: systemd's file-hierarchy(7).
const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup, removed when it is dropped; by then its processes must be dead or dying.
pub struct HostCgroup {
    manager: Manager,
    path: PathBuf,
    /// Whether we made it: one that was there before is somebody else's to remove.
    ours: bool,
}

impl HostCgroup {
    /// The cgroup at `path` as a spec gives it. It is made when the first process joins.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a path of a form that is not offered, else the library's.
    pub fn new(path: &Path) -> Result<HostCgroup> {
        if path.to_string_lossy().contains(':') {
            return Err(Error::unimplemented(format!(
                "linux.cgroupsPath {}: the systemd cgroup driver is not offered yet; a path is",
                path.display()
            )));
        }
        let relative = PathBuf::from("/").join(path);
        let manager = Manager::new(ROOT.into(), relative)
            .map_err(|e| Error::invalid(format!("linux.cgroupsPath: {e}")))?;
        let full = Path::new(ROOT).join(path.strip_prefix("/").unwrap_or(path));
        let ours = !full.exists();
        Ok(HostCgroup { manager, path: full, ours })
    }

    /// Moves a process into the cgroup.
    ///
    /// # Errors
    /// The library's, naming the cgroup.
    pub fn add(&self, pid: Pid) -> Result<()> {
        let pid = nix_for_libcgroups::unistd::Pid::from_raw(pid.as_raw());
        self.manager
            .add_task(pid)
            .map_err(|e| Error::internal(format!("join cgroup {}: {e}", self.path.display())))
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
            && let Err(error) = self.manager.remove()
        {
            warn!("remove cgroup {}: {error}", self.path.display());
        }
    }
}
