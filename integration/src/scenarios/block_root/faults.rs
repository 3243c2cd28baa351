//! Disks that are no good, and requests that are none.

use super::{BLOCK, DISK, snapshot};
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::Outcome;
use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Does something to a disk's file.
type Spoil<'a> = &'a dyn Fn() -> Result<()>;

/// What a guest may have done to its own disk, or somebody to the file: each is an error that says so, when the container is started
/// again, and the host never looks into it.
pub fn faults(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let flags = ["container", "create", "--runtime", ctx.runtime.containerd_name(), BLOCK];
    ctx.ctr(&[&flags[..], &[BUSYBOX, &id, "true"]].concat()).run()?.ok()?;
    let run = || ctx.ctr(&["task", "start", &id]).run();
    run()?.ok()?;
    ctx.ctr(&["task", "rm", &id]).run()?;
    let disk = snapshot(ctx, &id)?.join(DISK);
    let good = fs::metadata(&disk).context("the disk")?.len();
    let open = || File::options().write(true).open(&disk).context("open the disk");
    let spoils: [(&str, Spoil, &str); 5] = [
        ("garbage", &|| Ok(open()?.write_all_at(&[0xa5; 1 << 20], 0)?), "no ext4"),
        ("another file system", &|| Ok(open()?.write_all_at(b"XFSB", 0)?), "no ext4"),
        ("an encrypted one", &|| Ok(open()?.write_all_at(b"LUKS\xba\xbe", 0)?), "no ext4"),
        ("cut off", &|| Ok(open()?.set_len(8192)?), "disk"),
        ("empty", &|| Ok(open()?.set_len(0)?), "disk"),
    ];
    for (what, spoil, says) in spoils {
        spoil().with_context(|| format!("make it {what}"))?;
        let refused = run()?.refused(&[says]).with_context(|| format!("a disk that is {what}"))?;
        ensure!(!refused.stderr_text().contains("deadline"), "a disk that is {what}: {refused}");
        ctx.ctr(&["task", "rm", "--force", &id]).run()?;
    }
    // Another process has it, as a VM that has not ended.
    let lock = open()?;
    lock.set_len(good)?;
    let lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("lock the disk")?;
    run()?.refused(&["another VM has it"])?;
    ctx.ctr(&["task", "rm", "--force", &id]).run()?;
    drop(lock);
    // Without it, the container begins anew.
    fs::remove_file(&disk).context("remove the disk")?;
    std::os::unix::fs::symlink("/etc/passwd", &disk).context("link it")?;
    run()?.refused(&[DISK])?;
    ctx.ctr(&["task", "rm", "--force", &id]).run()?;
    fs::remove_file(&disk).context("remove the link")?;
    run()?.ok()?;
    ctx.ctr(&["task", "rm", &id]).run()?;
    ensure!(fs::metadata(&disk).context("the new disk")?.len() == good, "the new disk has another size");
    ctx.ctr(&["container", "rm", &id]).run()?.ok()?;
    unused(ctx, &flags)
}

/// A container that cannot be created leaves no disk in its snapshot.
fn unused(ctx: &Ctx, create: &[&str]) -> Result<Outcome> {
    let id = ctx.id("unused");
    ctx.ctr(&[create, &[BUSYBOX, &id, "/absent"]].concat()).run()?.ok()?;
    ctx.ctr(&["task", "start", &id]).run()?.refused(&["/absent"])?;
    let disk = snapshot(ctx, &id)?.join(DISK);
    ensure!(!disk.exists(), "{} stays", disk.display());
    ctx.ctr(&["container", "rm", &id]).run()?.ok()?;
    Ok(Outcome::Passed)
}

/// Values that are none, snapshotters that give no overlay, and no mke2fs.
pub fn refused(ctx: &Ctx) -> Result<Outcome> {
    let run = |flags: &[&str]| ctx.sh(flags, &ctx.id(""), "true").run();
    run(&["--annotation=io.containerd.krun.rootfs=raid"])?.refused(&[
        "rootfs",
        "\"raid\"",
        "must be one of",
    ])?;
    for size in ["0", "63", "17000000", "-1"] {
        let flag = format!("--annotation=io.containerd.krun.rootfs_size_mib={size}");
        run(&[BLOCK, &flag])?.refused(&["rootfs_size_mib", size, "must be 64 to 16777216"])?;
    }
    run(&[BLOCK, "--annotation=io.containerd.krun.rootfs_size_mib=big"])?
        .refused(&["must be a whole number"])?;
    let pod = [
        "--annotation=io.kubernetes.cri.container-type=sandbox",
        "--annotation=io.kubernetes.cri.sandbox-id=x",
    ];
    run(&[&pod[..], &[BLOCK]].concat())?.refused(&["\"block\" in a pod", "enable_annotations"])?;
    run(&[&pod[..], &["--annotation=io.containerd.krun.rootfs_size_mib=10241"]].concat())?
        .refused(&["rootfs_size_mib = 10241 in a pod", "at most 10240"])?;
    run(&[BLOCK, "--snapshotter", "native"])?.refused(&["rootfs = block", "bind", "virtiofs"])?;

    let root = ctx.work("root");
    crate::spec::busybox_root(&root)?;
    let root = root.display().to_string();
    ctx.run(&["--rm", BLOCK, "--rootfs"], &root, &ctx.id(""), &["true"])
        .run()?
        .refused(&["rootfs = block"])?;

    crate::host::hide(std::path::Path::new("/usr/sbin/mke2fs"))?;
    run(&[BLOCK])?.refused(&["mke2fs", "e2fsprogs"])?;
    Ok(Outcome::Passed)
}
