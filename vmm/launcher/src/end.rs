//! How a vmm ended, in words. A status alone never means success: see `guest_protocol::boot`.

use std::fmt;

use guest_protocol::boot::{GAVE_UP_STATUS, SENTINEL_STATUS};
use linux::pidfd::How;

use crate::order;

/// How a vmm ended.
#[derive(Debug, Clone)]
pub struct VmEnd {
    /// Its process.
    pub how: How,
    /// The last lines that it wrote to its stderr.
    pub last_words: Vec<String>,
    /// Why, for a person.
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
    pub(crate) fn new(how: How, last_words: Vec<String>, killed_by_us: bool) -> Self {
        let reason = reason(how, &last_words, killed_by_us);
        VmEnd { how, last_words, reason }
    }
}

fn reason(how: How, last_words: &[String], killed_by_us: bool) -> String {
    let last = last_words.last().map(String::as_str).unwrap_or("it left no message");
    if last_words.iter().any(|line| line.contains(KVM_GAVE_UP)) {
        return format!(
            "this host's /dev/kvm opens but cannot run a guest ({KVM_GAVE_UP}); `krun-vmm check` says more"
        );
    }
    match how {
        How::Killed(libc::SIGKILL) if killed_by_us => "the vmm was killed as asked".to_owned(),
        How::Exited(order::SETUP_FAILED) => last.strip_prefix("krun-vmm: ").unwrap_or(last).to_owned(),
        How::Exited(order::ORPHANED) => "the vmm's parent is gone".to_owned(),
        // 0: it shut down as asked, or panicked before PID 1 could set another status.
        How::Exited(status) if status == 0 || status == i32::from(SENTINEL_STATUS) => {
            format!("the guest has shut down, or its kernel panicked or its PID 1 died (vmm: {how})")
        }
        How::Exited(status) if status == i32::from(GAVE_UP_STATUS) => {
            format!("the guest's PID 1 gave up; `debug_console` shows why (vmm: {how})")
        }
        How::Exited(_) | How::Killed(_) | How::Unknown => format!("the vmm ended ({how}): {last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(how: How, words: &[&str]) -> String {
        VmEnd::new(how, words.iter().map(|&word| word.to_owned()).collect(), false).reason
    }

    #[test]
    fn reasons_are_for_people() {
        assert_eq!(said(How::Exited(251), &["krun-vmm: entering the jail"]), "entering the jail");
        assert_eq!(
            said(How::Exited(0), &[]),
            "the guest has shut down, or its kernel panicked or its PID 1 died (vmm: exit status 0)"
        );
        assert!(said(How::Exited(1), &["x KVM_EXIT_INTERNAL_ERROR y", "z"]).contains("krun-vmm check"));
        assert_eq!(said(How::Killed(9), &["z"]), "the vmm ended (killed by SIGKILL): z");
        assert_eq!(VmEnd::new(How::Killed(9), vec![], true).reason, "the vmm was killed as asked");
    }
}
