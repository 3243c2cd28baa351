//! A second containerd of the box's, with a configuration of a scenario's own.

use crate::command::{Cmd, Running};
use crate::ctx::Ctx;
use crate::undo;
use crate::wait::until_true;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long containerd may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Has dmsetup do without udev. Source: dmsetup(8).
pub const NO_UDEV: &str = "DM_DISABLE_UDEV=1";

/// A containerd.
pub struct Containerd {
    process: Running,
    address: String,
}

impl Containerd {
    /// Starts one without the CRI, with its data below `root` and these lines in its configuration.
    pub fn start(ctx: &Ctx, root: &Path, lines: &str) -> Result<Containerd> {
        let file = |name: &str| ctx.work(name).display().to_string();
        let (config, address) = (file("containerd.toml"), file("containerd.sock"));
        let text = format!(
            "version = 3\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
             \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\", \"io.containerd.internal.v1.opt\"]\n{lines}"
        );
        fs::write(&config, text).context("configure containerd")?;
        // What a scenario that fails leaves of its containers.
        let state = file("state");
        let unmount =
            format!("grep -o '{state}[^ ]*' /proc/self/mounts | sort -ru | xargs -r umount -l; true");
        undo::remember(&["sh", "-c", &unmount])?;
        undo::remember(&["sh", "-c", &format!("pkill -KILL -f '[-]address {address}'; true")])?;
        let root = root.display().to_string();
        let flags = ["--config", &config, "--root", &root, "--state", &state, "--address", &address];
        // The box has no udev: dmsetup makes its nodes itself.
        let process =
            Cmd::new(&[&["env", NO_UDEV, "containerd"], &flags[..]].concat()).timeout(800).spawn()?;
        let containerd = Containerd { process, address };
        until_true("the second containerd", PATIENCE, || {
            Ok(containerd.ctr(&["version"]).run().is_ok_and(|output| output.ok().is_ok()))
        })?;
        Ok(containerd)
    }

    /// `ctr ARGS…` for it.
    pub fn ctr(&self, args: &[&str]) -> Cmd {
        Cmd::new(&[&["ctr", "--address", &self.address], args].concat()).timeout(200)
    }

    /// `ctr run --detach --runtime R FLAGS… ID ARGS…`
    pub fn run(&self, ctx: &Ctx, flags: &[&str], args: &[&str]) -> Result<()> {
        let run = ["run", "--detach", "--null-io", "--runtime", ctx.runtime.containerd_name()];
        self.ctr(&[&run[..], flags, args].concat()).run()?.ok().map(drop)
    }

    /// What a shell in a running container says.
    pub fn says(&self, id: &str, script: &str) -> Result<String> {
        let output = self.ctr(&["task", "exec", "--exec-id", "e", id, "sh", "-c", script]).run()?.ok()?;
        Ok(output.stdout_text().trim().to_owned())
    }

    /// Kills a container and removes it.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.ctr(&["task", "rm", "--force", id]).run()?.ok()?;
        self.ctr(&["container", "rm", id]).run()?.ok().map(drop)
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        self.process.signal(nix::sys::signal::Signal::SIGTERM)?;
        self.process.finish().map(drop)
    }
}
