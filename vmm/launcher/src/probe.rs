//! Checks whether this host can run VMs. What may hang runs in a process of its own, which is killed after 10 s.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

use linux::{
    pidfd::ExitStatus,
    spawn::{Spawn, SpawnError},
};
use nix::{fcntl::OFlag, sys::signal::Signal, unistd::pipe2};

use crate::find::{self, NotFound};

/// The KVM device.
pub const DEV_KVM: &str = "/dev/kvm";

/// `KVM_GET_API_VERSION`: `_IO(KVMIO, 0)` of linux/kvm.h.
const KVM_GET_API_VERSION: libc::c_ulong = 0xae00;

/// The only version that exists. Source: Documentation/virt/kvm/api.rst, 4.1.
const KVM_API_VERSION: i32 = 12;

/// How long the guest code of [`guest`] may take. It takes microseconds where KVM works, and seconds on a busy machine
/// that emulates nested virtualization.
const GUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why this host cannot run VMs.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The device does not exist.
    #[error(
        "no {DEV_KVM}: this host has no KVM; enable virtualization in its firmware (or nested virtualization, if it is a VM) and load kvm_intel or kvm_amd"
    )]
    Missing,
    /// The device cannot be opened, for want of rights or another reason.
    #[error("{DEV_KVM} cannot be opened for reading and writing: run as root, or be given the device")]
    Forbidden(#[source] io::Error),
    /// The device is not KVM; what it answered when it was asked for its version.
    #[error("{DEV_KVM} is not KVM of API version {KVM_API_VERSION} (answer: {0})")]
    NotKvm(i32),
    /// The device opens, but a guest fails; in the words of `krun-vmm probe`.
    #[error(
        "{DEV_KVM} opens but cannot run guests: {0}; use a machine with real (or working nested) virtualization"
    )]
    CannotRun(String),
    /// The device opens, but a guest makes no progress.
    #[error(
        "{DEV_KVM} opens but a guest of a few instructions did not end within {} s; use a machine with real (or working nested) virtualization",
        GUEST_TIMEOUT.as_secs()
    )]
    Hangs,
    /// krun-vmm, which runs the guest, is not there.
    #[error(transparent)]
    NoVmm(#[from] NotFound),
    /// krun-vmm cannot be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The process of the probe cannot be watched.
    #[error("watching the probe")]
    Watch(#[source] io::Error),
}

/// Checks that /dev/kvm exists, can be opened, and is KVM. Takes microseconds.
///
/// # Errors
/// The problem, and what to do about it.
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

/// Where KVM says whether it lets its guests be hosts, by its module. Source: KVM's modules, and what libkrun reads.
const NESTED: [(&str, &str); 2] = [
    ("kvm_intel", "/sys/module/kvm_intel/parameters/nested"),
    ("kvm_amd", "/sys/module/kvm_amd/parameters/nested"),
];

/// Guests of this host cannot be hosts of virtual machines.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoNested {
    /// The module says so: its name.
    #[error(
        "nested_virt = true: this host's KVM does not let guests run virtual machines: load {0} with nested=1 (options {0} nested=1 in /etc/modprobe.d), or leave it false"
    )]
    Off(&'static str),
    /// No module of KVM's is there, or none that knows of it.
    #[error(
        "nested_virt = true: this host has neither {}: must be false",
        NESTED.map(|(_, path)| path).join(" nor ")
    )]
    Unknown,
}

/// Checks that KVM lets its guests run virtual machines.
///
/// # Errors
/// Why not, and what to do about it.
pub fn nested() -> Result<(), NoNested> {
    let found = NESTED.iter().filter_map(|(module, path)| Some((*module, fs::read_to_string(path).ok()?)));
    nested_by(found)
}

fn nested_by(modules: impl Iterator<Item = (&'static str, String)>) -> Result<(), NoNested> {
    let mut result = Err(NoNested::Unknown);
    for (module, value) in modules {
        match value.trim() {
            "1" | "Y" | "y" => return Ok(()),
            _ => result = Err(NoNested::Off(module)),
        }
    }
    result
}

/// Checks that KVM really runs a guest: first [`device`], then a guest of a few instructions in another process
/// (`krun-vmm probe`). Blocks for milliseconds where KVM works, otherwise for up to 10 s.
///
/// # Errors
/// The problem, and what to do about it.
pub fn guest() -> Result<(), ProbeError> {
    device()?;
    guest_with(&find::krun_vmm()?)
}

/// As [`guest`], with a given `krun-vmm`.
pub(crate) fn guest_with(vmm: &Path) -> Result<(), ProbeError> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| ProbeError::Watch(errno.into()))?;
    let child = Spawn::new(vmm).arg("probe").fd(write, 2).spawn()?;
    let in_time = child.pidfd().ends_within(GUEST_TIMEOUT);
    // This also ends a process in KVM_RUN: KVM checks for signals.
    child.kill(Signal::SIGKILL);
    let status = child.wait().map_err(ProbeError::Watch)?;
    let mut stderr = String::new();
    let _ = File::from(read).take(1024).read_to_string(&mut stderr);
    match (in_time, status) {
        (Err(error), _) => Err(ProbeError::Watch(error)),
        (Ok(false), _) => Err(ProbeError::Hangs),
        (Ok(true), ExitStatus::Exited(0)) => Ok(()),
        (Ok(true), status) if stderr.trim().is_empty() => {
            Err(ProbeError::CannotRun(format!("the probe ended, {status}")))
        }
        (Ok(true), _) => Err(ProbeError::CannotRun(stderr.trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_nested_virtualization_says_why() {
        let by = |modules: &[(&'static str, &str)]| {
            nested_by(modules.iter().map(|(module, value)| (*module, format!("{value}\n"))))
        };
        assert_eq!(by(&[("kvm_amd", "1")]), Ok(()));
        assert_eq!(by(&[("kvm_intel", "N"), ("kvm_amd", "Y")]), Ok(()));
        let error = by(&[("kvm_intel", "N")]).unwrap_err().to_string();
        assert!(error.contains("load kvm_intel with nested=1"), "{error}");
        let error = by(&[]).unwrap_err().to_string();
        assert!(error.contains("kvm_intel/parameters/nested nor /sys/module/kvm_amd"), "{error}");
    }
}
