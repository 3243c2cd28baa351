//! What a sleeping container costs: the proportional set size of each process that is there for it.

use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::wait::until;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// The parts, in the table's order.
pub const PARTS: [&str; 5] = ["shim", "anchor", "vmm", "container", "all of it"];

/// Part → bytes.
pub type Memory = BTreeMap<&'static str, f64>;

/// Memory must not have changed for this long to count as settled.
const CALM: Duration = Duration::from_secs(3);
/// And is taken as it is after this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a sleeping container, lets it settle, and measures it.
pub fn of_a_sleeper(ctx: &Ctx) -> Result<Memory> {
    let id = ctx.id("sleeper");
    ctx.run(&["--detach", "--null-io"], BUSYBOX, &id, &["sleep", "100000"]).timeout(600).run()?.ok()?;
    let measured = settled(&id);
    ctx.kill(&id, "SIGKILL")?.ok()?;
    ctx.wait_for_status(&id, "STOPPED")?;
    ctx.remove(&id)?;
    measured
}

fn settled(id: &str) -> Result<Memory> {
    let mut last = measure(id)?;
    let mut since = Instant::now();
    let calm = until("memory to settle", PATIENCE, || {
        let now = measure(id)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok((since.elapsed() >= CALM).then_some(()))
    });
    if let Err(e) = calm {
        eprintln!("bench: {e:#}: taken as it is");
    }
    Ok(last)
}

fn measure(id: &str) -> Result<Memory> {
    let shim = procs::shim_of(id)?.with_context(|| format!("no shim for {id}"))?;
    let mut memory = Memory::from([("shim", pss(shim.pid)?)]);
    for child in procs::all()?.into_iter().filter(|p| p.ppid == shim.pid) {
        let called = |name: &&(&str, &str)| child.is_called(name.0);
        let part =
            [("krun-anchor", "anchor"), ("krun-vmm", "vmm")].iter().find(called).map_or("container", |n| n.1);
        *memory.entry(part).or_default() += pss(child.pid)?;
    }
    memory.insert("all of it", memory.values().sum());
    Ok(memory)
}

/// Source: Documentation/filesystems/proc.rst, smaps_rollup.
fn pss(pid: i32) -> Result<f64> {
    let rollup =
        fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("PSS of {pid}"))?;
    let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:")).context("no Pss line")?;
    let kib: f64 =
        line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("Pss:{line}"))?;
    Ok(kib * 1024.0)
}
