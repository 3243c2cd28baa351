//! The sandbox's cgroup on the host. The vmm, the anchors and a pod's shim live in it: the container's or the pod's own
//! cgroup accounts for what the guest uses, and bounds it. It is one that we made: see [`make`].
//!
//! In a pod it has a part for the VM and a part for the shim, so that a vmm with as many threads as it may have, and
//! CPUs that never rest, do not keep the shim from working.
//!
//! Only cgroup v2. Where systemd runs, a unit (`slice:prefix:name`) is a transient scope that it delegates to us;
//! elsewhere it is a cgroup in the place that systemd would give it. The guest has a hierarchy of its own, and sees
//! nothing of this one.

#![expect(clippy::disallowed_methods, reason = "cgroupfs has no links, and a name with `..` is refused")]

mod delegated;
mod end;
mod make;
mod name;
mod oom;
mod seat;
mod vm;

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use libcgroups::{
    common::{CgroupManager, ControllerOpt},
    systemd::manager::{Manager as Systemd, PROCESS_IN_CGROUP_TIMEOUT_DURATION},
    v2::manager::Manager as Direct,
};
use log::{debug, warn};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

pub use self::{
    delegated::{Delegated, Entered},
    name::CgroupName,
    oom::OomKills,
    seat::Seat,
    vm::move_vm,
};
use crate::{
    bundle::Role,
    error::{Error, Result},
    record::{Cgroup, Entry, Record, Recorded},
};

/// Where cgroup v2 is mounted. Source: systemd's file-hierarchy(7).
pub const ROOT: &str = "/sys/fs/cgroup";

/// There when systemd is the init. Source: sd_booted(3).
const SYSTEMD: &str = "/run/systemd/system";

/// An extended attribute of the cgroup of a unit that systemd delegates, with the value "1". Source: systemd's
/// "Control Group APIs and Delegation".
const DELEGATED: &str = "trusted.delegate";

/// The file that moves a process. Source: the kernel's cgroup-v2.rst.
const PROCS: &str = "cgroup.procs";

/// The parts of a pod's cgroup. They divide its threads and CPU time, not its memory.
const VM: &str = "vm";
const SHIM: &str = "shim";

/// The greatest weight of CPU time: while the VM and the shim both want a pod's, the shim gets it. Source: the kernel's
/// cgroup-v2.rst.
const GREATEST_WEIGHT: &str = "10000";

/// How long killed processes may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(3);

/// A cgroup of ours, which is removed when this is dropped; its processes must be dead or dying by then.
pub struct HostCgroup {
    cgroup: Cgroup,
    /// Whether it is there: systemd makes its own with the first process.
    made: AtomicBool,
    /// Whether it has parts for the VM and the shim.
    divided: bool,
    record: Record,
}

impl HostCgroup {
    /// Makes the cgroup that a spec names for the container with this bundle, or one below it if it is there already. What
    /// is made is written down first.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a malformed name, `FAILED_PRECONDITION` where no limit would hold; when it cannot be made,
    /// naming it.
    pub fn make(named: &Path, bundle: &Path, role: Role) -> Result<HostCgroup> {
        let record = Record::of(bundle);
        let name = CgroupName::parse(named)?;
        let below = name.path();
        let path = Path::new(ROOT).join(below.strip_prefix("/").unwrap_or(below));
        let divided = role == Role::Sandbox;
        if let CgroupName::Unit { name: unit, .. } = name
            && Path::new(SYSTEMD).is_dir()
        {
            if !path.exists() {
                let cgroup = Cgroup { path, unit: Some(unit) };
                record.write(&Entry::MakingCgroup(cgroup.clone()))?;
                return Ok(HostCgroup { cgroup, made: AtomicBool::new(false), divided, record });
            }
            if !is_delegated(&path) {
                return Err(Error::precondition(format!(
                    "linux.cgroupsPath {}: the unit is there already, and systemd does not delegate it",
                    named.display()
                )));
            }
        }
        let own = make::own(Path::new(ROOT), &path, bundle, &record)?;
        let is_below = own != path;
        let cgroup = Cgroup { path: own, unit: None };
        let cgroup = HostCgroup { cgroup, made: AtomicBool::new(true), divided, record };
        if is_below && role != Role::Member && !cgroup.can_be_limited() {
            return Err(Error::precondition(format!(
                "linux.cgroupsPath {}: it is there already and has processes, so that no limit holds below it",
                named.display()
            )));
        }
        cgroup.divide()?;
        Ok(cgroup)
    }

    /// Whether the kernel can bound its memory and threads: a cgroup with processes has no controllers for those below.
    fn can_be_limited(&self) -> bool {
        let controllers = fs::read_to_string(self.path().join("cgroup.controllers")).unwrap_or_default();
        ["memory", "pids"].iter().all(|wanted| controllers.split_whitespace().any(|one| one == *wanted))
    }

    /// Makes the parts, if it has any. A process in the whole is moved before there are limits.
    fn divide(&self) -> Result<()> {
        if !self.divided {
            return Ok(());
        }
        let divided = || {
            for part in [VM, SHIM] {
                fs::create_dir(self.path().join(part))?;
            }
            for process in fs::read_to_string(self.path().join(PROCS))?.lines() {
                fs::write(self.hosts().join(PROCS), process)?;
            }
            // One that cannot be enabled fails what needs it, if anything does.
            for controller in ["+cpu", "+pids"] {
                let enabled = fs::write(self.path().join("cgroup.subtree_control"), controller);
                enabled.unwrap_or_else(|e| debug!("{controller} in {}: {e}", self.path().display()));
            }
            Ok::<_, std::io::Error>(())
        };
        divided()
            .map_err(|e| Error::internal(format!("divide cgroup {}", self.path().display())).because(e))?;
        if let Err(error) = fs::write(self.hosts().join("cpu.weight"), GREATEST_WEIGHT) {
            debug!("prefer the shim in cgroup {}: {error}", self.path().display());
        }
        Ok(())
    }

    /// Its directory.
    fn path(&self) -> &Path {
        &self.cgroup.path
    }

    /// Where the vmm belongs.
    pub fn vms(&self) -> PathBuf {
        if self.divided { self.path().join(VM) } else { self.path().to_owned() }
    }

    /// Where the anchor and a pod's shim belong.
    fn hosts(&self) -> PathBuf {
        if self.divided { self.path().join(SHIM) } else { self.path().to_owned() }
    }

    /// The directory to start an anchor in; none where systemd makes it, when the first process is
    /// [added](HostCgroup::add).
    ///
    /// # Errors
    /// When it cannot be opened, naming it.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        if !self.made.load(Ordering::Acquire) {
            return Ok(None);
        }
        let path = self.hosts();
        let opened = File::open(&path).map(|dir| Some(dir.into()));
        opened.map_err(|e| Error::internal(format!("open cgroup {}", path.display())).because(e))
    }

    /// Moves a process into the cgroup; systemd makes its own now.
    ///
    /// # Errors
    /// When it cannot be moved, naming the cgroup.
    pub fn add(&self, pid: Pid) -> Result<()> {
        let failed = |e: String| {
            Error::internal(format!("join cgroup {}", self.path().display())).because(anyhow::Error::msg(e))
        };
        if self.made.load(Ordering::Acquire) {
            return fs::write(self.hosts().join(PROCS), pid.to_string()).map_err(|e| failed(e.to_string()));
        }
        let pid = nix_for_libcgroups::unistd::Pid::from_raw(pid.as_raw());
        manage(&self.cgroup, |systemd| systemd.add_task(pid), |direct| direct.add_task(pid))
            .map_err(failed)?;
        self.made.store(true, Ordering::Release);
        self.record.write(&Entry::MadeCgroup(self.cgroup.clone()))?;
        self.divide()
    }

    /// Has the kernel enforce `limits` on it; it must have a process. That on threads holds for the VM's part.
    ///
    /// # Errors
    /// The library's, naming the cgroup.
    pub fn limit(&self, limits: &LinuxResources) -> Result<()> {
        let failed = |e: String| {
            Error::invalid(format!("limit cgroup {}", self.path().display())).because(anyhow::Error::msg(e))
        };
        let mut limits = limits.clone();
        if self.divided
            && let Some(pids) = *limits.pids()
        {
            limits.set_pids(None);
            fs::write(self.vms().join("pids.max"), pids.limit().to_string())
                .map_err(|e| failed(format!("pids.max: {e}")))?;
        }
        limits.set_devices(Some(vec![every_device()]));
        let options = ControllerOpt {
            resources: &limits,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        };
        manage(&self.cgroup, |systemd| systemd.apply(&options), |direct| direct.apply(&options))
            .map_err(failed)
    }

    /// Moves this process into the cgroup, which must have a process, until the returned seat is dropped.
    ///
    /// # Errors
    /// As [`HostCgroup::add`].
    pub fn seat(&self) -> Result<Seat> {
        let seat = Seat::keep().map_err(|e| Error::internal("find the shim's own cgroup").because(e))?;
        self.add(Pid::this())?;
        Ok(seat)
    }

    /// Counts OOM kills in it from now on; none where the kernel does not count them.
    pub fn oom_kills(&self) -> Option<OomKills> {
        OomKills::watch(self.path())
    }
}

/// The rule that allows every device. A container's devices are its guest's. Where cargo builds the shim together with
/// guest-init, it unites their features, and the library limits a cgroup's devices: a VM needs /dev/kvm.
fn every_device() -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true);
    rule.set_typ(Some(LinuxDeviceType::A));
    rule
}

/// Changes a cgroup by systemd where that made it, else by its files.
fn manage(
    cgroup: &Cgroup,
    by_systemd: impl FnOnce(&Systemd) -> Result<(), <Systemd as CgroupManager>::Error>,
    directly: impl FnOnce(&Direct) -> Result<(), <Direct as CgroupManager>::Error>,
) -> Result<(), String> {
    match &cgroup.unit {
        Some(unit) => {
            let wait = PROCESS_IN_CGROUP_TIMEOUT_DURATION;
            // The last part is the unit's description.
            let description = unit.rsplit(':').next().unwrap_or(unit).to_owned();
            let manager = Systemd::new(ROOT.into(), unit.into(), description, true, wait);
            manager.and_then(|manager| by_systemd(&manager)).map_err(|e| format!("by systemd: {e}"))
        }
        None => {
            let below = cgroup.path.strip_prefix(ROOT).map_err(|e| e.to_string())?;
            let manager = Direct::new(ROOT.into(), Path::new("/").join(below)).map_err(|e| e.to_string())?;
            directly(&manager).map_err(|e| e.to_string())
        }
    }
}

/// Kills what is in a cgroup of ours and removes it, until `deadline`.
fn end(cgroup: &Cgroup, deadline: Instant) -> Result<(), String> {
    if !cgroup.path.exists() {
        return Ok(());
    }
    end::kill(&cgroup.path, deadline).map_err(|e| format!("kill its processes: {e}"))?;
    match &cgroup.unit {
        Some(_) => manage(cgroup, Systemd::remove, Direct::remove),
        None => end::remove(&cgroup.path).map_err(|e| e.to_string()),
    }
}

/// Whether systemd leaves what is below this cgroup to others.
fn is_delegated(path: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(path, DELEGATED, &mut value).is_ok_and(|length| value[..length] == *b"1")
}

/// Removes the cgroup that a dead shim has written down as its own, once the processes in it are killed. One of which it
/// is not known that the shim made it is removed only if nothing is in it.
pub fn remove_left(recorded: &Recorded, deadline: Instant) {
    let is_one = |cgroup: &&Cgroup| {
        let is_below = cgroup.path.strip_prefix(ROOT).is_ok_and(|below| below.components().next().is_some());
        let is_plain = cgroup.path.components().all(|part| part != Component::ParentDir);
        is_below && is_plain
    };
    if let Some(cgroup) = recorded.making.as_ref().filter(is_one) {
        // The kernel refuses what has processes or cgroups in it.
        let _ = fs::remove_dir(&cgroup.path);
    }
    if let Some(cgroup) = recorded.made.as_ref().filter(is_one)
        && let Err(error) = end(cgroup, deadline)
    {
        eprintln!("remove cgroup {}: {error}", cgroup.path.display());
    }
}

impl Drop for HostCgroup {
    fn drop(&mut self) {
        if !self.made.load(Ordering::Acquire) {
            return;
        }
        match end(&self.cgroup, Instant::now() + KILL_TIMEOUT) {
            Err(error) => warn!("remove cgroup {}: {error}", self.path().display()),
            // The bundle may be gone as well.
            Ok(()) => drop(self.record.write(&Entry::NoCgroup)),
        }
    }
}
