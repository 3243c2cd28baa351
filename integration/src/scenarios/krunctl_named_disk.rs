//! krunctl's VMs with names on a disk that is full, and after the host was started anew.

use crate::command::{Cmd, Output};
use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::krunctl::WHY;
use crate::wait::until_true;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("krunctl-named-disk", disk).long().krun_only(WHY)];

/// It ends when it is told to, and says a little until then.
const SERVER: &str = "trap 'exit 4' TERM; while :; do echo line; sleep 1 & wait; done";

/// Removes what a reboot does.
const FORGET: &str = "for cgroup in /sys/fs/cgroup/krunctl-*; do
        echo 1 >$cgroup/cgroup.kill; until rmdir $cgroup 2>/dev/null; do sleep 0.1; done; done
    umount /run/krun/ctl/*/netns 2>/dev/null
    nft list tables | grep krunctl | while read line; do nft delete $line; done
    rm -r /run/krun/ctl && echo forgot";

/// krunctl with its state in a directory of this scenario's own.
fn krunctl(state: &Path, words: &[&str]) -> Result<Output> {
    let variable = format!("XDG_STATE_HOME={}", state.display());
    Cmd::new(&[&["env", &variable, "krunctl"], words].concat()).run()
}

fn shown(state: &Path, name: &str) -> Result<Value> {
    let all: Value = serde_json::from_str(&krunctl(state, &["ls", "--format", "json"])?.ok()?.stdout_text())?;
    let mut all = all.as_array().into_iter().flatten();
    Ok(all.find(|vm| vm["name"] == name).cloned().unwrap_or_default())
}

/// Fills the disk to the last byte.
fn fill(state: &Path) -> Result<()> {
    let path = state.join("filling").display().to_string();
    let filled = Cmd::new(&["dd", "if=/dev/zero", &format!("of={path}"), "bs=4096"]).run()?;
    filled.refused(&["No space left"]).map(drop)
}

fn disk(ctx: &Ctx) -> Result<Outcome> {
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let state = ctx.work("state");
    fs::create_dir(&state).context("make a directory")?;
    mount(Some("state"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=256k,mode=0700"))
        .context("mount")?;
    crate::undo::remember(&["umount", "-l", &state.display().to_string()])?;
    let create = |name: &str| {
        krunctl(
            &state,
            &["create", "--name", name, "--root", &root, "--memory", "256", "--", "/bin/sh", "-c", SERVER],
        )
    };
    create("web")?.ok()?;
    crate::undo::remember(&[
        "sh",
        "-c",
        &format!("XDG_STATE_HOME={} krunctl delete -f web || true", state.display()),
    ])?;

    fill(&state)?;
    create("other")?.expect_status(125)?.refused(&["No space left"])?;
    krunctl(&state, &["start", "web"])?.expect_status(125)?.refused(&["web/keeper", "No space left"])?;
    ensure!(shown(&state, "other")?.is_null(), "what could not be made is there");
    ensure!(shown(&state, "web")?["state"] == "created", "{}", shown(&state, "web")?);
    fs::remove_file(state.join("filling")).context("make room")?;

    // A disk that is full while it runs costs its log, and the note of its end.
    krunctl(&state, &["start", "web"])?.ok()?;
    fill(&state)?;
    krunctl(&state, &["exec", "web", "--", "/bin/sh", "-c", "exit 9"])?.expect_status(9)?;
    krunctl(&state, &["stop", "web"])?;
    ensure!(shown(&state, "web")?["state"] == "lost", "{}", shown(&state, "web")?);
    fs::remove_file(state.join("filling")).context("make room")?;
    krunctl(&state, &["start", "web"])?.ok()?;

    // The host ends at once: its processes, and what it had in memory, below /run and in the kernel.
    let logged = || Ok(krunctl(&state, &["logs", "web"])?.ok()?.stdout_text().contains("line"));
    until_true("its log", Duration::from_secs(30), logged)?;
    let keeper = shown(&state, "web")?["pid"].as_i64().context("the keeper's pid")?;
    kill(Pid::from_raw(keeper as i32), Signal::SIGKILL).context("kill the keeper")?;
    until_true("its end", Duration::from_secs(30), || Ok(shown(&state, "web")?["state"] == "lost"))?;
    Cmd::new(&["sh", "-c", FORGET]).run()?.ok()?.printed("forgot\n")?;
    krunctl(&state, &["logs", "web"])?.ok()?.has_line("line")?;
    krunctl(&state, &["start", "web"])?.ok()?;
    krunctl(&state, &["stop", "web"])?.ok()?;
    ensure!(shown(&state, "web")?["state"] == "exited", "{}", shown(&state, "web")?);
    krunctl(&state, &["delete", "web"])?.ok()?;
    Ok(Outcome::Passed)
}
