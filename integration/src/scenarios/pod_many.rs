//! Pods and containers that come and go, fifty times or as often as `KRUN_CYCLES` says: nothing may pile up.

use crate::cri::{file, handler, says, set_up, unsuitable};
use crate::ctx::{BUSYBOX, Ctx};
use crate::growth::{self, STORE, size};
use crate::procs;
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("pod-fifty-replacements", replacements).long().needs("crictl").timeout(2400),
    Scenario::new("pod-fifty-cycles", cycles).long().needs("crictl").timeout(6 * 3600),
];

const TIMES: u32 = 50;
/// Until what is made once and kept has been made.
const SETTLED: u32 = 5;

/// What it writes last it writes to a volume, whose mount ends with it.
const REPLACED: &str = "trap 'echo over >>/out/over; exit' TERM; head -c 1000000 /dev/zero >/file; echo up >>/out/up; sleep 1000 & wait";

/// A pod whose containers are replaced: neither descriptors nor disk space stay with the pod.
fn replacements(ctx: &Ctx) -> Result<Outcome> {
    if let Some(why) = unsuitable()? {
        return Ok(Outcome::Skipped(why));
    }
    set_up(ctx)?;
    let pod = Pod::run(ctx, 0)?;
    let mut settled = None;
    for round in 1..=TIMES {
        let container = pod.start(ctx, "replaced", REPLACED)?;
        until_true("it to be up", Duration::from_secs(60), || Ok(lines(ctx, "up") == round))?;
        says(&["stop", "--timeout", "30", &container])?;
        says(&["rm", &container])?;
        if round == SETTLED {
            settled = Some(held()?);
        }
    }
    ensure!(
        lines(ctx, "over") == TIMES,
        "{} of {TIMES} containers wrote their last line",
        lines(ctx, "over")
    );
    let (before, after) = (settled.context("a first count")?, held()?);
    println!("after {SETTLED}: {before:?}, after {TIMES}: {after:?}");
    // One for each replaced container would be 45; a call under way has a few.
    ensure!(
        after.0 < before.0 + 10,
        "krun's processes had {} descriptors open, and now {}",
        before.0,
        after.0
    );
    // The replaced containers' files alone are 45 MB; containerd's database grows as well.
    ensure!(after.1 < before.1 + (10 << 20), "{STORE} held {} bytes, and now {}", before.1, after.1);
    pod.remove()?;
    Ok(Outcome::Passed)
}

/// Pods of one, two and three containers from nothing to nothing; the runner's comparison of the box does the rest.
fn cycles(ctx: &Ctx) -> Result<Outcome> {
    if let Some(why) = unsuitable()? {
        return Ok(Outcome::Skipped(why));
    }
    set_up(ctx)?;
    growth::repeat(TIMES.into(), |round| {
        let pod = Pod::run(ctx, round)?;
        let names = ["one", "two", "three"];
        for name in &names[..1 + round as usize % names.len()] {
            let container = pod.start(ctx, name, "echo up; exec sleep 1000")?;
            ensure!(says(&["exec", &container, "echo", name])? == *name, "{name} says something else");
        }
        pod.remove()
    })?;
    ensure!(says(&["pods", "-q"])?.is_empty(), "pods are left");
    Ok(Outcome::Passed)
}

struct Pod {
    id: String,
    config: String,
}

impl Pod {
    fn run(ctx: &Ctx, number: u64) -> Result<Pod> {
        let config = json!({
            "metadata": {"name": "many", "uid": format!("many-{number}"), "namespace": "default"},
            "log_directory": ctx.work("logs"), "linux": {},
        });
        let config = file(ctx, "pod", &config)?;
        Ok(Pod { id: says(&["runp", "--runtime", handler(ctx), &config])?, config })
    }

    /// Creates and starts a container in it.
    fn start(&self, ctx: &Ctx, name: &str, script: &str) -> Result<String> {
        let volume = ctx.work("volume");
        fs::create_dir_all(&volume).context("make a volume")?;
        let config = json!({
            "metadata": {"name": name}, "image": {"image": BUSYBOX}, "command": ["sh", "-c", script],
            "log_path": format!("{name}.log"), "linux": {},
            "mounts": [{"container_path": "/out", "host_path": volume}],
        });
        let config = file(ctx, name, &config)?;
        let container = says(&["create", "--no-pull", &self.id, &config, &self.config])?;
        says(&["start", &container])?;
        Ok(container)
    }

    fn remove(&self) -> Result<()> {
        says(&["stopp", &self.id])?;
        says(&["rmp", &self.id])?;
        Ok(())
    }
}

/// The lines of a file of the containers' volume.
fn lines(ctx: &Ctx, name: &str) -> u32 {
    fs::read_to_string(ctx.work("volume").join(name)).unwrap_or_default().lines().count() as u32
}

/// Open descriptors of krun's processes, and bytes in containerd's store.
fn held() -> Result<(usize, u64)> {
    let mut descriptors = 0;
    for process in
        procs::all()?.iter().filter(|p| p.is_called("krun-vmm") || p.is_called("containerd-shim-krun-v2"))
    {
        let open = fs::read_dir(format!("/proc/{}/fd", process.pid));
        descriptors += open.with_context(|| format!("count the descriptors of {}", process.pid))?.count();
    }
    Ok((descriptors, size(Path::new(STORE))?))
}
