//! `linux.devices`, and those that every container has.

use crate::config::{Config, text};
use crate::report::Report;
use anyhow::Result;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Source: the runtime specification, config-linux.md, "Default Devices".
const DEFAULT: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

pub fn check(config: &Config, report: &mut Report) -> Result<()> {
    for (path, major, minor) in DEFAULT {
        report.same(path, Some((major, minor)), numbers(path));
        report.same(format!("the mode of {path}"), Some(0o666), permissions(path));
    }
    for (path, target) in LINKS {
        let found = fs::read_link(path).ok();
        report.same(path, Some(target), found.as_deref().and_then(|p| p.to_str()));
    }
    for device in config.list("/linux/devices") {
        let path = text(device, "path").unwrap_or_default();
        let number = |key: &str| device[key].as_u64().unwrap_or_default();
        report.same(format!("linux.devices {path}"), Some((number("major"), number("minor"))), numbers(path));
        if let Some(mode) = device["fileMode"].as_u64() {
            report.same(
                format!("linux.devices {path}: the mode"),
                Some(mode as u32 & 0o7777),
                permissions(path),
            );
        }
        let owner = fs::metadata(path).ok().map(|m| (u64::from(m.uid()), u64::from(m.gid())));
        report.same(format!("linux.devices {path}: the owner"), Some((number("uid"), number("gid"))), owner);
    }
    Ok(())
}

/// A device's major and minor number. Source: makedev(3).
fn numbers(path: &str) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    let kind = metadata.file_type();
    (kind.is_char_device() || kind.is_block_device())
        .then(|| (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev())))
}

fn permissions(path: &str) -> Option<u32> {
    Some(fs::metadata(path).ok()?.mode() & 0o7777)
}
