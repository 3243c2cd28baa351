//! Removes what is left of a container in the guest: its processes, its cgroup, its mounts, and the dentries that pin the
//! host's inodes. Only then can the host unmount what it shared.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use linux::mountinfo::{self, Mount};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::root::OwnRoot;
use super::{Container, run_dir, state_dir};
use crate::cgroup::Cgroup;
use crate::process::reaper::Reaper;

/// Kills what still runs of a container, and removes it.
pub async fn container(container: &Container, reaper: &Reaper) -> Result<()> {
    container.cgroup.kill()?;
    container.init.record().await.map_err(|fault| anyhow::anyhow!(fault.text))?;
    remains(&container.id, &container.cgroup).await?;
    forget(container.own_root.as_ref(), reaper);
    Ok(())
}

/// Has what it wrote to a root of the guest's own removed, which nobody waits for.
pub fn forget(root: Option<&OwnRoot>, reaper: &Reaper) {
    if let Some(Err(err)) = root.map(|root| root.forget(reaper)) {
        log::warn!("remove what a container wrote: {err}");
    }
}

/// Removes all that container `id` may have left, whether or not it came to exist.
pub async fn remains(id: &str, cgroup: &Cgroup) -> Result<()> {
    // No step waits for the success of another: the host needs the last one.
    let cgroup_gone = cgroup.remove().await;
    let files_gone = remove_files(&run_dir(id));
    let mounts_gone = unmount_share(id);
    forget_dentries();
    cgroup_gone.and(files_gone).and(mounts_gone).with_context(|| format!("remove container {id}"))
}

/// Removes what libcontainer may have left of container `id` that it did not make, so that it can try again. What others have made for
/// the container stays.
pub async fn attempt(id: &str, cgroup: &Cgroup) -> Result<()> {
    let cgroup_gone = cgroup.remove().await;
    let state_gone = remove_files(&state_dir(id));
    let console_gone = match fs::remove_file(run_dir(id).join("console")) {
        Err(err) if err.kind() != ErrorKind::NotFound => Err(err).context("remove the console's socket"),
        _ => Ok(()),
    };
    cgroup_gone.and(state_gone).and(console_gone).with_context(|| format!("make container {id} anew"))
}

fn remove_files(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(err) if err.kind() != ErrorKind::NotFound => {
            Err(err).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Unmounts what the kernel mounted by itself in the container's part of the share, the last first.
fn unmount_share(id: &str) -> Result<()> {
    let mounts = mountinfo::read().with_context(|| format!("read {}", mountinfo::PATH))?;
    for target in mounts_below(mounts, &Path::new("/containers").join(id)) {
        match umount2(&target, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(Errno::EBUSY) => umount2(&target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .with_context(|| format!("detach {}", target.display()))?,
            Err(errno) => return Err(errno).with_context(|| format!("unmount {}", target.display())),
        }
    }
    Ok(())
}

/// The mount points at or below `top`, in the order to unmount them in.
fn mounts_below(mounts: Vec<Mount>, top: &Path) -> Vec<PathBuf> {
    mounts.into_iter().rev().map(|mount| mount.target).filter(|target| target.starts_with(top)).collect()
}

/// Makes the kernel forget unused inodes: libkrun holds a descriptor for each one that it remembers.
fn forget_dentries() {
    if let Err(err) = fs::write("/proc/sys/vm/drop_caches", "2") {
        log::warn!("write to /proc/sys/vm/drop_caches: {err}");
    }
    // libkrun does not answer FORGETs, but handles requests in their order: its answer to this one comes after them.
    let _ = nix::sys::statfs::statfs("/");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_mounts_are_found_last_first() {
        let table = b"1 0 0:1 / / rw - virtiofs x rw\n\
            2 1 0:2 / /containers/c1/rootfs rw - virtiofs x rw\n\
            3 1 0:3 / /containers/c1/mounts/a rw - virtiofs x rw\n\
            4 1 0:4 / /containers/c10/rootfs rw - virtiofs x rw\n";
        let found = mounts_below(mountinfo::parse(table).collect(), Path::new("/containers/c1"));
        assert_eq!(found, [Path::new("/containers/c1/mounts/a"), Path::new("/containers/c1/rootfs")]);
    }
}
