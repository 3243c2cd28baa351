//! Where the pool has nothing, or nothing that fits, a VM is booted as without it.

use super::{Pool, SOCKET, TWO, taken_since, vmms};
use crate::containerd_log;
use crate::ctx::Ctx;
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

    let vmm = ctx.work("krun-vmm").display().to_string();
    let copy = |to: &str| fs::copy("/usr/local/bin/krun-vmm", to).context("copy krun-vmm");
    copy(&vmm)?;
    let mut pool = Pool::start(ctx, &format!("vmm = '{vmm}'\n{TWO}"), 2)?;
    boots_itself(ctx, "another-vmm", &[])?;
    // An upgrade: another file, with the same contents.
    copy(&format!("{vmm}.new"))?;
    fs::rename(format!("{vmm}.new"), &vmm).context("replace krun-vmm")?;
    boots_itself(ctx, "upgraded", &[])?;
    pool.has_booted(4)?;
    ensure!(pool.log().contains("2 VMs are replaced"), "the pool keeps old VMs: {}", pool.log());
    pool.end()?;

    let mut pool = Pool::start(ctx, TWO, 2)?;
    boots_itself(ctx, "size", &["--annotation", "io.containerd.krun.memory_mib=512"])?;
    boots_itself(ctx, "tsi", &["--annotation", "io.containerd.krun.network=tsi"])?;
    boots_itself(ctx, "host", &["--net-host"])?;
    pool.0.signal(Signal::SIGSTOP)?;
    let mark = containerd_log::mark();
    boots_itself(ctx, "stopped", &[])?;
    ensure!(mark.line_with(&["the pool does not answer"])?.is_some(), "the shim did not ask");
    pool.0.signal(Signal::SIGCONT)?;
    ensure!(pool.given() == 0, "the pool gave VMs away: {}", pool.log());

    // One that stands still is thrown away; then the other one ends, and is replaced.
    for vmm in vmms(&pool)? {
        kill(Pid::from_raw(vmm.pid), Signal::SIGSTOP)?;
    }
    let mark = containerd_log::mark();
    boots_itself(ctx, "stands-still", &[])?;
    ensure!(
        pool.given() == 1 && mark.line_with(&["a VM of the pool is of no use"])?.is_some(),
        "nobody took it"
    );
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

/// Its container runs in a VM that the shim has booted.
fn boots_itself(ctx: &Ctx, case: &str, flags: &[&str]) -> Result<()> {
    let mark = containerd_log::mark();
    let output = ctx.sh(flags, &ctx.id(case), "echo ran").run()?.ok()?;
    let taken = mark.line_with(&["guest answered after"])?.context("no line of the boot")?;
    ensure!(output.stdout_text() == "ran\n", "{case}: the container says {:?}", output.stdout_text());
    ensure!(taken_since(mark)? == 0, "{case}: the VM is the pool's: {taken}");
    println!("tried: {case}: booted as without a pool");
    Ok(())
}
