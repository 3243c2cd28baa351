//! Whether this host can run VMs at all. Must never take long: what may hang runs in a process
//! that is killed.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

use linux::{
    pidfd::How,
    spawn::{Spawn, SpawnError},
};
use nix::{fcntl::OFlag, sys::signal::Signal, unistd::pipe2};

use crate::find::{self, NotFound};

/// The device.
pub const DEV_KVM: &str = "/dev/kvm";

/// `KVM_GET_API_VERSION`: `_IO(KVMIO, 0)` of linux/kvm.h.
const KVM_GET_API_VERSION: libc::c_ulong = 0xae00;

/// The only version there is (Documentation/virt/kvm/api.rst, 4.1).
const KVM_API_VERSION: i32 = 12;

/// How long the guest code of the full probe may take. It takes microseconds where KVM works, and seconds in a busy machine
/// that emulates nested virtualisation.
const GUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why this host cannot run VMs.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no such device.
    #[error(
        "no {DEV_KVM}: this host has no KVM; enable virtualization in its firmware (or nested virtualization, if it is a VM) and load kvm_intel or kvm_amd"
    )]
    Missing,
    /// It cannot be opened.
    #[error("{DEV_KVM} cannot be opened for reading and writing: run as root, or be given the device")]
    Forbidden(#[source] io::Error),
    /// It is something else.
    #[error("{DEV_KVM} is not KVM of API version {KVM_API_VERSION} (answer: {0})")]
    NotKvm(i32),
    /// It opens, but a guest cannot run.
    #[error(
        "{DEV_KVM} opens but cannot run guests: {0}; use a machine with real (or working nested) virtualization"
    )]
    CannotRun(String),
    /// It opens, but a guest does not get anywhere.
    #[error(
        "{DEV_KVM} opens but a guest of a few instructions did not end within {} s; use a machine with real (or working nested) virtualization",
        GUEST_TIMEOUT.as_secs()
    )]
    Hangs,
    /// The prober is not there.
    #[error(transparent)]
    NoVmm(#[from] NotFound),
    /// The prober cannot be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A pipe.
    #[error("watching the probe")]
    Watch(#[source] io::Error),
}

/// Whether /dev/kvm is there, permitted, and KVM. Takes microseconds.
///
/// # Errors
/// What is wrong and what to do.
pub fn device() -> Result<(), ProbeError> {
    let kvm = match File::options().read(true).write(true).open(DEV_KVM) {
        Ok(kvm) => kvm,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ProbeError::Missing),
        Err(error) => return Err(ProbeError::Forbidden(error)),
    };
    // SAFETY: this request takes no argument and, on any other device, is at worst refused.
    let version = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    if version == KVM_API_VERSION { Ok(()) } else { Err(ProbeError::NotKvm(version)) }
}

/// Whether KVM really runs a guest: [`device`], then a few instructions in a process of their own
/// (`krun-vmm probe`). Blocks for milliseconds where KVM works, else up to two seconds.
///
/// # Errors
/// What is wrong and what to do.
pub fn guest() -> Result<(), ProbeError> {
    device()?;
    guest_with(&find::krun_vmm()?)
}

/// As [`guest`], with a given `krun-vmm`.
pub(crate) fn guest_with(vmm: &Path) -> Result<(), ProbeError> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| ProbeError::Watch(errno.into()))?;
    let child = Spawn::new(vmm).arg("probe").fd(write, 2).spawn()?;
    let in_time = child.pidfd().ends_within(GUEST_TIMEOUT);
    // A process in KVM_RUN is killed all the same: KVM looks for signals.
    child.kill(Signal::SIGKILL);
    let how = child.wait().map_err(ProbeError::Watch)?;
    let mut said = String::new();
    let _ = File::from(read).take(1024).read_to_string(&mut said);
    match (in_time, how) {
        (Err(error), _) => Err(ProbeError::Watch(error)),
        (Ok(false), _) => Err(ProbeError::Hangs),
        (Ok(true), How::Exited(0)) => Ok(()),
        (Ok(true), how) if said.trim().is_empty() => {
            Err(ProbeError::CannotRun(format!("the probe ended, {how}")))
        }
        (Ok(true), _) => Err(ProbeError::CannotRun(said.trim().to_owned())),
    }
}
