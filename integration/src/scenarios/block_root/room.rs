//! How much a container may write, and where that room comes from.

use super::{BLOCK, DISK, gone, says, snapshot, start};
use crate::command::Cmd;
use crate::ctx::Ctx;
use crate::scenario::Outcome;
use crate::undo;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Where containerd keeps its snapshots.
const SNAPSHOTS: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs";

/// MiB that a file takes on the disk.
fn taken(file: &Path) -> Result<u64> {
    let metadata = fs::metadata(file).with_context(|| format!("look at {}", file.display()))?;
    Ok((metadata.blocks() * 512) >> 20)
}

/// A full root is the container's own, its size is what `df` says, and what it removes is the host's again. Its files have what
/// virtiofs lacks. With the container goes its disk.
pub fn bounded(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    start(ctx, &["--annotation=io.containerd.krun.rootfs_size_mib=128"], &id)?;
    let disk = snapshot(ctx, &id)?.join(DISK);
    let empty = taken(&disk)?;
    ensure!(empty < 16, "a new disk of 128 MiB takes {empty} MiB");

    let size: u64 = says(ctx, &id, "df -m / | awk 'NR==2 {print $2}'")?.parse().context("df's answer")?;
    ensure!((90..=128).contains(&size), "df says {size} MiB for a disk of 128");
    let full = says(
        ctx,
        &id,
        "dd if=/dev/zero of=/big bs=1M count=1000 2>&1; sync; ls -s /big >/dev/null && echo alive",
    )?;
    ensure!(full.contains("No space left") && full.ends_with("alive"), "a full root: {full}");
    let most = taken(&disk)?;
    ensure!((60..=128).contains(&most), "a full disk of 128 MiB takes {most} MiB");
    // ext4 gives freed blocks back after their transaction is written.
    says(ctx, &id, "rm /big; sync")?;
    until_true("the host to have its room again", Duration::from_secs(30), || Ok(taken(&disk)? < 32))?;

    let names = says(
        ctx,
        &id,
        "mkdir /d; mknod /d/null c 1 3 && echo x >/d/null && echo device; echo y >/bin/new && cat /bin/new",
    )?;
    ensure!(names == "device\ny", "in the root: {names}");
    let written = fs::read_dir(disk.with_file_name("fs"))?.count();
    ensure!(written == 0, "{written} files are in the host's upper layer");
    ctx.end(&id)?;
    gone(&disk)?;
    Ok(Outcome::Passed)
}

/// The host's own disk is full: the container gets an error for what it syncs, and goes on; so does its neighbour.
pub fn host_full(ctx: &Ctx) -> Result<Outcome> {
    let (one, two) = (ctx.id("one"), ctx.id("two"));
    start(ctx, &[], &two)?;
    let filler = Path::new(SNAPSHOTS).join("filler");
    undo::remember(&["rm", "-f", &filler.display().to_string()])?;
    start(ctx, &[], &one)?;
    let free = fs_free(SNAPSHOTS)?;
    // All but some MiB.
    let length = (free - (24 << 20)).to_string();
    Cmd::new(&["fallocate", "-l", &length, &filler.display().to_string()]).run()?.ok()?;
    let said = says(ctx, &one, "dd if=/dev/zero of=/big bs=1M count=200 conv=fsync 2>&1; echo status $?")?;
    ensure!(
        said.contains("status 1") && said.to_lowercase().contains("error"),
        "a write that the host has no room for: {said}"
    );
    ensure!(says(ctx, &one, "echo alive")? == "alive", "the container did not go on");
    fs::remove_file(&filler).context("make room again")?;
    ensure!(says(ctx, &two, "echo x >/x; sync; cat /x")? == "x", "the neighbour noticed");
    for id in [&one, &two] {
        ctx.end(id)?;
    }
    ctx.sh(&[BLOCK], &ctx.id("three"), "echo fine").run()?.ok()?.printed("fine\n")?;
    Ok(Outcome::Passed)
}

/// Free bytes of the file system that `path` is on.
fn fs_free(path: &str) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path).with_context(|| format!("statvfs {path}"))?;
    Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}
