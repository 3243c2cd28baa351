//! What a container no longer needs is the host's again.

use crate::ctx::{Ctx, DEBIAN};
use crate::procs;
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;

const WHY: &str = "with runc the memory is the box's own";

pub const SCENARIOS: &[Scenario] =
    &[Scenario::new("memory-comes-back", comes_back).image(DEBIAN).long().krun_only(WHY).timeout(300)];

/// What the container takes, and what may be left of it: the guest's kernel has grown, and keeps some files.
const TAKEN: u64 = 400;
const LEFT: u64 = 64;

/// The kernel reports free pages to the host every two seconds, a part at a time.
const PATIENCE: Duration = Duration::from_secs(60);

const TOUCH: &str = "x = bytearray(400 << 20)
for at in range(0, len(x), 4096): x[at] = 1
print('touched')";

/// Memory of a process that has ended; then files that nobody reads any more.
fn comes_back(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    ctx.run(&["--detach", "--null-io"], DEBIAN, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    let vmm = procs::vmm_of(&id)?.pid;
    let exec = |name: &str, command: &[&str]| -> Result<()> {
        let args = [&["task", "exec", "--exec-id", name, &id][..], command].concat();
        ctx.ctr(&args).timeout(200).run()?.ok().map(drop)
    };
    // What a first command brings in is no part of it.
    exec("first", &["python3", "-c", "pass"])?;
    let before = resident(vmm)?;
    let read = "dd if=/dev/zero of=/big bs=1M count=400 2>/dev/null; cat /big >/dev/null";
    for (what, command) in [("memory", &["python3", "-c", TOUCH][..]), ("files", &["sh", "-c", read])] {
        exec(what, command)?;
        let most = resident(vmm)?;
        ensure!(
            most >= before + TAKEN / 2,
            "{what}: the vmm has {most} MiB after {before}: nothing was taken"
        );
        until_true(&format!("{what} to come back"), PATIENCE, || Ok(resident(vmm)? <= before + LEFT))?;
        println!("tried: {what}: {before} MiB before, {most} with, {} after", resident(vmm)?);
    }
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}

/// MiB of a process that are in memory.
fn resident(pid: i32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("the vmm's memory")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss line")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("an Rss")?;
    Ok(kib >> 10)
}
