//! The pool as the service that we ship.

use super::{PATIENCE, SOCKET, taken_since, waiting};
use crate::command::Cmd;
use crate::containerd_log;
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::scenario::Outcome;
use crate::undo;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

const UNIT: &str = include_str!("../../../../deploy/systemd/krun-pool.service");
const NAME: &str = "krun-pool.service";
const FILE: &str = "/run/systemd/system/krun-pool.service";
const CGROUP: &str = "/sys/fs/cgroup/system.slice/krun-pool.service";

fn systemctl(words: &[&str]) -> Result<()> {
    Cmd::new(&[&["systemctl"], words].concat()).run()?.ok().map(drop)
}

pub fn unit(ctx: &Ctx) -> Result<Outcome> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(Outcome::Skipped(
            "systemd is not this box's init (hack/box up --init systemd)".to_owned(),
        ));
    }
    undo::remember(&["systemctl", "daemon-reload"])?;
    undo::remember(&["rm", "-f", FILE])?;
    undo::remember(&["sh", "-c", &format!("systemctl stop {NAME}; systemctl reset-failed {NAME}; true")])?;
    // It pulls in nothing that this box's systemd does not run, and logs as the shims here do.
    let text = UNIT.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n");
    fs::write(FILE, text.replace("krunctl pool\n", "krunctl pool --debug\n")).context(FILE)?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["start", NAME])?;
    has_two()?;
    let idle = fs::read_to_string(format!("{CGROUP}/krun-waiting/cpu.idle")).context("cpu.idle")?;
    ensure!(idle.trim() == "1", "cpu.idle is {idle}");

    let (id, mark) = (ctx.id(""), containerd_log::mark());
    ctx.run(&["--detach", "--null-io"], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ensure!(taken_since(mark)? == 1, "the VM is not the pool's");
    let cgroup = procs::cgroup_of(procs::vmm_of(&id)?.pid)?;
    ensure!(cgroup.ends_with(&id), "its cgroup is {cgroup}");
    let lives = |name: &str| -> Result<()> {
        let said = ctx.ctr(&["task", "exec", "--exec-id", name, &id, "echo", "alive"]).run()?.ok()?;
        ensure!(said.stdout_text() == "alive\n", "after {name} an exec says {:?}", said.stdout_text());
        println!("tried: {name} of the service: a VM that it gave away runs");
        Ok(())
    };
    systemctl(&["restart", NAME])?;
    lives("restart")?;
    has_two()?;
    let before = main_pid()?;
    systemctl(&["kill", "--kill-whom", "main", "--signal", "SIGKILL", NAME])?;
    until_true("the service to be started again", PATIENCE, || {
        let now = main_pid()?;
        Ok(now != "0" && now != before && Path::new(SOCKET).exists())
    })?;
    has_two()?;
    lives("kill")?;
    systemctl(&["kill", "--kill-whom", "main", "--signal", "SIGKILL", NAME])?;
    systemctl(&["stop", NAME])?;
    lives("stop")?;
    ensure!(waiting()?.is_empty() && !Path::new(SOCKET).exists(), "the service left {:?}", waiting()?);
    // Once its last VM has gone.
    until_true("the service's cgroup to go", PATIENCE, || Ok(!Path::new(CGROUP).exists()))?;
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}

/// The pid of the service's own process, 0 while there is none.
fn main_pid() -> Result<String> {
    let shown = Cmd::new(&["systemctl", "show", "--value", "--property", "MainPID", NAME]).run()?.ok()?;
    Ok(shown.stdout_text().trim().to_owned())
}

/// Waits until two VMs wait: their guests have dialled, so that the sockets for that are gone.
fn has_two() -> Result<()> {
    until_true("two VMs of the service", PATIENCE, || {
        let socket = |name: &String| Path::new(super::STATE).join(name).join("sock");
        let is_up =
            |name: &String| fs::read_dir(socket(name)).is_ok_and(|mut sockets| sockets.next().is_none());
        Ok(waiting()?.iter().filter(|name| is_up(name)).count() == 2)
    })
}
