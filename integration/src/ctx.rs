//! What every scenario is handed: the runtime under test and the ways to call `ctr`.

use crate::command::{Cmd, Output};
use crate::wait;
use anyhow::{Context, Result};
use clap::ValueEnum;
use std::path::PathBuf;
use std::time::Duration;

/// An image with busybox and nothing else.
pub const BUSYBOX: &str = "localhost/busybox:1";
/// An image with bash, coreutils, python3, procps and iproute2.
pub const DEBIAN: &str = "localhost/debian:1";
/// nginx, whose page names it.
pub const NGINX: &str = "localhost/nginx:1";
/// A Redis server and its client.
pub const REDIS: &str = "localhost/redis:1";
/// Where the box has the program of `integration/runtimetest`, which is static.
pub const RUNTIMETEST: &str = "/usr/local/libexec/krun/krun-runtimetest";
/// A directory for a scenario's own files; emptied by the runner after each.
pub const WORK: &str = "/run/krun-scenarios";

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Runtime {
    Krun,
    Runc,
}

impl Runtime {
    /// containerd's name for it.
    pub fn containerd_name(self) -> &'static str {
        match self {
            Runtime::Krun => "io.containerd.krun.v2",
            Runtime::Runc => "io.containerd.runc.v2",
        }
    }

    /// The binary that containerd runs for it.
    pub fn shim(self) -> &'static str {
        match self {
            Runtime::Krun => "containerd-shim-krun-v2",
            Runtime::Runc => "containerd-shim-runc-v2",
        }
    }
}

pub struct Ctx {
    pub runtime: Runtime,
    pub scenario: &'static str,
}

impl Ctx {
    pub fn new(runtime: Runtime, scenario: &'static str) -> Self {
        Self { runtime, scenario }
    }

    pub fn krun(&self) -> bool {
        self.runtime == Runtime::Krun
    }

    /// A container id of this scenario's own.
    pub fn id(&self, suffix: &str) -> String {
        if suffix.is_empty() { self.scenario.to_owned() } else { format!("{}-{suffix}", self.scenario) }
    }

    /// A file of this scenario's own.
    pub fn work(&self, name: &str) -> PathBuf {
        PathBuf::from(WORK).join(name)
    }

    /// `ctr ARGS…`
    pub fn ctr(&self, args: &[&str]) -> Cmd {
        Cmd::new(&[&["ctr"], args].concat())
    }

    /// `ctr run --runtime R FLAGS… IMAGE ID ARGS…`
    pub fn run(&self, flags: &[&str], image: &str, id: &str, args: &[&str]) -> Cmd {
        self.run_as(self.runtime.containerd_name(), flags, &[&[image, id], args].concat())
    }

    /// `ctr run --rm … localhost/busybox:1 ID sh -c SCRIPT`
    pub fn sh(&self, flags: &[&str], id: &str, script: &str) -> Cmd {
        self.run(&[&["--rm"], flags].concat(), BUSYBOX, id, &["sh", "-c", script])
    }

    /// `ctr run --rm … localhost/debian:1 ID python3 -c SCRIPT`
    pub fn python(&self, flags: &[&str], id: &str, script: &str) -> Cmd {
        self.run(&[&["--rm"], flags].concat(), DEBIAN, id, &["python3", "-c", script])
    }

    /// `ctr run` with a runtime's name or binary of the caller's choice.
    pub fn run_as(&self, runtime: &str, flags: &[&str], positional: &[&str]) -> Cmd {
        Cmd::new(&[&["ctr", "run", "--runtime", runtime], flags, positional].concat())
    }

    /// Kills a container's process through containerd.
    pub fn kill(&self, id: &str, signal: &str) -> Result<Output> {
        self.ctr(&["task", "kill", "--signal", signal, id]).run()
    }

    /// Status and pid of a task as `ctr task ls` shows them.
    pub fn task(&self, id: &str) -> Result<Option<Task>> {
        let list = self.ctr(&["task", "ls"]).run()?.ok()?.stdout_text();
        let fields =
            list.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).find(|f| f.first() == Some(&id));
        let Some(fields) = fields else { return Ok(None) };
        let [_, pid, status] = fields[..] else { anyhow::bail!("ctr task ls: what is this: {list}") };
        let pid = pid.parse().with_context(|| format!("ctr task ls: pid {pid}"))?;
        Ok(Some(Task { pid, status: status.to_owned() }))
    }

    /// Waits until `ctr task ls` shows this status.
    pub fn wait_for_status(&self, id: &str, status: &str) -> Result<Task> {
        wait::until(&format!("{id} to be {status}"), Duration::from_secs(60), || {
            Ok(self.task(id)?.filter(|t| t.status == status))
        })
    }

    /// Kills a detached container that runs, and removes it.
    pub fn end(&self, id: &str) -> Result<()> {
        self.kill(id, "SIGKILL")?.ok()?;
        self.wait_for_status(id, "STOPPED")?;
        let status = self.remove(id)?;
        anyhow::ensure!(status == 137, "ctr task rm reports {status} for a killed container");
        Ok(())
    }

    /// Removes an ended, detached container; gives the status that `ctr task rm` reports.
    pub fn remove(&self, id: &str) -> Result<i32> {
        let removed = self.ctr(&["task", "rm", id]).run()?.ok()?.stderr_text();
        self.ctr(&["container", "rm", id]).run()?.ok()?;
        let Some((_, rest)) = removed.split_once("exit with non-zero exit code ") else { return Ok(0) };
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().with_context(|| format!("ctr task rm: which status is this: {removed}"))
    }
}

/// containerd's major and minor version.
pub fn containerd_version() -> Result<(u32, u32)> {
    let text = Cmd::new(&["containerd", "--version"]).run()?.ok()?.stdout_text();
    let numbers = |word: &str| {
        let mut parts = word.trim_start_matches('v').split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    text.split_whitespace().find_map(numbers).with_context(|| format!("which version is this: {text}"))
}

pub struct Task {
    pub pid: i32,
    pub status: String,
}
