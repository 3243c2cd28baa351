//! VMs that were booted before they are wanted: `krunctl pool`.

mod fallback;
mod given_once;
mod killed;
mod nerdctl;
mod network;
mod taken;
mod unit;

use crate::command::{Cmd, Running};
use crate::containerd_log::Mark;
use crate::ctx::Ctx;
use crate::procs::{self, Proc};
use crate::scenario::Scenario;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::time::Duration;

const WHY: &str = "runc has no VMs";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("pool-taken", taken::taken).krun_only(WHY),
    Scenario::new("pool-fallback", fallback::fallback).krun_only(WHY).timeout(600),
    Scenario::new("pool-killed", killed::killed).krun_only(WHY).timeout(400),
    Scenario::new("pool-given-once", given_once::given_once).krun_only(WHY).long().timeout(400),
    Scenario::new("pool-network", network::network).krun_only(WHY).long().timeout(400),
    Scenario::new("pool-nerdctl", nerdctl::profile).krun_only(WHY).long().needs("nerdctl").timeout(500),
    Scenario::new("pool-systemd-unit", unit::unit).krun_only(WHY).long().timeout(500),
    Scenario::new("pool-pod", network::pod).krun_only(WHY).long().needs("crictl").timeout(500),
];

/// Where it listens.
const SOCKET: &str = "/run/krun/pool.sock";

/// Where its VMs have their directories, with those of sandboxes.
const STATE: &str = "/run/krun";

/// Booting some VMs in an emulated box with neighbours.
const PATIENCE: Duration = Duration::from_secs(180);

/// What the shim logs of a VM that it did not boot.
const TAKEN: &str = "from the pool";

/// Two of the size that containers without limits get.
const TWO: &str = "[[pool]]\ncount = 2\n";

/// A pool that runs.
struct Pool(Running);

impl Pool {
    /// Starts one with this configuration, which waits until `count` VMs wait.
    fn start(ctx: &Ctx, config: &str, count: usize) -> Result<Pool> {
        let file = ctx.work("pool.toml");
        fs::write(&file, config).context("write the pool's configuration")?;
        // As the shims here, which log what containerd does.
        let argv = ["krunctl", "pool", "--debug", "--config", &file.display().to_string()];
        let mut pool = Pool(Cmd::new(&argv).timeout(500).spawn()?);
        pool.has_booted(count)?;
        Ok(pool)
    }

    /// Waits until it has booted so many in all.
    fn has_booted(&mut self, count: usize) -> Result<()> {
        until_true(&format!("{count} VMs of the pool"), PATIENCE, || {
            ensure!(!self.0.is_over()?, "the pool has ended: {}", self.log());
            Ok(self.log().matches(" waits: ").count() >= count && Path::new(SOCKET).exists())
        })
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr_now()).into_owned()
    }

    /// How many it gave away.
    fn given(&self) -> usize {
        self.log().matches(" is taken").count()
    }

    /// Ends it as a service manager does, and checks that nothing of it is left.
    fn end(self) -> Result<()> {
        self.0.signal(Signal::SIGTERM)?;
        self.0.finish()?.ok()?;
        ensure!(waiting()?.is_empty() && !Path::new(SOCKET).exists(), "the pool left {:?}", waiting()?);
        Ok(())
    }
}

/// The processes of the VMs that wait.
fn vmms(pool: &Pool) -> Result<Vec<Proc>> {
    let is_waiting = |process: &Proc| process.ppid == pool.0.pid() && process.is_called("krun-vmm");
    let mut all = procs::all()?;
    all.retain(|process| is_waiting(process));
    all.retain(|process| procs::cgroup_of(process.pid).ok() == procs::cgroup_of(pool.0.pid()).ok());
    Ok(all)
}

/// The scheduling policies of a process's threads, by their numbers: 0 is the usual one, 5 SCHED_IDLE. Source: sched(7).
fn policies(pid: i32) -> Result<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("list threads")?;
    let policy = |task: std::io::Result<fs::DirEntry>| {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        // After the last ')' of the name comes field 3; the policy is field 41 (proc_pid_stat(5)).
        let fields = stat.rsplit_once(") ").context("a stat")?.1;
        Ok(fields.split(' ').nth(41 - 3).context("a policy")?.to_owned())
    };
    tasks.map(policy).collect()
}

/// The names of the directories of VMs that wait, or were to.
fn waiting() -> Result<Vec<String>> {
    let entries = fs::read_dir(STATE).context("list the state")?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    Ok(names.filter(|name| name.starts_with("waiting-")).collect())
}

/// How many VMs the shims have taken since.
fn taken_since(mark: Mark) -> Result<usize> {
    Ok(mark.since()?.matches(TAKEN).count())
}
