//! An exec in a container that runs.

use super::{ctr, timed};
use crate::ctx::{Ctx, Runtime};
use anyhow::{Context, Result};

/// Seconds of so many `ctr task exec … true`, after one that is not measured.
pub fn of(runtime: Runtime, runs: u32) -> Result<Vec<f64>> {
    let (ctx, id) = (Ctx::new(runtime, "bench"), "bench-exec");
    ctx.run(&["--detach", "--null-io"], crate::ctx::BUSYBOX, id, &["sleep", "100000"]).run()?.ok()?;
    let exec = |number: u32| {
        timed(&mut ctr(&["task", "exec", "--exec-id", &format!("e{number}"), id, "true"])).context("an exec")
    };
    exec(0)?;
    let took = (1..=runs).map(exec).collect();
    ctx.end(id)?;
    took
}
