//! Clears away by force what a failed scenario left, so that the next one begins clean.

use crate::leaks::{self, Snapshot};
use anyhow::Result;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{SIGKILL, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Command;

/// Brings the box back to `before`, as far as it goes. Each step is allowed to fail: the next leak check starts from
/// what is there then.
pub fn up(before: &Snapshot) -> Result<()> {
    let _ = Command::new("containerd-ctl").arg("start").status();
    for namespace in leaks::namespaces() {
        for id in listed(&namespace, &["container", "ls", "-q"]) {
            ctr(&namespace, &["task", "kill", "--signal", "SIGKILL", &id]);
            ctr(&namespace, &["task", "rm", "--force", &id]);
            ctr(&namespace, &["container", "rm", &id]);
        }
    }
    let after = Snapshot::take()?;
    for line in before.added(&after, "process") {
        if let Some(Ok(pid)) = line.split(' ').next().map(str::parse) {
            let _ = kill(Pid::from_raw(pid), SIGKILL);
        }
    }
    let mut mounts = before.added(&after, "mount");
    mounts.sort_by_key(|m| std::cmp::Reverse(m.len()));
    for mount in mounts {
        let point = mount.rsplit_once(" (").map_or(mount, |(point, _)| point);
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
    for line in before.added(&after, "containerd's") {
        if let [namespace, "snapshot", key] = line.split(' ').collect::<Vec<_>>()[..] {
            ctr(namespace, &["snapshot", "rm", key]);
        }
    }
    let mut cgroups = before.added(&after, "cgroup");
    cgroups.sort_by_key(|c| std::cmp::Reverse(c.len()));
    for cgroup in cgroups {
        let _ = std::fs::remove_dir(cgroup);
    }
    for kind in ["file", "bundle"] {
        for path in before.added(&after, kind) {
            let _ = if Path::new(path).is_dir() {
                std::fs::remove_dir_all(path)
            } else {
                std::fs::remove_file(path)
            };
        }
    }
    Ok(())
}

fn ctr(namespace: &str, args: &[&str]) {
    let _ = Command::new("timeout").args(["30", "ctr", "--namespace", namespace]).args(args).output();
}

fn listed(namespace: &str, args: &[&str]) -> Vec<String> {
    let output = Command::new("timeout").args(["30", "ctr", "--namespace", namespace]).args(args).output();
    output.map_or_else(
        |_| Vec::new(),
        |o| String::from_utf8_lossy(&o.stdout).lines().map(str::to_owned).collect(),
    )
}
