//! Root file systems of the guest's own: `rootfs = block`.

mod devices;
mod faults;
mod kept;
mod load;
mod nested;
mod pod;
mod room;
mod snapshotters;

use crate::ctx::{BUSYBOX, Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

const WHY: &str = "runc's roots are the host's";

const BOTH: &str = "it runs both";

const NESTED: &str = "with runc it would be the box's cgroups that are prepared";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("block-root", room::bounded).krun_only(WHY),
    Scenario::new("block-root-kept", kept::kept).krun_only(WHY),
    Scenario::new("block-root-pod", pod::pod).krun_only(WHY),
    Scenario::new("block-root-snapshotters", snapshotters::snapshotters).timeout(400),
    Scenario::new("block-root-layers", snapshotters::many_layers).long().timeout(600),
    Scenario::new("block-root-nested", nested::containerd).long().krun_only(NESTED).timeout(400),
    Scenario::new("block-root-docker", nested::docker).long().krun_only(NESTED).needs("dockerd").timeout(600),
    Scenario::new("block-root-load", load::load)
        .long()
        .image(DEBIAN)
        .needs("git")
        .krun_only(BOTH)
        .timeout(1800),
    Scenario::new("block-root-changed", kept::changed).long().krun_only(WHY),
    Scenario::new("block-devices", devices::devices).long(),
    Scenario::new("block-root-faults", faults::faults).long().krun_only(WHY).timeout(400),
    Scenario::new("block-root-refused", faults::refused).long().krun_only(WHY),
    Scenario::new("block-root-host-full", room::host_full).long().krun_only(WHY),
    Scenario::new("block-root-files", files).long().image(DEBIAN).krun_only(WHY).timeout(900),
];

/// The flag that asks for it.
const BLOCK: &str = "--annotation=io.containerd.krun.rootfs=block";

/// A disk's file, in the directory of its snapshot.
const DISK: &str = "krun-upper.img";

/// Everything that files do is as with runc, device nodes too. Unnamed files work, which runc's overlay has since Linux 6.1 only where
/// the upper layer has them; ACLs do not, as libkrunfw's ext4 has none.
fn files(ctx: &Ctx) -> Result<Outcome> {
    let of_the_kernels = ["access_control_lists", "temporary_file"];
    let may_differ =
        |line: &str| line.starts_with("/data") || of_the_kernels.iter().any(|name| line.contains(name));
    let said = super::fidelity::files_with(ctx, &[BLOCK], may_differ)?;
    let unnamed = said.lines().find(|line| line.starts_with("/tmp/files temporary_file"));
    ensure!(unnamed.is_some_and(|line| line.contains("named later")), "{unnamed:?}");
    Ok(Outcome::Passed)
}

/// The directory of a container's snapshot.
fn snapshot(ctx: &Ctx, key: &str) -> Result<PathBuf> {
    let mounts = ctx.ctr(&["snapshots", "mounts", "/nowhere", key]).run()?.ok()?.stdout_text();
    let upper = mounts.split([',', ' ']).find_map(|option| option.strip_prefix("upperdir="));
    let upper = upper.with_context(|| format!("no upperdir= in {mounts}"))?;
    Ok(Path::new(upper).parent().context("upperdir= has no parent")?.to_owned())
}

/// Starts a detached container that sleeps.
fn start(ctx: &Ctx, flags: &[&str], id: &str) -> Result<()> {
    ctx.run(&[&["--detach", "--null-io", BLOCK], flags].concat(), BUSYBOX, id, &["sleep", "1000"])
        .run()?
        .ok()?;
    ctx.wait_for_status(id, "RUNNING").map(drop)
}

/// What a shell in a running container says.
fn says(ctx: &Ctx, id: &str, script: &str) -> Result<String> {
    let output = ctx.ctr(&["task", "exec", "--exec-id", "e", id, "sh", "-c", script]).run()?.ok()?;
    Ok(output.stdout_text().trim().to_owned())
}

/// Waits until containerd has removed what belonged to a snapshot, which it does at its leisure.
fn gone(path: &Path) -> Result<()> {
    let what = format!("the end of {}", path.display());
    until_true(&what, Duration::from_secs(30), || Ok(!path.exists()))
}
