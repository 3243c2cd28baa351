//! Death by signals, and signals that are no death.

use crate::ctx::{Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::{Context, Result, ensure};

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("kill-9", kill_9).smoke(),
    Scenario::new("sigterm", sigterm).long(),
    Scenario::new("sigsegv", sigsegv).long().image(DEBIAN),
    Scenario::new("real-time-signals", real_time).long().image(DEBIAN),
];

fn kill_9(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let mut container = ctx.sh(&[], &id, "echo up; sleep 1000").spawn()?;
    container.wait_for_stdout("up")?;
    ctx.kill(&id, "SIGKILL")?.ok()?;
    container.finish()?.expect_status(137)?;
    Ok(Outcome::Passed)
}

/// SIGTERM reaches the process. A PID 1 without a handler is immune to it, by the kernel's rule, until SIGKILL; with
/// one it ends as it likes; a child dies of it, with 143.
fn sigterm(ctx: &Ctx) -> Result<Outcome> {
    let (deaf, polite) = (ctx.id("deaf"), ctx.id("polite"));
    let script =
        "trap 'echo caught; sh -c \"kill -TERM \\$\\$\"; exit $?' TERM; echo up; while :; do sleep 0.1; done";
    let mut deaf_one = ctx.sh(&[], &deaf, "echo up; exec sleep 1000").spawn()?;
    let mut polite_one = ctx.sh(&[], &polite, script).spawn()?;
    deaf_one.wait_for_stdout("up")?;
    polite_one.wait_for_stdout("up")?;
    ctx.kill(&deaf, "SIGTERM")?.ok()?;
    ctx.kill(&polite, "SIGTERM")?.ok()?;
    polite_one.finish()?.expect_status(143)?.has_line("caught")?;
    let state = ctx.task(&deaf)?.map(|t| t.status);
    ensure!(state.as_deref() == Some("RUNNING"), "PID 1 without a handler is {state:?} after SIGTERM");
    ctx.kill(&deaf, "SIGKILL")?.ok()?;
    deaf_one.finish()?.expect_status(137)?;
    Ok(Outcome::Passed)
}

/// A fault of PID 1 itself kills it, handler or not.
fn sigsegv(ctx: &Ctx) -> Result<Outcome> {
    let fault =
        "import ctypes, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); ctypes.string_at(0)";
    ctx.python(&[], &ctx.id(""), fault).run()?.expect_status(139)?;
    Ok(Outcome::Passed)
}

/// Signals 34 to 64 reach the process; one that dies of them has ended, with 128+n. The kernel spares the PID 1 of a PID
/// namespace, so the container that dies has none of its own.
fn real_time(ctx: &Ctx) -> Result<Outcome> {
    const SIGNAL: &str = "37";
    const STATUS: i32 = 128 + 37;
    // A handler sees it.
    let caught = ctx.id("caught");
    let script = "import signal\n\
        signal.signal(37, lambda *_: exit(7))\n\
        print('up', flush=True)\n\
        while True: signal.pause()";
    let mut container = ctx.python(&[], &caught, script).spawn()?;
    container.wait_for_stdout("up")?;
    ctx.kill(&caught, SIGNAL)?.ok()?;
    container.finish()?.expect_status(7)?;
    // It kills the container's process, and an exec.
    let id = ctx.id("killed");
    let mut spec = spec::new(ctx, &id, &["sleep", "1000"])?;
    let namespaces = spec["linux"]["namespaces"].as_array_mut().context("the namespaces of ctr's spec")?;
    namespaces.retain(|namespace| namespace["type"] != "pid");
    spec::run(ctx, &["--detach", "--null-io"], &spec, &id)?.run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    let mut exec = ctx
        .ctr(&["task", "exec", "--exec-id", "e", &id, "sh", "-c", "echo up; exec sleep 1000"])
        .timeout(60)
        .spawn()?;
    exec.wait_for_stdout("up")?;
    ctx.ctr(&["task", "kill", "--exec-id", "e", "--signal", SIGNAL, &id]).run()?.ok()?;
    exec.finish()?.expect_status(STATUS)?;
    ctx.kill(&id, SIGNAL)?.ok()?;
    ctx.wait_for_status(&id, "STOPPED")?;
    let status = ctx.remove(&id)?;
    ensure!(status == STATUS, "the status of a death by signal {SIGNAL} is {status}");
    Ok(Outcome::Passed)
}
