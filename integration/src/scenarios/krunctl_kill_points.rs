//! krunctl, or the process that keeps a VM for it, is killed at named points of a VM's life (`shim/src/failpoint.rs`). The next
//! command removes what it left, and does its own work.

use crate::command::{Cmd, Running};
use crate::ctx::Ctx;
use crate::failpoints::{Held, Points};
use crate::leaks::{self, Snapshot};
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use crate::wait::{until, until_true};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::krunctl::WHY;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("krunctl-kill-points-run", run).long().krun_only(WHY).timeout(1200),
    Scenario::new("krunctl-kill-points-keeper", keeper).long().krun_only(WHY).timeout(1500),
];

/// krunctl with the points, and where `make build` puts it.
const TOOL: &str = "krunctlfp";
pub const PLACE: &str = "/usr/local/bin/krunctlfp";

/// Until a point is reached: a boot, in an emulated, busy box.
const ARRIVAL: Duration = Duration::from_secs(120);

/// For what ends a moment after the process that was killed.
const GRACE: Duration = Duration::from_secs(30);

/// What a run comes to, in this order.
const RUN: [&str; 16] = [
    "create.planned",
    "create.stdio",
    "create.cgroup",
    "create.rootfs",
    "create.anchor",
    "create.state",
    "create.vmm",
    "create.shared",
    "boot.hello",
    "guest.making",
    "run.called",
    "exit.heard",
    "exit.drained",
    "delete.vm-ended",
    "delete.share",
    "delete.cgroup",
];

/// What the next run comes to when it removes what the one before has left.
const CLEANUP: [&str; 4] = ["cleanup.begun", "cleanup.cgroup", "cleanup.rootfs", "cleanup.state"];

/// What leads to a point of a keeper's.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Command {
    Start,
    Exec,
    Stop,
}

use Command::{Exec, Start, Stop};

const KEEPER: [(&str, Command); 14] = [
    ("create.planned", Start),
    ("create.cgroup", Start),
    ("create.state", Start),
    ("create.vmm", Start),
    ("boot.configured", Start),
    ("guest.made", Start),
    ("run.started", Start),
    ("exec.stdio", Exec),
    ("exec.made", Exec),
    ("exec.told", Exec),
    ("exit.heard", Stop),
    ("exit.told", Stop),
    ("delete.anchor-ended", Stop),
    ("delete.told", Stop),
];

/// It ends when it is told to.
const SERVER: &str = "trap 'exit 4' TERM; echo up; sleep 1000 & wait";

pub fn tool(words: &[&str]) -> Cmd {
    Cmd::new(&[&[TOOL], words].concat())
}

/// Waits until somebody has come to the armed point `name`, which `running` leads to.
fn held(name: &str, point: &crate::failpoints::Point, running: &mut Running) -> Result<Held> {
    until(&format!("somebody at {name}"), ARRIVAL, || {
        let held = point.held()?;
        ensure!(held.is_some() || !running.is_over()?, "it ended before {name}");
        Ok(held)
    })
}

pub fn kill_at(name: &str, points: &Points, mut running: Running) -> Result<crate::command::Output> {
    let point = points.arm(name);
    let outcome = held(name, &point, &mut running);
    points.disarm();
    match outcome {
        Ok(held) => kill(Pid::from_raw(held.pid), Signal::SIGKILL).context("kill it")?,
        Err(error) => bail!("{error:#}: {}", running.finish()?),
    }
    running.finish()
}

/// What the box has.
pub struct Seen(Snapshot, BTreeSet<String>);

impl Seen {
    pub fn now() -> Result<Seen> {
        let mut network = leaks::network()?;
        let tables = Cmd::new(&["nft", "list", "tables"]).run()?.ok()?.stdout_text();
        network.extend(tables.lines().map(str::to_owned));
        Ok(Seen(Snapshot::take()?, network))
    }

    /// What is there now and was not then.
    fn left(&self) -> Result<Vec<String>> {
        let now = Seen::now()?;
        let mut left = self.0.differences(&now.0);
        left.extend(now.1.difference(&self.1).map(|thing| format!("left behind: {thing}")));
        Ok(left)
    }

    /// Waits until the box is as it was.
    pub fn is_back(&self) -> Result<()> {
        let mut left = Vec::new();
        let cleaned = until_true("a clean box", GRACE, || {
            left = self.left()?;
            Ok(left.is_empty())
        });
        cleaned.with_context(|| left.join("; "))
    }
}

fn run(ctx: &Ctx) -> Result<Outcome> {
    ensure!(Path::new(PLACE).exists(), "there is no {PLACE}: `make build` makes it");
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let points = Points::listen()?;
    let before = Seen::now()?;
    let run = |flags: &[&str]| {
        let first = ["run", "--root", &root, "--memory", "256", "--deny-all"];
        tool(&[&first, flags, &["--", "/bin/true"]].concat())
    };
    // It is refused once it has cleaned up.
    let next = || run(&["-v", "/no/such:/x"]);
    let undone = |name: &str| {
        next().run()?.expect_status(125)?.refused(&["/no/such"]).with_context(|| format!("after {name}"))?;
        before.is_back().with_context(|| format!("after {name}"))
    };
    for name in RUN {
        let killed =
            kill_at(name, &points, run(&[]).spawn()?).and_then(|output| output.expect_status(128 + 9));
        killed.with_context(|| name.to_owned())?;
        let left = before.left()?.len();
        ensure!(left > 0, "{name}: nothing was left to be removed");
        undone(name)?;
        println!("tried: kill -9 of krunctl run at {name}: it left {left} things, and the next one none");
    }
    for name in CLEANUP {
        kill_at("run.called", &points, run(&[]).spawn()?)?.expect_status(128 + 9)?;
        kill_at(name, &points, next().spawn()?).with_context(|| name.to_owned())?.expect_status(128 + 9)?;
        undone(name)?;
        println!("tried: kill -9 of the next krunctl run at {name}: the one after it left a clean box");
    }
    run(&[]).run()?.ok()?;
    Ok(Outcome::Passed)
}

fn keeper(ctx: &Ctx) -> Result<Outcome> {
    ensure!(Path::new(PLACE).exists(), "there is no {PLACE}: `make build` makes it");
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let points = Points::listen()?;
    let before = Seen::now()?;
    let create = ["create", "--name", "web", "--root", &root, "--memory", "256", "--deny-all"];
    tool(&[&create[..], &["--", "/bin/sh", "-c", SERVER]].concat()).run()?.ok()?;
    crate::undo::remember(&["sh", "-c", "krunctl delete -f web || true"])?;
    for (name, command) in KEEPER {
        let case = || format!("{name} of {command:?}");
        let spawned = match command {
            Start => tool(&["start", "web"]),
            Exec => tool(&["exec", "web", "--", "/bin/sh", "-c", "sleep 1"]),
            Stop => tool(&["stop", "web"]),
        };
        if command != Start {
            tool(&["start", "web"]).run()?.ok().with_context(case)?;
        }
        let output = kill_at(name, &points, spawned.spawn()?).with_context(case)?;
        match command {
            Start | Exec => drop(output.expect_status(125)?.refused(&["keeper"]).with_context(case)?),
            // It may have heard of the end.
            Stop => ensure!([0, 125].contains(&output.status), "{}: {output}", case()),
        };
        let shown: Value =
            serde_json::from_str(&tool(&["status", "web"]).run()?.expect_status(3)?.stdout_text())?;
        ensure!(shown["state"] == "lost", "{}: {shown}", case());
        println!("tried: kill -9 of the keeper at {name} of {command:?}: the VM is lost, and starts again");
    }
    tool(&["start", "web"]).run()?.ok()?;
    tool(&["exec", "web", "--", "/bin/true"]).run()?.ok()?;
    tool(&["delete", "-f", "web"]).run()?.ok()?;
    before.is_back()?;
    Ok(Outcome::Passed)
}
