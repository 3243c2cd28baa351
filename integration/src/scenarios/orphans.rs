//! What a shim that is killed leaves to `delete`: hooks that are to run after the end, and a hook that runs.

use crate::ctx::{Ctx, WORK};
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use crate::{procs, spec, undo};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("poststop-after-kill-9", poststop_after_kill_9).long(),
    Scenario::new("hook-dies-with-shim", hook_dies_with_shim)
        .long()
        .krun_only("runc is a process of its own, and goes on with its hooks"),
];

const PATIENCE: Duration = Duration::from_secs(20);

/// Kills the shim that serves this container.
pub fn kill_9_shim(id: &str) -> Result<()> {
    let shim = procs::shim_of(id)?.with_context(|| format!("no shim of {id}"))?;
    kill(Pid::from_raw(shim.pid), Signal::SIGKILL).with_context(|| format!("kill the shim of {id}"))
}

/// Has containerd remove a container whose shim is dead.
pub fn removed_by_containerd(ctx: &Ctx, id: &str) -> Result<()> {
    until_true("the task to be removable", PATIENCE, || {
        if ctx.task(id)?.is_some() {
            ctx.ctr(&["task", "rm", "--force", id]).run()?;
        }
        Ok(ctx.task(id)?.is_none())
    })?;
    ctx.ctr(&["container", "rm", id]).run()?.ok().map(drop)
}

fn hook(script: &str) -> Value {
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }])
}

/// What a createRuntime hook allocates, as CNI does, the poststop hook frees: once, and also when the shim dies.
fn poststop_after_kill_9(ctx: &Ctx) -> Result<Outcome> {
    for killed in [false, true] {
        let id = ctx.id(if killed { "killed" } else { "ended" });
        if !ctx.krun() {
            // A runc shim that is killed leaves these.
            undo::remember(&["rm", "-rf", &format!("/run/containerd/runc/default/{id}")])?;
            undo::remember(&["find", "/run/containerd/s", "-newer", WORK, "-delete"])?;
        }
        let (allocated, told) = (ctx.work(&format!("{id}.allocated")), ctx.work(&format!("{id}.told")));
        let mut spec = spec::new(ctx, &id, &["sleep", "1000"])?;
        spec["hooks"] = json!({
            "createRuntime": hook(&format!("touch {}", allocated.display())),
            "poststop": hook(&format!("rm -f {}; cat >>{}", allocated.display(), told.display())),
        });
        spec::run(ctx, &["--detach", "--null-io"], &spec, &id)?.run()?.ok()?;
        ctx.wait_for_status(&id, "RUNNING")?;
        ensure!(allocated.exists(), "the createRuntime hook did not run");
        if killed {
            kill_9_shim(&id)?;
            removed_by_containerd(ctx, &id)?;
        } else {
            ctx.end(&id)?;
        }
        until_true("the poststop hook to free what was allocated", PATIENCE, || Ok(!allocated.exists()))?;
        let told = fs::read(&told).context("what the poststop hook was told")?;
        // Two documents would not be one.
        let state: Value = serde_json::from_slice(&told).context("the poststop hook ran twice?")?;
        ensure!(state["id"] == json!(id), "the poststop hook was told {state}");
    }
    Ok(Outcome::Passed)
}

/// A hook that runs when the shim is killed makes nothing after the clean-up.
fn hook_dies_with_shim(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let file = |name: &str| ctx.work(name).display().to_string();
    let (pid, go, late, told) = (file("hook.pid"), file("go"), file("late"), file("told"));
    undo::remember(&["sh", "-c", &format!("kill -9 $(cat {pid}) 2>/dev/null; true")])?;
    let mut spec = spec::new(ctx, &id, &["true"])?;
    let wait = format!("echo $$ >{pid}; while ! [ -e {go} ]; do sleep 0.1; done; touch {late}");
    spec["hooks"] = json!({ "createRuntime": hook(&wait), "poststop": hook(&format!("touch {told}")) });
    let creating = spec::run(ctx, &["--rm"], &spec, &id)?.spawn()?;
    let read = || fs::read_to_string(&pid).ok().and_then(|pid| pid.trim().parse::<i32>().ok());
    until_true("the hook to run", Duration::from_secs(60), || Ok(read().is_some()))?;
    let runs = read().context("the hook's pid")?;
    let hook = procs::all()?.into_iter().find(|process| process.pid == runs).context("no hook runs")?;
    kill_9_shim(&id)?;
    until_true("the hook to die with its shim", PATIENCE, || Ok(!hook.is_alive()))?;
    creating.finish()?.refused(&[])?;
    until_true("the poststop hook", PATIENCE, || Ok(fs::exists(&told)?))?;
    fs::write(&go, "").context("let a hook go on")?;
    ensure!(!fs::exists(&late)?, "the hook went on after the clean-up");
    Ok(Outcome::Passed)
}
