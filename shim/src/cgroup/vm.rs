//! Moving a VM from the cgroup that it was made in to the one that it belongs to.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use log::debug;
use nix::unistd::Pid;

use super::{PROCS, ROOT, seat};
use crate::error::{Error, Result};

/// A thread of the kernel's that KVM makes for a VM, in the cgroup of the vmm, with the vmm's pid behind. Since Linux 6.13 it is a thread of the
/// vmm, and moves with it. Source: kvm_mmu_post_init_vm of arch/x86/kvm/mmu/mmu.c.
const WORKER: &str = "kvm-nx-lpage-recovery-";

/// Moves a vmm into the cgroup with this directory, or into this process's own. It blocks: the kernel waits until no thread is being made.
/// What of its VM is a process of its own follows in the background: as long as that is there, the cgroup that it left cannot be removed.
///
/// # Errors
/// When it cannot be moved, naming the cgroup.
pub fn move_vm(vmm: Pid, to: Option<&Path>) -> Result<()> {
    let failed = |what: &str, e: io::Error| Error::internal(format!("move the vmm into {what}")).because(e);
    let from = seat::of(&vmm.to_string());
    let to = match to {
        Some(to) => to.to_owned(),
        None => seat::of("self").map_err(|e| failed("the shim's cgroup", e))?,
    };
    fs::write(to.join(PROCS), vmm.to_string()).map_err(|e| failed(&format!("cgroup {}", to.display()), e))?;
    if let Some(from) = from.ok().filter(|from| from != Path::new(ROOT)) {
        let follow =
            move || move_workers(vmm, &from, &to).unwrap_or_else(|e| debug!("move a thread of KVM's: {e}"));
        drop(thread::Builder::new().name("cgroup".to_owned()).spawn(follow));
    }
    Ok(())
}

/// Moves the threads that KVM has made for the vmm.
fn move_workers(vmm: Pid, from: &Path, to: &Path) -> io::Result<()> {
    let is_its = |process: &&str| {
        // proc(5): the kernel tells a thread of its own by its whole name here, and its parent is kthreadd.
        let status =
            fs::read_to_string(PathBuf::from("/proc").join(process).join("status")).unwrap_or_default();
        is_worker(&status, vmm)
    };
    let all = fs::read_to_string(from.join(PROCS))?;
    all.lines().filter(is_its).try_for_each(|worker| fs::write(to.join(PROCS), worker))
}

/// Whether this is the status of a thread of the kernel's for the vmm's VM. A process may take any name, but not that parent.
fn is_worker(status: &str, vmm: Pid) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    field("Name:") == Some(&format!("{WORKER}{vmm}")) && field("PPid:") == Some("2")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_thread_for_this_vmm_follows_it() {
        let status =
            |name: &str, parent: u32| format!("Name:\t{name}\nUmask:\t0000\nPid:\t337\nPPid:\t{parent}\n");
        let vmm = Pid::from_raw(333);
        assert!(is_worker(&status("kvm-nx-lpage-recovery-333", 2), vmm));
        for (name, parent) in
            [("kvm-nx-lpage-recovery-33", 2), ("kvm-nx-lpage-recovery-333", 1), ("krun-vmm", 2)]
        {
            assert!(!is_worker(&status(name, parent), vmm), "{name}");
        }
        assert!(!is_worker("", vmm));
    }
}
