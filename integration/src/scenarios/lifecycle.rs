//! A detached container from run to removal, and what happens to it when its client or containerd goes away.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::scenario::{Outcome, Scenario};
use crate::wait::{until, until_true};
use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("detached-lifecycle", detached).smoke(),
    Scenario::new("client-vanishes", client_vanishes),
    Scenario::new("start-killed", start_killed).krun_only("runc's shim leaves its socket and a server"),
    Scenario::new("containerd-restart", containerd_restart),
];

/// run -d, ls, ps, kill, ls, delete, each state in between, and each call that a state refuses.
fn detached(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    ctx.run(&["--detach"], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    let task = ctx.wait_for_status(&id, "RUNNING")?;
    ensure!(procs::all()?.iter().any(|p| p.pid == task.pid), "the task's pid {} is no process", task.pid);
    if ctx.krun() {
        let program =
            std::fs::read_link(format!("/proc/{}/exe", task.pid)).context("the anchor's program")?;
        let program = program.to_string_lossy();
        ensure!(program.starts_with("/memfd:krun-anchor"), "the anchor is {program}");
    }
    let ps = ctx.ctr(&["task", "ps", &id]).run()?.ok()?.stdout_text();
    let listed = ps.lines().any(|l| l.split_whitespace().next() == Some(&task.pid.to_string()));
    ensure!(listed, "ctr task ps does not list pid {}: {ps}", task.pid);

    ctx.ctr(&["task", "rm", &id]).run()?.refused(&["running"])?;
    ctx.ctr(&["container", "rm", &id]).run()?.refused(&["non stopped container"])?;

    ctx.kill(&id, "SIGKILL")?.ok()?;
    ctx.wait_for_status(&id, "STOPPED")?;
    ctx.kill(&id, "SIGKILL")?.refused(&["already finished"])?;
    let status = ctx.remove(&id)?;
    ensure!(status == 137, "ctr task rm reports {status} for a killed container");
    ensure!(ctx.task(&id)?.is_none(), "a removed task is still listed");
    Ok(Outcome::Passed)
}

/// A client that is killed in the middle of a run leaves a container that can be removed like any other.
fn client_vanishes(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let client = ctx.run(&["--null-io"], BUSYBOX, &id, &["sleep", "1000"]).spawn()?;
    until("the container's shim", Duration::from_secs(30), || procs::shim_of(&id))?;
    client.signal(Signal::SIGKILL)?;
    client.finish()?.expect_status(128 + Signal::SIGKILL as i32)?;
    // It may be anything from "not created" to "running" by now, and may still be on its way there.
    until_true("the container to be removable", Duration::from_secs(60), || {
        if ctx.task(&id)?.is_some() {
            ctx.ctr(&["task", "rm", "--force", &id]).run()?;
        }
        Ok(ctx.task(&id)?.is_none() && ctx.ctr(&["container", "rm", &id]).run()?.status == 0)
    })?;
    Ok(Outcome::Passed)
}

/// containerd kills a shim's `start` whose client went away: here after all of its work, but before its answer. Neither
/// a server nor a socket stays.
fn start_killed(ctx: &Ctx) -> Result<Outcome> {
    let bundle = ctx.work("bundle");
    std::fs::create_dir(&bundle).context("make a bundle")?;
    let before = sockets()?;
    let (_reader, stdout) = full_pipe().context("fill a pipe")?;
    let mut start = Command::new(ctx.runtime.shim())
        .args([
            "-namespace",
            "default",
            "-id",
            &ctx.id(""),
            "-address",
            "/run/containerd/containerd.sock",
            "start",
        ])
        .current_dir(&bundle)
        .stdin(Stdio::null())
        .stdout(stdout)
        .spawn()
        .context("run the shim's start")?;
    let address = bundle.join("address");
    until_true("the address in the bundle", Duration::from_secs(30), || Ok(address.exists()))?;
    ensure!(sockets()?.difference(&before).count() == 1, "a started shim has one socket more");
    ensure!(start.try_wait()?.is_none(), "start ended although nobody reads its answer");
    start.kill().context("kill it")?;
    start.wait().context("wait for it")?;
    until_true("no server", Duration::from_secs(10), || Ok(procs::shim_of(&ctx.id(""))?.is_none()))?;
    ensure!(sockets()? == before, "the socket is still there");
    Ok(Outcome::Passed)
}

fn sockets() -> Result<BTreeSet<OsString>> {
    let entries = match std::fs::read_dir("/run/containerd/s") {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.context("list the shims' sockets")?,
    };
    entries.map(|entry| Ok(entry?.file_name())).collect()
}

/// A pipe into which nothing more goes until somebody reads.
fn full_pipe() -> Result<(PipeReader, PipeWriter)> {
    let (reader, mut writer) = io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let full = loop {
        if let Err(error) = writer.write(&[0]) {
            break error;
        }
    };
    ensure!(full.kind() == ErrorKind::WouldBlock, "{full}");
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((reader, writer))
}

/// containerd is killed and comes back: the container has not noticed, and obeys again.
fn containerd_restart(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    ctx.run(&["--detach", "--null-io"], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    let before = ctx.wait_for_status(&id, "RUNNING")?;
    Cmd::new(&["containerd-ctl", "kill"]).run()?.ok()?;
    Cmd::new(&["containerd-ctl", "start"]).run()?.ok()?;
    let after = ctx.wait_for_status(&id, "RUNNING")?;
    ensure!(after.pid == before.pid, "its pid was {} and is now {}", before.pid, after.pid);
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}
