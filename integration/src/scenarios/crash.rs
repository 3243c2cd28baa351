//! Parts that die before their time: the task has failed, with a reason in the log, and everything goes away.

use crate::command::Running;
use crate::containerd_log::{self, Mark};
use crate::ctx::{BUSYBOX, Ctx, DEBIAN, WORK};
use crate::procs::{self, Proc};
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use crate::{host, undo};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

const WHY: &str = "it kills parts that only krun has";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("guest-panic", guest_panic)
        .image(DEBIAN)
        .krun_only("with runc it would be the box's own kernel"),
    Scenario::new("vmm-killed", vmm_killed).krun_only(WHY),
    Scenario::new("anchor-killed", anchor_killed).long().krun_only(WHY),
    Scenario::new("shim-killed", shim_killed),
];

/// A container with all privileges has the guest's kernel panic when memory runs out, and then has it run out.
fn guest_panic(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let mark = containerd_log::mark();
    // On the box's own kernel it must not happen, whatever went wrong before.
    let script = format!(
        "[ \"$(uname -r)\" != '{}' ] || exit 99
         echo 2 >/proc/sys/vm/panic_on_oom && echo crashing
         exec python3 -c 'x = [bytearray(1 << 28)]; x[0][::4096] = b\"x\" * len(x[0][::4096])'",
        host::kernel()?
    );
    let flags = ["--rm", "--privileged", "--memory-limit", "67108864"];
    let output = ctx.run(&flags, DEBIAN, &id, &["bash", "-c", &script]).run()?;
    let output = output.has_line("crashing")?;
    ensure!([255, 137].contains(&output.status), "a crashed guest ends with status {}", output.status);
    has_reason(mark)?;
    Ok(Outcome::Passed)
}

fn vmm_killed(ctx: &Ctx) -> Result<Outcome> {
    let (id, mark) = (ctx.id(""), containerd_log::mark());
    let container = sleeper(ctx, &id)?;
    kill_9(&procs::vmm_of(&id)?)?;
    container.finish()?.expect_status(137)?;
    has_reason(mark)?;
    Ok(Outcome::Passed)
}

fn anchor_killed(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let container = sleeper(ctx, &id)?;
    kill_9(&procs::anchor_of(&id)?)?;
    container.finish()?.expect_status(137)?;
    Ok(Outcome::Passed)
}

/// Without its shim nothing of the container lives on, and what is left for containerd to remove can be removed.
fn shim_killed(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    if !ctx.krun() {
        // A runc shim that is killed leaves these.
        undo::remember(&["rm", "-rf", &format!("/run/containerd/runc/default/{id}")])?;
        undo::remember(&["find", "/run/containerd/s", "-newer", WORK, "-delete"])?;
    }
    ctx.run(&["--detach", "--null-io"], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    let shim = procs::shim_of(&id)?.context("no shim")?;
    let children: Vec<Proc> = procs::all()?.into_iter().filter(|p| p.ppid == shim.pid).collect();
    ensure!(!children.is_empty(), "the shim has no children");
    kill_9(&shim)?;
    until_true("the shim's children to be gone", Duration::from_secs(20), || {
        Ok(!children.iter().any(Proc::is_alive))
    })?;
    until_true("the task to be removable", Duration::from_secs(20), || {
        if ctx.task(&id)?.is_some() {
            ctx.ctr(&["task", "rm", "--force", &id]).run()?;
        }
        Ok(ctx.task(&id)?.is_none())
    })?;
    ctx.ctr(&["container", "rm", &id]).run()?.ok()?;
    Ok(Outcome::Passed)
}

fn sleeper(ctx: &Ctx, id: &str) -> Result<Running> {
    let mut container = ctx.sh(&[], id, "echo up; sleep 1000").spawn()?;
    container.wait_for_stdout("up")?;
    Ok(container)
}

fn kill_9(process: &Proc) -> Result<()> {
    kill(Pid::from_raw(process.pid), Signal::SIGKILL).with_context(|| format!("kill {}", process.name()))
}

/// The log says that the VM ended, and how.
fn has_reason(mark: Mark) -> Result<()> {
    let line = mark.line_with(&["ended without a record"])?;
    ensure!(line.is_some(), "the log has no line that says how the VM ended");
    Ok(())
}
