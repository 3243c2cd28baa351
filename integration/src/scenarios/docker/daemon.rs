//! A dockerd of a scenario's own.

use super::docker;
use crate::command::{Cmd, Running};
use crate::ctx::{BUSYBOX, Ctx};
use crate::undo;
use crate::wait::until_true;
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;

/// How long dockerd may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// The VM of a container with the runtime that its configuration names `named`.
pub const NAMED_MIB: u64 = 300;

/// Where it has its data: its own layers need a disk's file system.
const ROOT: &str = "/var/lib/krun-scenario-docker";

/// What dockerd leaves of itself when it ends: bridges, a directory, a cgroup, rules.
const LEFT: &str = "for link in $(ip -o link | grep -oE '(docker0|br-[0-9a-f]{12})' | sort -u); do ip link delete $link; done
    rm -rf /run/docker /var/run/docker.sock /run/docker.pid; rmdir /sys/fs/cgroup/docker 2>/dev/null; nft flush ruleset";

/// Which dockerd sets.
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// dockerd, with the image busybox.
pub struct Daemon {
    process: Running,
    config: String,
}

impl Daemon {
    /// Starts one.
    pub fn start(ctx: &Ctx) -> Result<Daemon> {
        let config = ctx.work("daemon.json");
        let own = ctx.work("named.toml").display().to_string();
        fs::write(&own, format!("default_memory_mib = {NAMED_MIB}\n")).context("configure the shim")?;
        let options =
            if ctx.krun() { format!(r#", "options": {{"ConfigPath": "{own}"}}"#) } else { String::new() };
        let text = format!(
            r#"{{"data-root": "{ROOT}", "containerd": "/run/containerd/containerd.sock", "live-restore": true,
                "runtimes": {{"named": {{"runtimeType": "{}"{options}}}}}}}"#,
            ctx.runtime.containerd_name()
        );
        fs::write(&config, text).context("configure dockerd")?;
        undo::remember(&["sh", "-c", LEFT])?;
        let forward = fs::read_to_string(FORWARD).context("read a setting")?;
        undo::remember(&["sh", "-c", &format!("echo {} >{FORWARD}", forward.trim())])?;
        undo::remember(&["rm", "-rf", ROOT])?;
        undo::remember(&[
            "sh",
            "-c",
            &format!(
                "grep -oE '({ROOT}|/run/docker)[^ ]*' /proc/self/mounts | sort -ru | xargs -r umount -l; true"
            ),
        ])?;
        undo::remember(&["sh", "-c", "pkill -KILL dockerd; true"])?;
        let config = config.display().to_string();
        let daemon = Daemon { process: launch(&config)?, config };
        let archive = ctx.work("busybox.tar").display().to_string();
        ctx.ctr(&["images", "export", "--local", &archive, BUSYBOX]).run()?.ok()?;
        docker(&["load", "-i", &archive]).run()?.ok()?;
        Ok(daemon)
    }

    /// Ends it and starts it anew, while its containers run.
    pub fn restart(self) -> Result<Daemon> {
        let Daemon { process, config } = self;
        process.signal(Signal::SIGTERM)?;
        process.finish()?;
        Ok(Daemon { process: launch(&config)?, config })
    }

    /// Ends it. Its containers must be gone.
    pub fn stop(self) -> Result<()> {
        docker(&["ps", "-aq"]).run()?.ok()?.printed("")?;
        self.process.signal(Signal::SIGTERM)?;
        self.process.finish().map(drop)
    }
}

fn launch(config: &str) -> Result<Running> {
    let process = Cmd::new(&["dockerd", "--config-file", config]).timeout(800).spawn()?;
    until_true("dockerd", PATIENCE, || {
        Ok(docker(&["version"]).run().is_ok_and(|output| output.ok().is_ok()))
    })?;
    Ok(process)
}
