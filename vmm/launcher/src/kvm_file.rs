//! The open file that is a VM in the kernel. The vmm has it, and we have it as well once the guest is up: to take a VM apart takes the
//! kernel tens of milliseconds (grace periods of SRCU, the end of a kernel thread), which it spends when the last descriptor is
//! closed. A vmm whose descriptor is not the last one ends without it, with its memory, mounts and files; we close ours when nobody waits.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use linux::pidfd::Pidfd;
use nix::{
    dir::Dir,
    fcntl::{OFlag, openat, readlink, readlinkat},
    sys::stat::Mode,
};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

/// What the kernel calls such a file. Source: kvm_dev_ioctl_create_vm of virt/kvm/kvm_main.c.
const NAME: &str = "anon_inode:kvm-vm";

/// A place for the file of a VM.
#[derive(Clone, Default)]
pub struct KvmFile(Arc<Mutex<Option<OwnedFd>>>);

impl KvmFile {
    /// Takes a descriptor of it from the vmm, in the background. Where that is not allowed, the vmm takes its time to end.
    pub fn take(&self, process: Pidfd) {
        let place = self.0.clone();
        tokio::task::spawn_blocking(move || match of(&process) {
            Ok(file) => *place.lock().unwrap_or_else(PoisonError::into_inner) = file,
            Err(error) => log::debug!("the VM's file stays with its vmm alone: {error}"),
        });
    }

    /// Closes it, in the background: the VM is gone, or going.
    pub fn close(&self) {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(file) = file {
            tokio::task::spawn_blocking(move || drop(file));
        }
    }
}

/// That of the process's VM, if it has one.
fn of(process: &Pidfd) -> io::Result<Option<OwnedFd>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut descriptors = Dir::from_fd(openat(process.proc()?, "fd", flags, Mode::empty())?)?;
    let numbers: Vec<i32> =
        descriptors.iter().filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok()).collect();
    for number in numbers {
        // One that was closed meanwhile has none.
        if readlinkat(descriptors.as_fd(), number.to_string().as_str()).is_ok_and(|name| name == NAME) {
            let file = pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty())?;
            // The vmm may have put another file there.
            let name = readlink(format!("/proc/self/fd/{}", file.as_raw_fd()).as_str())?;
            return Ok((name == NAME).then_some(file));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_process_without_a_vm_has_no_such_file() {
        let own = Pidfd::open(Pid::this()).unwrap();
        assert!(of(&own).unwrap().is_none());
    }
}
