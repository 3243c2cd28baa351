//! The cgroup that a spec names: somebody else's is left alone, and one of ours bounds the VM.

use super::orphans::{kill_9_shim, removed_by_containerd};
use crate::command::{Cmd, Running};
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use crate::{procs, undo};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("hostile-spec-foreign-cgroup", foreign_cgroup)
        .krun_only("runc limits and uses the cgroup that is there"),
    Scenario::new("lone-memory-bounded", lone_memory_bounded)
        .long()
        .krun_only("runc's containers have the limits of their specs"),
];

const ROOT: &str = "/sys/fs/cgroup";

/// The memory of a VM without limits, in bytes. Source: docs/configuration.md, `default_memory_mib`.
const GUESTS: u64 = 1 << 30;

/// A cgroup of somebody else's, which has a limit and, in the cgroup of this name in it or itself, a process.
struct Victim {
    name: String,
    process: Running,
}

const LIMIT: &str = "4321";

impl Victim {
    fn new(ctx: &Ctx, suffix: &str, below: &str) -> Result<Victim> {
        let name = ctx.id(suffix);
        let (top, path) = (format!("{ROOT}/{name}"), format!("{ROOT}/{name}{below}"));
        undo::remember(&["sh", "-c", &format!("rmdir {top}/* {top} 2>/dev/null; ! [ -e {top} ]")])?;
        fs::create_dir_all(&path).with_context(|| format!("make {path}"))?;
        fs::write(format!("{ROOT}/cgroup.subtree_control"), "+pids +memory").context("enable controllers")?;
        fs::write(format!("{top}/pids.max"), LIMIT).context("limit the victim")?;
        let process = Cmd::new(&["sleep", "1000"]).spawn()?;
        fs::write(format!("{path}/cgroup.procs"), process.pid().to_string()).context("move the victim")?;
        Ok(Victim { name, process })
    }

    fn is_untouched(&self) -> Result<()> {
        let path = format!("{ROOT}/{}", self.name);
        let limit = fs::read_to_string(format!("{path}/pids.max")).with_context(|| format!("read {path}"))?;
        ensure!(limit.trim() == LIMIT, "the limit of {path} is {limit}, and was {LIMIT}");
        ensure!(
            procs::all()?.iter().any(|process| process.pid == self.process.pid()),
            "the process that was in {path} before was killed"
        );
        let left: Vec<_> = fs::read_dir(&path)
            .context("list the victim")?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with("krun-"))
            .collect();
        ensure!(left.is_empty(), "left in {path}: {left:?}");
        Ok(())
    }
}

/// Whatever becomes of a container and its shim, a cgroup that was there before keeps its processes and its limits.
fn foreign_cgroup(ctx: &Ctx) -> Result<Outcome> {
    let victim = Victim::new(ctx, "victim", "/inside")?;
    let named = format!("/{}", victim.name);
    for killed in [false, true] {
        let id = ctx.id(if killed { "killed" } else { "ended" });
        ctx.run(&["--detach", "--null-io", "--cgroup", &named], BUSYBOX, &id, &["sleep", "1000"])
            .run()?
            .ok()?;
        ctx.wait_for_status(&id, "RUNNING")?;
        let own = procs::cgroup_of(procs::vmm_of(&id)?.pid)?;
        let limit = fs::read_to_string(format!("{ROOT}{own}/pids.max")).context("the vmm's limit")?;
        if killed {
            kill_9_shim(&id)?;
            removed_by_containerd(ctx, &id)?;
        } else {
            ctx.end(&id)?;
        }
        victim.is_untouched()?;
        ensure!(own.starts_with(&format!("{named}/krun-")), "the vmm is in {own}, not below {named}");
        ensure!(limit.trim() != "max", "the vmm has no limit on threads");
    }
    // A cgroup with processes gives those below it no controllers.
    let crowded = Victim::new(ctx, "crowded", "")?;
    let flags = ["--rm", "--cgroup", &format!("/{}", crowded.name)];
    ctx.run(&flags, BUSYBOX, &ctx.id("refused"), &["true"]).run()?.refused(&["is there already"])?;
    crowded.is_untouched()?;
    Ok(Outcome::Passed)
}

/// Without any limit in the spec, the VM's cgroup has a limit on memory, above what the guest has.
fn lone_memory_bounded(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    ctx.run(&["--detach", "--null-io"], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    let path = format!("{ROOT}{}", procs::cgroup_of(procs::vmm_of(&id)?.pid)?);
    let limit = fs::read_to_string(Path::new(&path).join("memory.max")).context("memory.max")?;
    let limit: u64 = limit.trim().parse().with_context(|| format!("memory.max is {limit}"))?;
    ensure!((GUESTS..3 * GUESTS).contains(&limit), "the VM may use {limit} bytes, its guest has {GUESTS}");
    let anchor = procs::anchor_of(&id)?.pid;
    let score = fs::read_to_string(format!("/proc/{anchor}/oom_score_adj")).context("oom_score_adj")?;
    ensure!(score.trim() == "0", "the anchor's oom_score_adj is {score}");
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}
