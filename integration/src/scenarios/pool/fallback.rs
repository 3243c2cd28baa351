//! Where the pool has nothing, or nothing that fits, a VM is booted as without it.

use super::{Pool, SOCKET, TWO, taken_since};
use crate::containerd_log;
use crate::ctx::Ctx;
use crate::procs::{self, Proc};
use crate::scenario::Outcome;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::net::UnixListener;

pub fn fallback(ctx: &Ctx) -> Result<Outcome> {
    // Somebody else's socket, that nobody accepts at; and one whose listener is gone.
    let squatter = UnixListener::bind(SOCKET).or_else(|_| {
        fs::create_dir_all(super::STATE)?;
        UnixListener::bind(SOCKET)
    });
    let squatter = squatter.context("listen in the pool's place")?;
    boots_itself(ctx, "silent", &[])?;
    drop(squatter);
    boots_itself(ctx, "refused", &[])?;

    let pool = Pool::start(ctx, "pool = []\n", 0)?;
    boots_itself(ctx, "empty", &[])?;
    pool.end()?;
    boots_itself(ctx, "none", &[])?;

    // The file is another one, with the same contents: an upgrade.
    let vmm = ctx.work("krun-vmm");
    fs::copy("/usr/local/bin/krun-vmm", &vmm).context("copy krun-vmm")?;
    let pool = Pool::start(ctx, &format!("vmm = '{}'\n{TWO}", vmm.display()), 2)?;
    boots_itself(ctx, "upgraded", &[])?;
    pool.end()?;

    let mut pool = Pool::start(ctx, TWO, 2)?;
    boots_itself(ctx, "size", &["--annotation", "io.containerd.krun.memory_mib=512"])?;
    boots_itself(ctx, "tsi", &["--annotation", "io.containerd.krun.network=tsi"])?;
    boots_itself(ctx, "host", &["--net-host"])?;
    pool.0.signal(Signal::SIGSTOP)?;
    boots_itself(ctx, "stopped", &[])?;
    pool.0.signal(Signal::SIGCONT)?;
    ensure!(pool.given() == 0, "the pool gave VMs away: {}", pool.log());

    // One that stands still is thrown away, and the other one as well.
    for vmm in vmms(&pool)? {
        kill(Pid::from_raw(vmm.pid), Signal::SIGSTOP)?;
    }
    boots_itself(ctx, "stands-still", &[])?;
    pool.has_booted(3)?;
    for vmm in vmms(&pool)? {
        kill(Pid::from_raw(vmm.pid), Signal::SIGKILL)?;
    }
    pool.has_booted(5)?;
    let mark = containerd_log::mark();
    ctx.sh(&[], &ctx.id("new"), "true").run()?.ok()?;
    ensure!(taken_since(mark)? == 1, "the VMs that came after those that ended are not given away");
    pool.end()?;
    Ok(Outcome::Passed)
}

/// Its container runs, and nothing is said of a failure.
fn boots_itself(ctx: &Ctx, case: &str, flags: &[&str]) -> Result<()> {
    let mark = containerd_log::mark();
    let output = ctx.sh(flags, &ctx.id(case), "echo ran").run()?.ok()?;
    let taken = mark.line_with(&["guest answered after"])?.context("no line of the boot")?;
    ensure!(output.stdout_text() == "ran\n", "{case}: the container says {:?}", output.stdout_text());
    let of_pool = taken_since(mark)?;
    // A VM that was taken and is of no use was no container's.
    ensure!(of_pool == 0, "{case}: the VM is the pool's: {taken}");
    println!("tried: {case}: booted as without a pool");
    Ok(())
}

/// The processes of those that wait.
fn vmms(pool: &Pool) -> Result<Vec<Proc>> {
    let all = procs::all()?;
    let waiting: Vec<_> = all
        .into_iter()
        .filter(|process| process.ppid == pool.0.pid() && process.is_called("krun-vmm"))
        .collect();
    ensure!(!waiting.is_empty(), "the pool has no vmm");
    Ok(waiting)
}
