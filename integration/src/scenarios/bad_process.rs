//! Processes and roots that cannot be: the caller gets a clear error, and nothing stays.

use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result};
use std::fs;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("missing-executable", missing_executable).smoke(),
    Scenario::new("not-executable", not_executable),
    Scenario::new("missing-cwd", missing_cwd).krun_only("runc makes the directory"),
    Scenario::new("rootfs-is-a-file", rootfs_is_a_file),
];

fn missing_executable(ctx: &Ctx) -> Result<Outcome> {
    ctx.run(&["--rm"], BUSYBOX, &ctx.id(""), &["/no/such/program"]).run()?.refused(&["/no/such/program"])?;
    Ok(Outcome::Passed)
}

/// A directory, which exists and cannot be run.
fn not_executable(ctx: &Ctx) -> Result<Outcome> {
    ctx.run(&["--rm"], BUSYBOX, &ctx.id(""), &["/bin"]).run()?.refused(&["/bin"])?;
    Ok(Outcome::Passed)
}

fn missing_cwd(ctx: &Ctx) -> Result<Outcome> {
    let run = ctx.run(&["--rm", "--cwd", "/no/such/directory"], BUSYBOX, &ctx.id(""), &["true"]);
    run.run()?.refused(&["/no/such/directory"])?;
    Ok(Outcome::Passed)
}

fn rootfs_is_a_file(ctx: &Ctx) -> Result<Outcome> {
    let file = ctx.work("not-a-directory");
    fs::write(&file, "I am a file").context("write the file")?;
    let path = file.display().to_string();
    ctx.run(&["--rm", "--rootfs"], &path, &ctx.id(""), &["true"]).run()?.refused(&["not a directory"])?;
    Ok(Outcome::Passed)
}
