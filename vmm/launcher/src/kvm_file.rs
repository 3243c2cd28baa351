//! The open file that is a VM in the kernel. The vmm has it, and we have it as well once the guest is up: to take a VM apart takes the
//! kernel tens of milliseconds (grace periods of SRCU, the end of a kernel thread), which it spends when the last descriptor is
//! closed. A vmm whose descriptor is not the last one ends without it, with its memory, mounts and files; we close ours when nobody waits.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use linux::pidfd::Pidfd;
use nix::fcntl::{readlink, readlinkat};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

/// What the kernel calls such a file. Source: kvm_dev_ioctl_create_vm of virt/kvm/kvm_main.c.
const NAME: &str = "anon_inode:kvm-vm";

/// A place for the file of a VM.
#[derive(Clone, Default)]
pub struct KvmFile(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    #[default]
    Empty,
    Has(OwnedFd),
    /// The VM is gone.
    Closed,
}

impl KvmFile {
    /// Takes a descriptor of it from the vmm, in the background. Where that is not allowed, the vmm takes its time to end.
    pub fn take(&self, process: &Pidfd) {
        let (place, process) = (self.clone(), process.try_clone());
        tokio::task::spawn_blocking(move || match process.and_then(|process| of(&process)) {
            Ok(file) => place.put(file),
            Err(error) => log::debug!("the VM's file stays with its vmm alone: {error}"),
        });
    }

    fn put(&self, file: Option<OwnedFd>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (State::Empty, Some(file)) = (&*state, file) {
            *state = State::Has(file);
        }
    }

    /// Closes it, in the background: the VM is gone, or going.
    pub fn close(&self) {
        let before = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *state, State::Closed)
        };
        if let State::Has(file) = before {
            tokio::task::spawn_blocking(move || drop(file));
        }
    }
}

/// That of the process's VM, if it has one.
fn of(process: &Pidfd) -> io::Result<Option<OwnedFd>> {
    let directory = process.proc()?;
    for number in process.numbers("fd")? {
        // One that was closed meanwhile has none.
        let name = readlinkat(directory.as_fd(), format!("fd/{number}").as_str());
        if name.is_ok_and(|name| name == NAME) {
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
    use std::{fs::File, os::fd::FromRawFd};

    use nix::{errno::Errno, unistd::Pid};

    use super::*;

    /// `KVM_CREATE_VM` of linux/kvm.h.
    const CREATE_VM: libc::c_ulong = 0xae01;

    /// The inode tells nothing: all anonymous files share one. So this is the file's number in kcmp's order: the same or not.
    fn is_same(a: &OwnedFd, b: &OwnedFd) -> bool {
        const KCMP_FILE: libc::c_int = 0;
        let own = std::process::id();
        // SAFETY: numbers.
        let order =
            unsafe { libc::syscall(libc::SYS_kcmp, own, own, KCMP_FILE, a.as_raw_fd(), b.as_raw_fd()) };
        Errno::result(order).unwrap() == 0
    }

    #[test]
    fn a_vm_is_found_among_the_files_of_a_process() {
        let own = Pidfd::open(Pid::this()).unwrap();
        assert!(of(&own).unwrap().is_none());
        let Ok(device) = File::options().read(true).write(true).open("/dev/kvm") else {
            eprintln!("skipped: /dev/kvm cannot be opened");
            return;
        };
        // SAFETY: the request takes a number, 0 for the usual kind of VM, and makes a descriptor.
        let made = unsafe { libc::ioctl(device.as_raw_fd(), CREATE_VM as _, 0) };
        // SAFETY: the descriptor was just made, and is nobody else's.
        let vm = unsafe { OwnedFd::from_raw_fd(Errno::result(made).unwrap()) };
        let found = of(&own).unwrap().unwrap();
        assert!(is_same(&found, &vm));
        assert!(!is_same(&found, &OwnedFd::from(device)));
    }

    #[tokio::test]
    async fn a_file_that_comes_after_the_end_is_closed_at_once() {
        let (mut read, write) = io::pipe().unwrap();
        let place = KvmFile::default();
        place.close();
        place.put(Some(write.into()));
        assert_eq!(io::Read::read(&mut read, &mut [0]).unwrap(), 0);
    }
}
