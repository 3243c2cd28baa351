//! What the kernel is told about the container: its names, sysctls, namespaces and system call filter.

use crate::config::{Config, text};
use crate::process::field;
use crate::report::Report;
use anyhow::{Context, Result};
use std::fs;

pub fn check(config: &Config, report: &mut Report) -> Result<()> {
    for (name, file) in [("hostname", "hostname"), ("domainname", "domainname")] {
        if let Some(told) = config.text(&format!("/{name}")) {
            report.same(name, told, read(&format!("/proc/sys/kernel/{file}"))?.trim());
        }
    }
    for (key, told) in config.at("/linux/sysctl").and_then(|v| v.as_object()).into_iter().flatten() {
        let found = read(&format!("/proc/sys/{}", key.replace('.', "/")))?;
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        report.same(format!("linux.sysctl {key}"), words(told.as_str().unwrap_or_default()), words(&found));
    }
    namespaces(config, report)?;
    seccomp(config, report)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

/// Those that show from within that they are the container's own.
fn namespaces(config: &Config, report: &mut Report) -> Result<()> {
    let kinds: Vec<_> = config.list("/linux/namespaces").iter().filter_map(|n| text(n, "type")).collect();
    if kinds.contains(&"pid") {
        report.same("linux.namespaces pid: this process", 1, std::process::id());
    }
    if kinds.contains(&"cgroup") {
        report.same("linux.namespaces cgroup: the group", "0::/", read("/proc/self/cgroup")?.trim());
    }
    if kinds.contains(&"ipc") {
        let lines = read("/proc/sysvipc/shm")?.lines().count();
        report.same("linux.namespaces ipc: segments of others", 0, lines - 1);
    }
    Ok(())
}

/// Whether there is a filter (mode 2: proc_pid_status(5)), and whether what it forbids fails as told.
fn seccomp(config: &Config, report: &mut Report) -> Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let told = if config.at("/linux/seccomp").is_some() { "2" } else { "0" };
    report.same("linux.seccomp: the mode", told, field(&status, "Seccomp"));
    let forbidden = config.list("/linux/seccomp/syscalls").iter().any(|rule| {
        text(rule, "action") == Some("SCMP_ACT_ERRNO")
            && rule["args"].is_null()
            && rule["names"].as_array().is_some_and(|names| names.iter().any(|name| name == "getcwd"))
    });
    if forbidden {
        report.holds(std::env::current_dir().is_err(), || "linux.seccomp: getcwd is allowed".to_owned());
    }
    Ok(())
}
