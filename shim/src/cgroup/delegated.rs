//! The cgroup of a service, where its manager leaves what is below it to the service (`Delegate=` of systemd).

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use log::warn;

use super::{
    PROCS, ROOT, is_delegated,
    make::{SUBTREE_CONTROL, enable_controllers},
    seat::v2,
};

/// What can be had of the cgroup that this process is in.
pub enum Delegated {
    /// It is not delegated.
    NotOurs,
    /// It is delegated, but other processes are in it: the kernel limits nothing below it.
    Shared,
    /// This process has left it for a part of it.
    Entered(Entered),
}

/// A stay in a part of a service's cgroup. Cgroups that can be limited may be made beside the part until this is dropped, which
/// undoes it.
pub struct Entered {
    service: PathBuf,
    part: PathBuf,
}

impl Delegated {
    /// Moves this process from its cgroup into the part `name` of it, if it can be.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(name: &str) -> io::Result<Delegated> {
        let text = fs::read_to_string("/proc/self/cgroup")?;
        let Some(service) = v2(&text).map(|below| Path::new(ROOT).join(below)) else {
            return Ok(Delegated::NotOurs);
        };
        if !is_delegated(&service) {
            return Ok(Delegated::NotOurs);
        }
        if !has_only(&service, process::id())? {
            return Ok(Delegated::Shared);
        }
        let part = service.join(name);
        match fs::create_dir(&part) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let entered = Entered { service, part };
        fs::write(entered.part.join(PROCS), process::id().to_string())?;
        enable_controllers(&entered.service)?;
        Ok(Delegated::Entered(entered))
    }
}

impl Entered {
    /// The service's cgroup, from the hierarchy's root.
    pub fn service(&self) -> PathBuf {
        Path::new("/").join(self.service.strip_prefix(ROOT).unwrap_or(&self.service))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let leave = || -> io::Result<()> {
            let control = self.service.join(SUBTREE_CONTROL);
            // While its parts have controllers, the kernel takes no process into the whole.
            for controller in fs::read_to_string(&control)?.split_whitespace() {
                fs::write(&control, format!("-{controller}"))?;
            }
            fs::write(self.service.join(PROCS), process::id().to_string())?;
            fs::remove_dir(&self.part)
        };
        if let Err(error) = leave() {
            warn!("return to cgroup {}: {error}", self.service.display());
        }
    }
}

/// Whether a process is the only one in a cgroup.
fn has_only(cgroup: &Path, pid: u32) -> io::Result<bool> {
    let all = fs::read_to_string(cgroup.join(PROCS))?;
    Ok(all.lines().eq([pid.to_string()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_with_others_is_not_ours_to_divide() {
        let cgroup = tempfile::tempdir().unwrap();
        for (all, is_alone) in [("7\n", true), ("7\n8\n", false), ("77\n", false), ("", false)] {
            fs::write(cgroup.path().join(PROCS), all).unwrap();
            assert_eq!(has_only(cgroup.path(), 7).unwrap(), is_alone, "{all:?}");
        }
    }
}
