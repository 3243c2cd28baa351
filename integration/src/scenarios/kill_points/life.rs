//! What leads a container to its points: each way of living has a command under way when the point is reached.

use super::{RUNTIME, Victim};
use crate::command::{Cmd, Running};
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs::{self, Proc};
use crate::{spec, undo, veth};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;

/// A way of living.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// It ends by itself, with [`STATUS`].
    Short,
    /// It runs until it is killed.
    Long,
    /// As `Long`, in no cgroup of its own.
    Loose,
    /// As `Short`, with hooks of each kind. That before the start makes what that after the end removes.
    Hooked,
    /// As `Short`, with a logger.
    Logged,
    /// As `Short`, with a NIC in a network namespace that was there before.
    Tap,
    /// As `Short`, in an empty network namespace that was there before.
    Spare,
    /// As `Short`, with an interface that comes between Create and Start.
    Joined,
    /// As `Short`, with a user namespace and a snapshot that is mapped for it.
    Mapped,
    /// As `Short`, with a root on a disk of its VM's.
    Block,
    /// As `Short`, in a pod that is there before.
    Member,
    /// It runs, and an exec in it ends by itself with [`STATUS`].
    Exec,
    /// It runs, and an operator's process in its VM ends by itself with [`STATUS`].
    Operator,
    /// It runs, and its shim is killed: containerd cleans up after it.
    Orphaned,
    /// As `Orphaned`, with hooks.
    OrphanedHooked,
}

/// The status with which what ends by itself ends.
pub const STATUS: i32 = 7;

/// Of the id that every case's container has: each begins with what the one before it has left.
pub const SUFFIX: &str = "c";

/// Puts a container into the sandbox of another. Source: containerd `cmd/containerd-shim-runc-v2`.
const GROUP: &str = "io.containerd.runc.v2.group";

/// What a hook before the start makes.
const ADDRESS: &str = "10.99.99.1/32";
const LATE: &str = "10.99.99.2/32";

/// This program, which is also a hook and a logger.
const SELF: &str = "/usr/local/bin/krun-scenarios";

/// Seconds that a hook has.
const HOOK: u32 = 6;

const MAPPED: &[&str] = &["--uidmap", "0:131072:65536", "--gidmap", "0:131072:65536", "--remap-labels"];

const ENDS: &[&str] = &["sh", "-c", "exit 7"];
const STAYS: &[&str] = &["sh", "-c", "echo up; exec sleep 1000"];

/// A container on its way, and its pod if it has one.
pub struct Living {
    life: Life,
    pub id: String,
    pub pod: Option<String>,
    /// The container that runs before the point is armed.
    running: Option<Running>,
}

impl Living {
    /// Makes what is there before the point is armed.
    pub fn begin(ctx: &Ctx, life: Life) -> Result<Living> {
        let id = ctx.id(SUFFIX);
        let mut living = Living { life, id, pod: None, running: None };
        match life {
            Life::Member => {
                let pod = ctx.id("pod");
                let flags = ["--detach", "--null-io", "--annotation", &format!("{GROUP}={pod}")];
                ctx.run_as(RUNTIME, &flags, &[&[BUSYBOX, &pod], STAYS].concat()).run()?.ok()?;
                living.pod = Some(pod);
            }
            Life::Exec | Life::Operator | Life::Orphaned | Life::OrphanedHooked => {
                let mut running = match life {
                    Life::OrphanedHooked => living.hooked(ctx, STAYS)?,
                    Life::Operator => living.open(ctx)?,
                    _ => living.run(ctx, &[], STAYS)?,
                };
                running.wait_for_stdout("up")?;
                ctx.wait_for_status(&living.id, "RUNNING")?;
                living.running = Some(running);
            }
            _ => {}
        }
        Ok(living)
    }

    /// Starts what leads to the point: the command under way.
    pub fn go(&mut self, ctx: &Ctx) -> Result<Running> {
        match self.life {
            Life::Short => self.run(ctx, &[], ENDS),
            Life::Long => self.run(ctx, &[], STAYS),
            Life::Loose => self.run(ctx, &["--cgroup", ""], STAYS),
            Life::Hooked => self.hooked(ctx, ENDS),
            Life::Logged => self.run(ctx, &["--log-uri", &format!("binary://{SELF}?logger=logger")], ENDS),
            Life::Mapped => self.run(ctx, MAPPED, ENDS),
            Life::Block => self.run(ctx, &["--annotation=io.containerd.krun.rootfs=block"], ENDS),
            Life::Tap => {
                let flags = veth::flags(Some("tap"));
                self.run(ctx, &flags.iter().map(String::as_str).collect::<Vec<_>>(), ENDS)
            }
            Life::Spare => self.run(ctx, &["--with-ns", &format!("network:{}", veth::EMPTY_PATH)], ENDS),
            Life::Joined => self.run(ctx, &["--cni"], ENDS),
            Life::Member => {
                let group = format!("{GROUP}={}", self.pod.as_deref().context("a pod")?);
                self.run(ctx, &["--annotation", &group], ENDS)
            }
            Life::Exec => {
                ctx.ctr(&[&["task", "exec", "--exec-id", "e", self.id.as_str()], ENDS].concat()).spawn()
            }
            Life::Operator => {
                Cmd::new(&[&["krunctl", "exec", "--sandbox", self.id.as_str(), "--"], ENDS].concat()).spawn()
            }
            Life::Orphaned | Life::OrphanedHooked => {
                signal(&server_of(&self.id)?.context("no shim")?, Signal::SIGKILL)?;
                self.running.take().context("a container that runs")
            }
        }
    }

    fn run(&self, ctx: &Ctx, flags: &[&str], args: &[&str]) -> Result<Running> {
        ctx.run_as(RUNTIME, &[&["--rm"], flags].concat(), &[&[BUSYBOX, &self.id], args].concat()).spawn()
    }

    /// Runs it where an operator's processes are allowed.
    fn open(&self, ctx: &Ctx) -> Result<Running> {
        let (root, config) = (ctx.work("operator"), ctx.work("operator.toml"));
        if !root.exists() {
            spec::busybox_root(&root)?;
        }
        fs::write(&config, format!("operator_root = {:?}\n", root.display().to_string()))
            .context("configure")?;
        self.run(ctx, &["--runtime-config-path", &config.display().to_string()], STAYS)
    }

    /// Runs it with hooks, each of which reaches a point with its kind's name.
    fn hooked(&self, ctx: &Ctx, args: &[&str]) -> Result<Running> {
        // The last case's container had the same id.
        let _ = fs::remove_dir_all(ctx.work(&format!("{}.rootfs", self.id)));
        for address in [ADDRESS, LATE] {
            undo::remember(&["sh", "-c", &format!("ip address del {address} dev lo 2>/dev/null; true")])?;
        }
        let at = |kind: &str| -> Value {
            json!({ "path": SELF, "args": ["krun-scenarios", "at", format!("hook.{kind}")], "timeout": HOOK })
        };
        let sh = |script: String| -> Value {
            json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] })
        };
        let mut spec = spec::new(ctx, &self.id, args)?;
        // What it has started makes another address a second later, unless it ended well.
        let well = ctx.work("well").display().to_string();
        let _ = fs::remove_file(&well);
        let late = format!(
            "while kill -0 $$; do sleep 0.1; done; sleep 1; [ -e {well} ] || ip address add {LATE} dev lo"
        );
        let mut leaves_a_child = sh(format!("({late}) >/dev/null 2>&1 & exec {SELF} at hook.create-runtime"));
        leaves_a_child["timeout"] = json!(HOOK);
        spec["hooks"] = json!({
            "prestart": [sh(format!("ip address add {ADDRESS} dev lo")), at("prestart")],
            "createRuntime": [leaves_a_child, sh(format!("touch {well}"))],
            "poststart": [at("poststart")],
            "poststop": [at("poststop"), sh(format!("ip address del {ADDRESS} dev lo || true"))],
        });
        let path = ctx.work(&format!("{}.json", self.id));
        fs::write(&path, serde_json::to_vec(&spec)?).context("write config.json")?;
        let path = path.display().to_string();
        ctx.run_as(RUNTIME, &["--rm", "--config", &path], &[&self.id]).spawn()
    }

    /// Ends what may still run: its container, and its pod.
    pub fn end(&mut self, ctx: &Ctx) -> Result<()> {
        for id in [Some(self.id.clone()), self.pod.clone()].into_iter().flatten() {
            removed(ctx, &id)?;
        }
        if let Some(mut running) = self.running.take() {
            running.allow(std::time::Duration::from_secs(super::PROMPT));
            running.finish()?;
        }
        // It is `--rm` that failed, or that never came to it.
        for id in [Some(self.id.clone()), self.pod.clone()].into_iter().flatten() {
            let listed = ctx.ctr(&["container", "ls", "-q"]).run()?.ok()?.stdout_text();
            if listed.lines().any(|line| line == id) {
                ctx.ctr(&["container", "rm", &id]).run()?.ok()?;
            }
        }
        Ok(())
    }

    /// The process that is hit; who waits at the point has the pid `here`.
    pub fn victim(&self, victim: Victim, here: i32) -> Result<Proc> {
        let sandbox = self.pod.as_deref().unwrap_or(&self.id);
        let of_shim = |name: &str, wanted: &dyn Fn(&Proc) -> bool| -> Result<Proc> {
            let shim = server_of(sandbox)?.context("no shim")?;
            let mut processes = procs::all()?.into_iter();
            processes
                .find(|process| process.ppid == shim.pid && process.is_called(name) && wanted(process))
                .with_context(|| format!("no {name}"))
        };
        match victim {
            Victim::Shim => server_of(sandbox)?.context("no shim"),
            Victim::Vmm => {
                let shim = server_of(sandbox)?.context("no shim")?;
                procs::vmm_of_shim(shim.pid)?.context("no krun-vmm")
            }
            Victim::Anchor => of_shim("krun-anchor", &|process| process.argv.last() == Some(&self.id)),
            Victim::Here => procs::all()?
                .into_iter()
                .find(|process| process.pid == here)
                .context("nobody is at the point"),
            Victim::Containerd => procs::all()?
                .into_iter()
                .find(|process| process.name() == "containerd")
                .context("no containerd"),
            Victim::Client => anyhow::bail!("the client is a command of ours"),
        }
    }
}

/// Removes a task, in whatever state it is, as a user does who wants to be rid of it.
fn removed(ctx: &Ctx, id: &str) -> Result<()> {
    crate::wait::until_true("the task to be removable", std::time::Duration::from_secs(super::PROMPT), || {
        if ctx.task(id)?.is_some() {
            ctx.ctr(&["task", "rm", "--force", id]).run()?;
        }
        Ok(ctx.task(id)?.is_none())
    })
}

/// The server of a sandbox: neither containerd's `start` nor its `delete`.
pub fn server_of(sandbox: &str) -> Result<Option<Proc>> {
    let is_server = |process: &Proc| {
        let names_it = process.argv.windows(2).any(|pair| pair[0] == "-id" && pair[1] == sandbox);
        let action = process.argv.last().map_or("", String::as_str);
        process.name().starts_with("containerd-shim-") && names_it && !["start", "delete"].contains(&action)
    };
    Ok(procs::all()?.into_iter().find(is_server))
}

/// Sends a signal to a process that is there.
pub fn signal(process: &Proc, signal: Signal) -> Result<()> {
    ensure!(process.is_alive(), "{} has gone", process.name());
    kill(Pid::from_raw(process.pid), signal).with_context(|| format!("send {signal} to {}", process.name()))
}
