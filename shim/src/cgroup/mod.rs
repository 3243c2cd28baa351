//! The sandbox's cgroup on the host: the vmm, the anchors and a pod's shim live in it, so what the guest uses
//! is accounted to, and bounded by, the container's or the pod's own group.
//!
//! Only cgroup v2. A unit of systemd's (`slice:prefix:name`) is a transient scope, delegated to
//! us, where systemd runs, and else a cgroup in the place that systemd would give it. The guest
//! has a hierarchy of its own, and knows nothing of this one.

mod make;
mod oom;
mod path;
mod seat;

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use libcgroups::{
    common::{CgroupManager, ControllerOpt},
    systemd::manager::{Manager as Systemd, PROCESS_IN_CGROUP_TIMEOUT_DURATION},
    v2::manager::Manager as Direct,
};
use log::warn;
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use self::{oom::OomKills, path::Named, seat::Seat};
use crate::error::{Error, Result};

/// Where cgroup v2 is mounted. Source: systemd's file-hierarchy(7).
const ROOT: &str = "/sys/fs/cgroup";

/// There when systemd is the init. Source: sd_booted(3).
const SYSTEMD: &str = "/run/systemd/system";

/// How long killed processes may take to go; containerd gives the call that waits for it 5 s.
const DYING: Duration = Duration::from_secs(3);

/// A cgroup, removed when it is dropped; by then its processes must be dead or dying.
pub struct HostCgroup {
    named: Named,
    path: PathBuf,
    /// Whether we made it: one that was there before is somebody else's to remove.
    ours: bool,
}

impl HostCgroup {
    /// The cgroup that a spec names. It is made for its first process.
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

    /// Its directory, for starting processes in it; it is made if need be. None where systemd has to make it, which does so
    /// for a first process that is [added](HostCgroup::add).
    ///
    /// # Errors
    /// When it cannot be made, naming it.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let made = match self.is_systemds() {
            true if !self.path.exists() => return Ok(None),
            true => Ok(()),
            false => make::with_parents(Path::new(ROOT), &self.path),
        };
        made.and_then(|()| File::open(&self.path))
            .map(|dir| Some(dir.into()))
            .map_err(|e| Error::internal(format!("make cgroup {}: {e}", self.path.display())))
    }

    /// Its directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process into the cgroup, which is there or systemd's.
    ///
    /// # Errors
    /// The library's, naming the cgroup.
    pub fn add(&self, pid: Pid) -> Result<()> {
        let pid = nix_for_libcgroups::unistd::Pid::from_raw(pid.as_raw());
        self.manage(|systemd| systemd.add_task(pid), |direct| direct.add_task(pid))
            .map_err(|e| Error::internal(format!("join cgroup {}: {e}", self.path.display())))
    }

    /// Has the kernel enforce `limits` on it; it must have been joined.
    ///
    /// # Errors
    /// The library's, naming the cgroup.
    pub fn limit(&self, limits: &LinuxResources) -> Result<()> {
        let options = ControllerOpt {
            resources: limits,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        };
        self.manage(|systemd| systemd.apply(&options), |direct| direct.apply(&options))
            .map_err(|e| Error::invalid(format!("limit cgroup {}: {e}", self.path.display())))
    }

    /// Moves this process into the cgroup, which must have been joined, until what this returns is dropped.
    ///
    /// # Errors
    /// As [`HostCgroup::add`].
    pub fn seat(&self) -> Result<Seat> {
        let seat = Seat::keep().map_err(|e| Error::internal(format!("find the shim's own cgroup: {e}")))?;
        self.add(Pid::this())?;
        Ok(seat)
    }

    /// Counts what the kernel ends in it for memory from now on; none where nobody counts.
    pub fn oom_kills(&self) -> Option<OomKills> {
        OomKills::watch(&self.path)
    }

    /// Whether systemd is in charge of it.
    fn is_systemds(&self) -> bool {
        matches!(self.named, Named::Unit { .. }) && Path::new(SYSTEMD).is_dir()
    }

    /// Kills every process in the cgroup and waits for their end, at most [`DYING`].
    fn kill(&self) -> io::Result<()> {
        let mut events = match File::open(self.path.join("cgroup.events")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        fs::write(self.path.join("cgroup.kill"), "1")?;
        let deadline = Instant::now() + DYING;
        loop {
            let mut text = String::new();
            events.seek(SeekFrom::Start(0))?;
            events.read_to_string(&mut text)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if !text.lines().any(|line| line == "populated 1") || left.is_zero() {
                return Ok(());
            }
            // A change of the file is an exceptional condition. Source: the kernel's cgroup-v2.rst.
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left))?;
        }
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
            Named::Unit { name, .. } if self.is_systemds() => {
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

/// Removes the cgroup that a dead shim left at `path`, with the processes in it, which may take
/// a moment to die.
pub fn remove(path: &Path) {
    let Ok(mut cgroup) = HostCgroup::new(path) else { return };
    cgroup.ours = true;
    if let Err(error) = cgroup.kill() {
        warn!("end the processes of cgroup {}: {error}", cgroup.path.display());
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
