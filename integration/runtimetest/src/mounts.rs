//! `root`, `mounts`, and the paths that are hidden or read-only.

use crate::config::{Config, text};
use crate::report::Report;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::path::Path;

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)), as far as it matters here.
struct Mounted<'a> {
    target: &'a str,
    kind: &'a str,
    /// The mount's own options and its file system's.
    options: Vec<&'a str>,
}

pub fn check(config: &Config, report: &mut Report) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let mounted: Vec<_> = table.lines().filter_map(parse).collect();
    let read_only = config.at("/root/readonly").is_some_and(|v| v == true);
    report.same("root.readonly", read_only, is_read_only(&mounted, "/"));
    for mount in config.list("/mounts") {
        compare(mount, &mounted, report);
    }
    for path in config.texts("/linux/readonlyPaths").into_iter().filter(|path| Path::new(path).exists()) {
        report.holds(is_read_only(&mounted, path), || format!("linux.readonlyPaths: {path} is writable"));
    }
    for path in config.texts("/linux/maskedPaths").into_iter().filter(|path| Path::new(path).exists()) {
        report.holds(is_empty(path), || format!("linux.maskedPaths: {path} can be read"));
    }
    Ok(())
}

fn parse(line: &str) -> Option<Mounted<'_>> {
    let (mount, system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(4);
    let (target, own) = (fields.next()?, fields.next()?);
    let mut fields = system.split(' ');
    let (kind, all) = (fields.next()?, fields.nth(1)?);
    Some(Mounted { target, kind, options: own.split(',').chain(all.split(',')).collect() })
}

/// The topmost mount on a path.
fn on<'a>(mounted: &'a [Mounted], target: &str) -> Option<&'a Mounted<'a>> {
    mounted.iter().rev().find(|m| m.target == target)
}

fn is_read_only(mounted: &[Mounted], path: &str) -> bool {
    on(mounted, path).is_some_and(|m| m.options.contains(&"ro"))
}

/// What shows in the table as it is written in a config.json.
const SHOWN: [&str; 6] = ["ro", "nosuid", "nodev", "noexec", "noatime", "relatime"];

fn compare(mount: &Value, mounted: &[Mounted], report: &mut Report) {
    let destination = text(mount, "destination").unwrap_or_default();
    let Some(found) = on(mounted, destination) else {
        return report.holds(false, || format!("mounts: nothing is mounted on {destination}"));
    };
    let told: Vec<_> = mount["options"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let is_bind = told.iter().any(|option| ["bind", "rbind"].contains(option));
    // cgroup is what version 1 was called.
    let kind = text(mount, "type").filter(|kind| !is_bind && *kind != "bind").map(|kind| match kind {
        "cgroup" => "cgroup2",
        kind => kind,
    });
    if let Some(kind) = kind {
        report.same(format!("mounts: the type on {destination}"), kind, found.kind);
    }
    for option in told {
        let size = option.starts_with("size=") && option.ends_with('k');
        if SHOWN.contains(&option) || option.starts_with("mode=") && kind == Some("tmpfs") || size {
            let shown = option.replace("mode=0", "mode=");
            // What is usual does not show: a directory for all with the sticky bit.
            let holds = found.options.contains(&shown.as_str()) || shown == "mode=1777";
            report
                .holds(holds, || format!("mounts: {destination} has not {option}, but {:?}", found.options));
        }
    }
}

/// A masked file has no bytes, a masked directory no entries.
fn is_empty(path: &str) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => {
            OpenOptions::new().read(true).open(path).is_err() || fs::read(path).is_ok_and(|b| b.is_empty())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_taken_apart() {
        let line = "36 35 98:0 /mnt1 /tmp rw,noatime shared:1 - tmpfs tmpfs rw,size=64k";
        let mounted = parse(line).unwrap();
        assert_eq!((mounted.target, mounted.kind), ("/tmp", "tmpfs"));
        assert_eq!(mounted.options, ["rw", "noatime", "rw", "size=64k"]);
    }
}
