//! The sandbox's cgroup on the host. The vmm, the anchors and a pod's shim live in it: the container's or the pod's own
//! cgroup accounts for what the guest uses, and bounds it.
//!
//! Only cgroup v2. Where systemd runs, a unit (`slice:prefix:name`) is a transient scope that it delegates to us;
//! elsewhere it is a cgroup in the place that systemd would give it. The guest has a hierarchy of its own, and sees
//! nothing of this one.

mod make;
mod name;
mod oom;
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

pub use self::{name::CgroupName, oom::OomKills, seat::Seat};
use crate::error::{Error, Result};

/// Where cgroup v2 is mounted. Source: systemd's file-hierarchy(7).
const ROOT: &str = "/sys/fs/cgroup";

/// There when systemd is the init. Source: sd_booted(3).
const SYSTEMD: &str = "/run/systemd/system";

/// How long killed processes may take to end; containerd gives the call that waits for it 5 s.
const KILL_TIMEOUT: Duration = Duration::from_secs(3);

/// A cgroup, which is removed when this is dropped; its processes must be dead or dying by then.
pub struct HostCgroup {
    name: CgroupName,
    path: PathBuf,
    /// Whether we made it. One that was there before is not ours to remove.
    ours: bool,
}

impl HostCgroup {
    /// The cgroup that a spec names. It is made with its first process.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a malformed name.
    pub fn new(path: &Path) -> Result<HostCgroup> {
        let name = CgroupName::parse(path)?;
        let below = name.path();
        let full = Path::new(ROOT).join(below.strip_prefix("/").unwrap_or(below));
        let ours = !full.exists();
        Ok(HostCgroup { name, path: full, ours })
    }

    /// Its directory, for starting processes in it. It is made if it is not there; none where systemd makes it, when
    /// the first process is [added](HostCgroup::add).
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

    /// Moves a process into the cgroup; systemd makes its own now.
    ///
    /// # Errors
    /// The library's, naming the cgroup.
    pub fn add(&self, pid: Pid) -> Result<()> {
        let pid = nix_for_libcgroups::unistd::Pid::from_raw(pid.as_raw());
        self.manage(|systemd| systemd.add_task(pid), |direct| direct.add_task(pid))
            .map_err(|e| Error::internal(format!("join cgroup {}: {e}", self.path.display())))
    }

    /// Has the kernel enforce `limits` on it; it must have a process.
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

    /// Moves this process into the cgroup, which must have a process, until the returned seat is dropped.
    ///
    /// # Errors
    /// As [`HostCgroup::add`].
    pub fn seat(&self) -> Result<Seat> {
        let seat = Seat::keep().map_err(|e| Error::internal(format!("find the shim's own cgroup: {e}")))?;
        self.add(Pid::this())?;
        Ok(seat)
    }

    /// Counts OOM kills in it from now on; none where the kernel does not count them.
    pub fn oom_kills(&self) -> Option<OomKills> {
        OomKills::watch(&self.path)
    }

    /// Whether systemd manages it.
    fn is_systemds(&self) -> bool {
        matches!(self.name, CgroupName::Unit { .. }) && Path::new(SYSTEMD).is_dir()
    }

    /// Kills every process in the cgroup and waits for their end, at most [`KILL_TIMEOUT`].
    fn kill(&self) -> io::Result<()> {
        let mut events = match File::open(self.path.join("cgroup.events")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        fs::write(self.path.join("cgroup.kill"), "1")?;
        let deadline = Instant::now() + KILL_TIMEOUT;
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

    /// Changes the cgroup by systemd where that manages it, else by its files.
    fn manage(
        &self,
        by_systemd: impl FnOnce(&Systemd) -> Result<(), <Systemd as CgroupManager>::Error>,
        directly: impl FnOnce(&Direct) -> Result<(), <Direct as CgroupManager>::Error>,
    ) -> Result<(), String> {
        match &self.name {
            CgroupName::Unit { name: unit, .. } if self.is_systemds() => {
                let wait = PROCESS_IN_CGROUP_TIMEOUT_DURATION;
                // The last part is the unit's description.
                let description = unit.rsplit(':').next().unwrap_or(unit).to_owned();
                let manager = Systemd::new(ROOT.into(), unit.into(), description, true, wait);
                manager.and_then(|manager| by_systemd(&manager)).map_err(|e| format!("by systemd: {e}"))
            }
            name => {
                let below = PathBuf::from("/").join(name.path());
                let manager = Direct::new(ROOT.into(), below).map_err(|e| e.to_string())?;
                directly(&manager).map_err(|e| e.to_string())
            }
        }
    }
}

/// Removes the cgroup that a dead shim left at `path`, once the processes in it are killed.
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
