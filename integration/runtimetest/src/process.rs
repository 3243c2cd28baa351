//! `process`: who runs, with what, within which limits.

use crate::config::{Config, text};
use crate::report::Report;
use anyhow::{Context, Result};
use nix::unistd::{getegid, geteuid, getgid, getgroups, getuid};
use std::collections::BTreeSet;
use std::{env, fs};

pub fn check(config: &Config, report: &mut Report) -> Result<()> {
    report.same(
        "process.args",
        config.texts("/process/args").join(" "),
        env::args().collect::<Vec<_>>().join(" "),
    );
    // Not by getcwd, which a filter may forbid.
    let cwd = fs::read_link("/proc/self/cwd").context("the working directory")?;
    report.same("process.cwd", config.text("/process/cwd"), cwd.to_str());
    for variable in config.texts("/process/env") {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        report.same(format!("process.env {name}"), Some(value.to_owned()), env::var(name).ok());
    }
    user(config, report)?;
    let status = fs::read_to_string("/proc/self/status")?;
    let no_new_privileges = config.at("/process/noNewPrivileges").is_some_and(|v| v == true);
    report.same(
        "process.noNewPrivileges",
        if no_new_privileges { "1" } else { "0" },
        field(&status, "NoNewPrivs"),
    );
    if let Some(adjustment) = config.number("/process/oomScoreAdj") {
        let found = fs::read_to_string("/proc/self/oom_score_adj")?;
        report.same("process.oomScoreAdj", adjustment.to_string().as_str(), found.trim());
    }
    limits(config, report)
}

fn user(config: &Config, report: &mut Report) -> Result<()> {
    let id = |pointer| config.number(pointer).unwrap_or_default();
    let (uid, gid) = (id("/process/user/uid"), id("/process/user/gid"));
    report.same("process.user.uid", [uid, uid], [getuid(), geteuid()].map(|id| id.as_raw().into()));
    report.same("process.user.gid", [gid, gid], [getgid(), getegid()].map(|id| id.as_raw().into()));
    let told = config.list("/process/user/additionalGids").iter().filter_map(|id| id.as_i64());
    let found: BTreeSet<i64> = getgroups()?.into_iter().map(|id| id.as_raw().into()).collect();
    report.same("process.user.additionalGids", told.collect::<BTreeSet<_>>(), found);
    if let Some(umask) = config.number("/process/user/umask") {
        let status = fs::read_to_string("/proc/self/status")?;
        report.same("process.user.umask", Ok(umask), i64::from_str_radix(field(&status, "Umask"), 8));
    }
    Ok(())
}

/// The value of a line of /proc/self/status.
pub fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map_or("", str::trim)
}

fn limits(config: &Config, report: &mut Report) -> Result<()> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    for limit in config.list("/process/rlimits") {
        let kind = text(limit, "type").unwrap_or_default();
        let told = ["soft", "hard"].map(|key| limit[key].as_u64().unwrap_or_default());
        report.same(
            format!("process.rlimits {kind}"),
            Some(told),
            LIMITS.iter().find_map(|(name, row)| (*name == kind).then(|| row_of(&limits, row))?),
        );
    }
    Ok(())
}

/// Their rows in /proc/self/limits. Source: fs/proc/base.c of the kernel.
const LIMITS: [(&str, &str); 8] = [
    ("RLIMIT_AS", "Max address space"),
    ("RLIMIT_CORE", "Max core file size"),
    ("RLIMIT_CPU", "Max cpu time"),
    ("RLIMIT_FSIZE", "Max file size"),
    ("RLIMIT_MEMLOCK", "Max locked memory"),
    ("RLIMIT_NOFILE", "Max open files"),
    ("RLIMIT_NPROC", "Max processes"),
    ("RLIMIT_STACK", "Max stack size"),
];

fn row_of(limits: &str, row: &str) -> Option<[u64; 2]> {
    let mut values = limits.lines().find_map(|line| line.strip_prefix(row))?.split_whitespace();
    let mut value = || match values.next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    Some([value()?, value()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_fields_are_read() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  unlimited  files\n";
        assert_eq!(row_of(limits, "Max open files"), Some([1024, u64::MAX]));
        assert_eq!(row_of(limits, "Max processes"), None);
        assert_eq!(field("Name:\tx\nNoNewPrivs:\t1\n", "NoNewPrivs"), "1");
    }
}
