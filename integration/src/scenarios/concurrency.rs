//! Many at once, and the slow that must not hold up the quick.

use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::scenario::{Outcome, Scenario};
use crate::wait::until;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("ten-at-once", ten_at_once).long().timeout(400),
    Scenario::new("slow-create", slow_create).long().krun_only("it stops the booting microVM").timeout(360),
];

fn ten_at_once(ctx: &Ctx) -> Result<Outcome> {
    let start = |i: i32| {
        let script = format!("echo I am {i}; exit {}", 10 + i);
        Ok((i, ctx.sh(&[], &ctx.id(&i.to_string()), &script).timeout(380).spawn()?))
    };
    let running = (0..10).map(start).collect::<Result<Vec<_>>>()?;
    for (i, container) in running {
        container.finish()?.expect_status(10 + i)?.printed(&format!("I am {i}\n"))?;
    }
    Ok(Outcome::Passed)
}

/// While one container's microVM does not get on with its boot, another's calls are answered at once; then the slow
/// one comes up as if nothing had been.
fn slow_create(ctx: &Ctx) -> Result<Outcome> {
    /// Much more than a call takes, much less than a call that waits for the other container.
    const AT_ONCE: Duration = Duration::from_secs(15);
    let (slow, quick) = (ctx.id("slow"), ctx.id("quick"));
    ctx.run(&["--detach", "--null-io"], BUSYBOX, &quick, &["sleep", "1000"]).run()?.ok()?;

    let slow_one = ctx.sh(&[], &slow, "echo at last").timeout(300).spawn()?;
    let vmm = until("the slow container's krun-vmm", Duration::from_secs(30), || {
        procs::shim_of(&slow)?.map_or(Ok(None), |shim| procs::vmm_of_shim(shim.pid))
    })?;
    let vmm = Pid::from_raw(vmm.pid);
    kill(vmm, Signal::SIGSTOP).context("stop the booting microVM")?;

    let begun = Instant::now();
    let answered = (|| {
        let state = ctx.task(&quick)?.map(|t| t.status);
        ensure!(state.as_deref() == Some("RUNNING"), "the quick container is {state:?}");
        ctx.ctr(&["task", "ps", &quick]).run()?.ok()?;
        ctx.kill(&quick, "SIGKILL")?.ok()?;
        ctx.wait_for_status(&quick, "STOPPED")?;
        let status = ctx.remove(&quick)?;
        ensure!(status == 137, "ctr task rm reports {status}");
        ensure!(begun.elapsed() < AT_ONCE, "the quick container's calls took {:?}", begun.elapsed());
        Ok(())
    })();
    kill(vmm, Signal::SIGCONT).context("let the microVM boot on")?;
    answered?;
    slow_one.finish()?.ok()?.printed("at last\n")?;
    Ok(Outcome::Passed)
}
