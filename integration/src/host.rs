//! Changes to the box that scenarios make, each with its way back on the undo list first.

use crate::command::Cmd;
use crate::undo;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Where libkrunfw may be, and what it is called.
const LIBRARY_DIRS: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib64",
    "/usr/local/lib",
];
const LIBKRUNFW: &str = "libkrunfw.so.5";

/// Moves a file away, out of its directory's sight for whoever looks for its name.
pub fn hide(path: &Path) -> Result<()> {
    let path = path.to_str().context("a path in UTF-8")?;
    let hidden = format!("{path}.hidden");
    undo::remember(&["mv", &hidden, path])?;
    fs::rename(path, &hidden).with_context(|| format!("hide {path}"))
}

/// Puts one file or device over another.
pub fn cover(path: &str, with: &str) -> Result<()> {
    undo::remember(&["umount", path])?;
    Cmd::new(&["mount", "--bind", with, path]).run()?.ok().map(drop)
}

/// Mounts a tmpfs with room for this many files, and fills it to the last byte.
pub fn full_tmpfs(path: &str, files: usize) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make {path}"))?;
    undo::remember(&["umount", path])?;
    Cmd::new(&["mount", "-t", "tmpfs", "-o", &format!("size=64k,nr_inodes={files}"), "full", path])
        .run()?
        .ok()?;
    let filled = Cmd::new(&["dd", "if=/dev/zero", &format!("of={path}/filler"), "bs=4k"]).run()?;
    ensure!(filled.status != 0, "a tmpfs of 64 KiB took everything: {filled}");
    Ok(())
}

/// Every installed libkrunfw, by the names under which it can be found.
pub fn libkrunfws() -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for dir in LIBRARY_DIRS {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let real = entry.path();
            let canonical = fs::canonicalize(dir).unwrap_or_default().join(entry.file_name());
            if entry.file_name().to_string_lossy().starts_with(LIBKRUNFW) && !found.contains(&canonical) {
                ensure!(real.exists(), "{} points nowhere", real.display());
                found.push(canonical);
            }
        }
    }
    ensure!(!found.is_empty(), "no {LIBKRUNFW} in the box");
    Ok(found)
}

/// The version of the kernel inside libkrunfw, as `uname -r` will print it.
pub fn libkrunfw_kernel() -> Result<String> {
    const BANNER: &[u8] = b"Linux version "; // linux_banner of init/version.c
    let library = libkrunfws()?.remove(0);
    let bytes = fs::read(&library).with_context(|| format!("read {}", library.display()))?;
    let mut versions =
        bytes.windows(BANNER.len()).enumerate().filter(|(_, w)| *w == BANNER).filter_map(|(at, _)| {
            let rest = &bytes[at + BANNER.len()..];
            let word = rest.split(|b| *b == b' ').next()?;
            (word.first()?.is_ascii_digit() && word.len() < 64)
                .then(|| String::from_utf8_lossy(word).into_owned())
        });
    versions.next().with_context(|| format!("no kernel version in {}", library.display()))
}

/// The box's own kernel version.
pub fn kernel() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("read the kernel's version")?
        .trim()
        .to_owned())
}

/// The box's memory.
pub fn memory_kib() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let total = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:")).context("no MemTotal")?;
    total.trim().trim_end_matches("kB").trim().parse().context("MemTotal")
}
