//! The pool's end is not that of the VMs that it gave away, and a VM's end takes nothing of the pool along.

use super::{Pool, TWO, taken_since, waiting};
use crate::containerd_log;
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::scenario::Outcome;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

pub fn killed(ctx: &Ctx) -> Result<Outcome> {
    let mut pool = Pool::start(ctx, TWO, 2)?;
    let mark = containerd_log::mark();
    let (one, other) = (ctx.id("one"), ctx.id("other"));
    for id in [&one, &other] {
        ctx.run(&["--detach", "--null-io"], BUSYBOX, id, &["sleep", "1000"]).run()?.ok()?;
    }
    ensure!(taken_since(mark)? == 2, "the VMs are not the pool's");
    let vmms = [procs::vmm_of(&one)?, procs::vmm_of(&other)?];
    pool.has_booted(4)?;
    let of_pool = || -> Result<usize> {
        let all = procs::all()?;
        Ok(all
            .iter()
            .filter(|process| process.is_called("krun-vmm") && !vmms.iter().any(|vmm| vmm.pid == process.pid))
            .count())
    };
    ensure!(of_pool()? == 2, "{} VMs wait", of_pool()?);
    pool.0.signal(Signal::SIGKILL)?;
    pool.0.finish()?;
    until_true("the VMs that waited to end", Duration::from_secs(30), || Ok(of_pool()? == 0))?;
    for id in [&one, &other] {
        let said = ctx.ctr(&["task", "exec", "--exec-id", "again", id, "echo", "alive"]).run()?.ok()?;
        ensure!(said.stdout_text() == "alive\n", "an exec says {:?}", said.stdout_text());
    }
    ensure!(vmms.iter().all(|vmm| vmm.is_alive()), "a VM that was given away has ended with the pool");
    println!("tried: SIGKILL of the pool: its VMs that waited ended, those that it gave away run");

    let left = waiting()?;
    ensure!(left.len() == 2, "the killed pool left {left:?}");
    let pool = Pool::start(ctx, TWO, 2)?;
    ensure!(!waiting()?.iter().any(|name| left.contains(name)), "the pool has {:?}", waiting()?);
    println!("tried: a pool after one that was killed: it removed what was left");
    // The kernel ends the VM of a shim that is killed.
    kill_9(procs::shim_of(&one)?.context("no shim")?.pid)?;
    until_true("the VM to end with its shim", Duration::from_secs(30), || Ok(!vmms[0].is_alive()))?;
    until_true("the task to be removable", Duration::from_secs(30), || {
        if ctx.task(&one)?.is_some() {
            ctx.ctr(&["task", "rm", "--force", &one]).run()?;
        }
        Ok(ctx.task(&one)?.is_none())
    })?;
    ctx.ctr(&["container", "rm", &one]).run()?.ok()?;
    // Whoever reaps a vmm that was a killed pool's child may be faster than its shim, and then nobody knows how it ended.
    kill_9(vmms[1].pid)?;
    ctx.wait_for_status(&other, "STOPPED")?;
    let status = ctx.remove(&other)?;
    ensure!([137, 255].contains(&status), "the status is {status}");
    println!("tried: SIGKILL of a shim with a VM of the pool's: its VM ended");
    // A vmm that somebody kills is the end of its container, with the status that it has elsewhere.
    let mark = containerd_log::mark();
    let mut container = ctx.sh(&[], &ctx.id("vmm"), "echo up; sleep 1000").spawn()?;
    container.wait_for_stdout("up")?;
    ensure!(taken_since(mark)? == 1, "the VM is not the pool's");
    kill_9(procs::vmm_of(&ctx.id("vmm"))?.pid)?;
    container.finish()?.expect_status(137)?;
    println!("tried: SIGKILL of a vmm of the pool's: its container ended with 137");
    pool.end()?;
    Ok(Outcome::Passed)
}

fn kill_9(pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill {pid}"))
}
