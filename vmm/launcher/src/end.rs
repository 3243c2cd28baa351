//! How a vmm ended, and a sentence that explains it. An exit status of 0 does not mean success: see
//! `guest_protocol::boot`.

use std::fmt;

use guest_protocol::boot::{GAVE_UP_STATUS, SENTINEL_STATUS};
use linux::pidfd::ExitStatus;

use crate::order;

/// How a vmm ended.
#[derive(Debug, Clone)]
pub struct VmEnd {
    /// The status of its process. It says nothing about the commands that ran in the VM.
    pub status: ExitStatus,
    /// The last lines that it wrote to stderr, at most 20.
    pub last_lines: Vec<String>,
    /// A sentence that explains the end to the user.
    pub reason: String,
}

impl fmt::Display for VmEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// What libkrun logs when KVM gives up on an instruction of the guest (krun-vmm, vstate.rs).
const KVM_GAVE_UP: &str = "KVM_EXIT_INTERNAL_ERROR";

impl VmEnd {
    pub(crate) fn new(status: ExitStatus, last_lines: Vec<String>, killed_by_us: bool) -> Self {
        let reason = reason(status, &last_lines, killed_by_us);
        VmEnd { status, last_lines, reason }
    }

    /// Says that the vmm was killed for a system call.
    pub(crate) fn refused_call(&mut self, call: &str) {
        self.reason = format!(
            "the vmm was killed for a system call that no vmm makes ({call}): its guest may have taken it over"
        );
        log::error!(target: "vmm", "{}", self.reason);
    }
}

fn reason(status: ExitStatus, last_lines: &[String], killed_by_us: bool) -> String {
    let last = last_lines.last().map(String::as_str).unwrap_or("it wrote no message");
    if last_lines.iter().any(|line| line.contains(KVM_GAVE_UP)) {
        return format!(
            "this host's /dev/kvm opens but cannot run a guest ({KVM_GAVE_UP}); `krunctl check` says more"
        );
    }
    match status {
        ExitStatus::Killed(libc::SIGKILL) if killed_by_us => "the vmm was killed as asked".to_owned(),
        ExitStatus::Exited(order::SETUP_FAILED) => last.strip_prefix("krun-vmm: ").unwrap_or(last).to_owned(),
        ExitStatus::Exited(order::ORPHANED) => "the vmm's parent is gone".to_owned(),
        // 0: it shut down as asked, or panicked before PID 1 could set another status.
        ExitStatus::Exited(code) if code == 0 || code == i32::from(SENTINEL_STATUS) => {
            format!("the guest has shut down, or its kernel panicked or its PID 1 died (vmm: {status})")
        }
        ExitStatus::Exited(code) if code == i32::from(GAVE_UP_STATUS) => {
            format!("the guest's PID 1 gave up; `debug_console` shows why (vmm: {status})")
        }
        ExitStatus::Exited(_) | ExitStatus::Killed(_) | ExitStatus::Unknown => {
            format!("the vmm ended ({status}): {last}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason_of(status: ExitStatus, lines: &[&str]) -> String {
        VmEnd::new(status, lines.iter().map(|&line| line.to_owned()).collect(), false).reason
    }

    #[test]
    fn each_kind_of_end_has_a_reason_that_a_user_understands() {
        assert_eq!(reason_of(ExitStatus::Exited(251), &["krun-vmm: entering the jail"]), "entering the jail");
        assert_eq!(
            reason_of(ExitStatus::Exited(0), &[]),
            "the guest has shut down, or its kernel panicked or its PID 1 died (vmm: exit status 0)"
        );
        assert!(
            reason_of(ExitStatus::Exited(1), &["x KVM_EXIT_INTERNAL_ERROR y", "z"]).contains("krunctl check")
        );
        assert_eq!(reason_of(ExitStatus::Killed(9), &["z"]), "the vmm ended (killed by SIGKILL): z");
        assert_eq!(VmEnd::new(ExitStatus::Killed(9), vec![], true).reason, "the vmm was killed as asked");
    }
}
