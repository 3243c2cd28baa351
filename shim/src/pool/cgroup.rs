//! A cgroup for VMs that wait, where a service manager leaves the service its own (`Delegate=yes` of systemd): they get the CPU only while
//! no other cgroup wants it. `SCHED_IDLE` alone holds within one.

#![expect(clippy::disallowed_methods, reason = "paths of cgroups that are this service's own")]

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use log::warn;

use crate::cgroup::{Delegated, Entered, ROOT};

/// The parts of the service's cgroup: for the pool, and for its VMs.
const POOL: &str = "krun-pool";
const WAITING: &str = "krun-waiting";

/// The cgroup, which is removed when this is dropped; its VMs must be gone by then.
pub struct IdleCgroup {
    path: PathBuf,
    _entered: Entered,
}

impl IdleCgroup {
    /// Makes it; none where the service's cgroup is not delegated.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make() -> io::Result<Option<IdleCgroup>> {
        let entered = match Delegated::enter(POOL)? {
            Delegated::Entered(entered) => entered,
            Delegated::NotOurs | Delegated::Shared => return Ok(None),
        };
        let service = entered.service();
        let path = Path::new(ROOT).join(service.strip_prefix("/").unwrap_or(&service)).join(WAITING);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Source: the kernel's cgroup-v2.rst, `cpu.idle`, since 5.15.
        if let Err(error) = fs::write(path.join("cpu.idle"), "1") {
            warn!("have VMs that wait leave the CPU to others: {error}");
        }
        Ok(Some(IdleCgroup { path, _entered: entered }))
    }

    /// Its directory.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

impl Drop for IdleCgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            warn!("remove cgroup {}: {error}", self.path.display());
        }
    }
}
