//! `linux.resources`, where the container can see its cgroup. Source: the kernel's cgroup-v2.rst.

use crate::config::Config;
use crate::report::Report;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

const ROOT: &str = "/sys/fs/cgroup";

pub fn check(config: &Config, report: &mut Report) -> Result<()> {
    if !Path::new(ROOT).join("cgroup.procs").exists() {
        return Ok(());
    }
    let number = |pointer| config.number(&format!("/linux/resources/{pointer}"));
    let period = number("cpu/period").unwrap_or(100_000);
    let told = [
        ("memory.max", number("memory/limit").map(|limit| limit.to_string())),
        ("memory.low", number("memory/reservation").map(|low| low.to_string())),
        ("pids.max", number("pids/limit").map(|limit| limit.to_string())),
        ("cpu.max", number("cpu/quota").map(|quota| format!("{quota} {period}"))),
    ];
    for (file, told) in told {
        let Some(told) = told else { continue };
        let path = format!("{ROOT}/{file}");
        let found = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        report.same(format!("linux.resources: {file}"), told.as_str(), found.trim());
    }
    Ok(())
}
