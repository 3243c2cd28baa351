//! The shim's seat in a pod's cgroup: the pod is charged for what the shim uses.
//!
//! The shim leaves before it tells anybody that the pod has ended. The kubelet kills everything in the cgroup when it
//! hears that, and a cgroup with a process in it cannot be removed. A lone container's shim stays where containerd put
//! it, as other shims do: each move costs an RCU grace period, and there is no pod to charge.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use log::warn;

use super::{PROCS, ROOT};

/// A stay in a cgroup: the process returns to its own when this is dropped.
#[derive(Debug)]
pub struct Seat {
    home: PathBuf,
}

impl Seat {
    /// Remembers the cgroup that this process is in now.
    pub fn keep() -> io::Result<Seat> {
        Ok(Seat { home: of("self")? })
    }
}

/// The directory of the cgroup that a process, by its name in /proc, is in now.
pub fn of(process: &str) -> io::Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let below = v2(&text).ok_or_else(|| io::Error::other("it is in none of version 2"))?;
    Ok(Path::new(ROOT).join(below))
}

impl Drop for Seat {
    fn drop(&mut self) {
        let go = |cgroup: &Path| fs::write(cgroup.join(PROCS), std::process::id().to_string());
        // systemd removes a service's cgroup when it stops and nothing is left in it.
        let gone = go(&self.home).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => go(Path::new(ROOT)),
            _ => Err(error),
        });
        if let Err(error) = gone {
            warn!("return to cgroup {}: {error}", self.home.display());
        }
    }
}

/// The process's cgroup in the hierarchy of version 2, below its root. Source: cgroups(7), /proc/pid/cgroup.
pub fn v2(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_2_counts() {
        assert_eq!(
            v2("1:name=systemd:/x\n0::/system.slice/containerd.service\n"),
            Some("system.slice/containerd.service")
        );
        assert_eq!(v2("0::/\n"), Some(""));
        assert_eq!(v2("4:memory:/a\n"), None);
    }
}
