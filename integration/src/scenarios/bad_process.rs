//! Processes, roots and devices that cannot be: the caller gets a clear error, and nothing stays.

use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result};
use std::fs;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("missing-executable", missing_executable).smoke(),
    Scenario::new("bad-process-or-root", bad_process_or_root),
];

fn missing_executable(ctx: &Ctx) -> Result<Outcome> {
    ctx.run(&["--rm"], BUSYBOX, &ctx.id(""), &["/no/such/program"]).run()?.refused(&["/no/such/program"])?;
    Ok(Outcome::Passed)
}

/// What exists and cannot be run, a root that is a file, a disk of the host.
fn bad_process_or_root(ctx: &Ctx) -> Result<Outcome> {
    ctx.run(&["--rm"], BUSYBOX, &ctx.id("directory"), &["/bin"]).run()?.refused(&["/bin"])?;
    let file = ctx.work("not-a-directory");
    fs::write(&file, "I am a file").context("write the file")?;
    let path = file.display().to_string();
    if ctx.krun() {
        let disk = ["--rm", "--device", "/dev/vda"];
        ctx.run(&disk, BUSYBOX, &ctx.id("device"), &["true"]).run()?.refused(&["/dev/vda", "/dev/null"])?;
    }
    ctx.run(&["--rm", "--rootfs"], &path, &ctx.id("root"), &["true"]).run()?.refused(&["not a directory"])?;
    Ok(Outcome::Passed)
}
