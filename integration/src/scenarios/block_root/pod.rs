//! A pod: its containers share the disk of its sandbox.

use super::{DISK, says, snapshot};
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::Outcome;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;

/// A container that comes later has a root on the disk as well, one of its own. One that comes again finds a new root. None of them
/// writes to the host's snapshots, and nobody finds the roots of the others.
pub fn pod(ctx: &Ctx) -> Result<Outcome> {
    let [pod, one, two] = ["pod", "one", "two"].map(|name| ctx.id(name));
    let config = ctx.work("root.toml").display().to_string();
    fs::write(&config, "rootfs = 'block'\n").context("configure")?;
    let sandbox = format!("--annotation=io.kubernetes.cri.sandbox-id={pod}");
    let start = |id: &str, kind: &str| -> Result<()> {
        let kind = format!("--annotation=io.kubernetes.cri.container-type={kind}");
        let flags = [
            "--detach",
            "--null-io",
            "--runtime-config-path",
            &config,
            "--annotation=io.containerd.krun.rootfs_size_mib=256",
            &sandbox,
            &kind,
        ];
        ctx.run(&flags, BUSYBOX, id, &["sleep", "1000"]).run()?.ok()?;
        ctx.wait_for_status(id, "RUNNING").map(drop)
    };
    start(&pod, "sandbox")?;
    start(&one, "container")?;
    start(&two, "container")?;
    for id in [&one, &two] {
        says(
            ctx,
            id,
            &format!(
                "echo {id} >/who; mkdir /deep; dd if=/dev/zero of=/deep/file bs=1M count=20 2>/dev/null; rm /bin/ls; sync"
            ),
        )?;
    }
    for id in [&one, &two] {
        ensure!(says(ctx, id, "cat /who")? == **id, "{id} finds another's file");
        let size = says(ctx, id, "df -m / | awk 'NR==2 {print $2}'")?;
        ensure!((180..=256).contains(&size.parse::<u32>()?), "df says {size} MiB for a disk of 256");
        let written = fs::read_dir(snapshot(ctx, id)?.join("fs"))?.count();
        ensure!(
            written == 0 && !snapshot(ctx, id)?.join(DISK).exists(),
            "{id} has {written} files on the host"
        );
    }
    let used =
        |id: &str| -> Result<u32> { Ok(says(ctx, id, "sync; df -m / | awk 'NR==2 {print $3}'")?.parse()?) };
    let before = used(&two)?;
    ensure!(before >= 40, "two files of 20 MiB take {before} MiB");
    // A container that comes again at once, under the same name, is not the old one, whose files are removed in the background.
    let links = "mkdir /deep/a; i=0; while [ $i -lt 500 ]; do : >/deep/a/$i; i=$((i+1)); done
        for n in $(seq 60); do cp -rl /deep/a /deep/$n || exit 1; done";
    says(ctx, &one, links)?;
    ctx.end(&one)?;
    start(&one, "container")?;
    let found = says(ctx, &one, "cat /who 2>/dev/null; ls -d /bin/ls; echo kept >/kept")?;
    ensure!(found == "/bin/ls", "a new container finds an old one's root: {found}");
    until_true(
        "the room of a removed container",
        Duration::from_secs(60),
        || Ok(used(&two)? <= before - 15),
    )?;
    ensure!(says(ctx, &one, "cat /kept")? == "kept", "what a new container wrote went with the old one's");
    for id in [&two, &one, &pod] {
        ctx.end(id)?;
    }
    Ok(Outcome::Passed)
}
