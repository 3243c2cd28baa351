//! Block devices that a client asks for.

use crate::command::Cmd;
use crate::ctx::Ctx;
use crate::scenario::Outcome;
use crate::undo;
use anyhow::{Context, Result, ensure};
use std::fs;

/// A lone container has a loop device of the host as runc's has it: read-write or read-only, under the name that was asked for, and no
/// other disk beside it. What it writes is in the host's file.
pub fn devices(ctx: &Ctx) -> Result<Outcome> {
    let file = ctx.work("disk").display().to_string();
    fs::write(&file, vec![b'.'; 1 << 20]).context("make a file")?;
    let device = Cmd::new(&["losetup", "-f", "--show", &file]).run()?.ok()?.stdout_text().trim().to_owned();
    undo::remember(&["losetup", "-d", &device])?;

    let script = format!(
        "stat -c %F {device}; dd if={device} bs=3 count=1 2>/dev/null; echo; printf mine | dd of={device} conv=fsync 2>/dev/null && echo wrote"
    );
    let run = |flag: &str| ctx.sh(&["--device", flag], &ctx.id(""), &script).run();
    run(&device)?.ok()?.printed("block special file\n...\nwrote\n")?;
    let written = fs::read(&file).context("read the file")?;
    ensure!(
        written.starts_with(b"mine...") && written.len() == 1 << 20,
        "the file begins with {:?}",
        &written[..8]
    );
    let other = "ls -l /dev | grep -c ^b; for n in /dev/x /tmp/x; do mknod $n b 254 16 && cat $n; done 2>&1 | grep -ci 'not permitted\\|no such'";
    let seen = ctx.sh(&["--device", &device], &ctx.id("other"), other).run()?.stdout_text();
    ensure!(seen == "1\n2\n", "disks beside the one that it has: {seen}");
    if ctx.krun() {
        // One that is mounted is not written to by two kernels.
        let (target, image) = (ctx.work("mounted"), ctx.work("image").display().to_string());
        fs::create_dir(&target).context("make a directory")?;
        let target = target.display().to_string();
        Cmd::new(&["mke2fs", "-q", "-t", "ext4", &image, "4M"]).run()?.ok()?;
        let other =
            Cmd::new(&["losetup", "-f", "--show", &image]).run()?.ok()?.stdout_text().trim().to_owned();
        undo::remember(&["losetup", "-d", &other])?;
        undo::remember(&["umount", &target])?;
        Cmd::new(&["mount", &other, &target]).run()?.ok()?;
        run(&other)?.refused(&["linux.devices", "it is mounted on the host"])?;

        let pod = [
            "--device",
            &device,
            "--annotation=io.kubernetes.cri.container-type=sandbox",
            "--annotation=io.kubernetes.cri.sandbox-id=x",
        ];
        ctx.sh(&pod, &ctx.id("pod"), "true").run()?.refused(&[
            "linux.devices",
            &device,
            "outside of pods",
        ])?;
    }
    Ok(Outcome::Passed)
}
