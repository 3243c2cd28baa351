//! The pool's end is not that of the VMs that it gave away, and a VM's end takes nothing of the pool along.

use super::{Pool, TWO, taken_since, waiting};
use crate::containerd_log;
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::scenario::Outcome;
use crate::wait::until_true;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::time::Duration;

pub fn killed(ctx: &Ctx) -> Result<Outcome> {
    let pool = Pool::start(ctx, TWO, 2)?;
    let mark = containerd_log::mark();
    let (one, other) = (ctx.id("one"), ctx.id("other"));
    for id in [&one, &other] {
        ctx.run(&["--detach"], BUSYBOX, id, &["sleep", "1000"]).run()?.ok()?;
    }
    ensure!(taken_since(mark)? == 2, "the VMs are not the pool's");
    let vmms = [procs::vmm_of(&one)?, procs::vmm_of(&other)?];
    let of_pool = || -> Result<usize> {
        let all = procs::all()?;
        Ok(all
            .iter()
            .filter(|process| process.is_called("krun-vmm") && !vmms.iter().any(|vmm| vmm.pid == process.pid))
            .count())
    };
    pool.0.signal(Signal::SIGKILL)?;
    pool.0.finish()?;
    until_true("the VMs that waited to end", Duration::from_secs(30), || Ok(of_pool()? == 0))?;
    for id in [&one, &other] {
        let said = ctx.ctr(&["task", "exec", "--exec-id", "again", id, "echo", "alive"]).run()?.ok()?;
        ensure!(said.stdout_text() == "alive\n", "an exec says {:?}", said.stdout_text());
    }
    ensure!(vmms.iter().all(|vmm| vmm.is_alive()), "a VM that was given away has ended with the pool");
    println!("tried: SIGKILL of the pool: its VMs that waited ended, those that it gave away run");

    // A later pool removes what is left.
    let pool = Pool::start(ctx, TWO, 2)?;
    ensure!(waiting()?.len() == 2, "the pool has {:?}", waiting()?);
    // The kernel ends the VM of a shim that is killed.
    let shim = procs::shim_of(&one)?.map(|shim| shim.pid).unwrap_or_default();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), Signal::SIGKILL)?;
    until_true("the VM to end with its shim", Duration::from_secs(30), || Ok(!vmms[0].is_alive()))?;
    ctx.wait_for_status(&one, "STOPPED")?;
    ctx.remove(&one)?;
    ctx.end(&other)?;
    println!("tried: SIGKILL of a shim with a VM of the pool's: its VM ended");
    pool.end()?;
    Ok(Outcome::Passed)
}
