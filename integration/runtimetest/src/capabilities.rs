//! `process.capabilities`: all five sets.

use crate::config::Config;
use crate::process::field;
use crate::report::Report;
use anyhow::Result;
use std::fs;

/// In the order of their numbers. Source: linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const SETS: [(&str, &str); 5] = [
    ("bounding", "CapBnd"),
    ("effective", "CapEff"),
    ("inheritable", "CapInh"),
    ("permitted", "CapPrm"),
    ("ambient", "CapAmb"),
];

pub fn check(config: &Config, report: &mut Report) -> Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    for (set, line) in SETS {
        let told = mask(&config.texts(&format!("/process/capabilities/{set}")));
        report.same(format!("process.capabilities.{set}"), told.as_str(), field(&status, line));
    }
    Ok(())
}

/// As the kernel shows a set.
fn mask(names: &[&str]) -> String {
    let bit = |name: &&str| NAMES.iter().position(|n| Some(*n) == name.strip_prefix("CAP_"));
    let bits = names.iter().filter_map(bit).fold(0_u64, |mask, bit| mask | 1 << bit);
    format!("{bits:016x}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_set_is_its_bits() {
        assert_eq!(super::mask(&[]), "0000000000000000");
        assert_eq!(
            super::mask(&["CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_CHECKPOINT_RESTORE"]),
            "0000010000040001"
        );
    }
}
