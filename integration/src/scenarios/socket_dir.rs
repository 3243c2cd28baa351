//! A containerd of 2.3 and later that is configured to have its shims' sockets elsewhere.

use crate::command::{Cmd, Running};
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use crate::undo;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("socket-dir", socket_dir)
    .smoke()
    .krun_only("runc's shim puts it where containerd says, too")];

/// How long containerd may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `delete` is not told is where the sockets are: when one container of a pod goes, it must not take the pod for dead.
fn socket_dir(ctx: &Ctx) -> Result<Outcome> {
    if version()? < (2, 3) {
        return Ok(Outcome::Skipped("containerd has no socket_dir before 2.3".to_owned()));
    }
    let rootfs = ctx.work("rootfs").display().to_string();
    fs::create_dir(&rootfs).context("make a directory")?;
    undo::remember(&["ctr", "images", "unmount", "--rm", &rootfs])?;
    ctx.ctr(&["images", "mount", "--rw", BUSYBOX, &rootfs]).run()?.ok()?;
    let sockets = ctx.work("sockets");
    let other = Containerd::start(ctx, &sockets)?;
    let (pod, member) = (ctx.id("pod"), ctx.id("member"));
    other.run(ctx, &rootfs, &pod, &pod)?;
    other.run(ctx, &rootfs, &pod, &member)?;
    let listed = fs::read_dir(&sockets).context("list the socket directory")?;
    let listed: Vec<_> = listed.collect::<Result<_, _>>().context("list the socket directory")?;
    let is_socket = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
    ensure!(
        listed.iter().filter(|entry| is_socket(entry)).count() == 1,
        "in the socket directory: {listed:?}"
    );
    other.remove(&member)?;
    other
        .ctr(&["task", "exec", "--exec-id", "alive", &pod, "/bin/echo", "alive"])
        .run()?
        .ok()?
        .printed("alive\n")?;
    other.remove(&pod)?;
    let left = fs::read_dir(&sockets).context("list the socket directory")?.count();
    ensure!(left == 0, "{left} files are left in the socket directory");
    other.stop()?;
    Ok(Outcome::Passed)
}

/// containerd's major and minor version.
fn version() -> Result<(u32, u32)> {
    let text = Cmd::new(&["containerd", "--version"]).run()?.ok()?.stdout_text();
    let numbers = |word: &str| {
        let mut parts = word.trim_start_matches('v').split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    text.split_whitespace().find_map(numbers).with_context(|| format!("which version is this: {text}"))
}

/// A second containerd of the box's.
struct Containerd {
    process: Running,
    address: String,
}

impl Containerd {
    fn start(ctx: &Ctx, sockets: &Path) -> Result<Containerd> {
        let file = |name: &str| ctx.work(name).display().to_string();
        let (config, address) = (file("containerd.toml"), file("containerd.sock"));
        let text = format!(
            "version = 3\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
             \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\", \"io.containerd.internal.v1.opt\"]\n\
             [plugins.\"io.containerd.shim.v1.manager\"]\nsocket_dir = {sockets:?}\n"
        );
        fs::write(&config, text).context("configure containerd")?;
        let flags =
            ["--config", &config, "--root", &file("root"), "--state", &file("state"), "--address", &address];
        let process = Cmd::new(&[&["containerd"], &flags[..]].concat()).timeout(220).spawn()?;
        let containerd = Containerd { process, address };
        until_true("the second containerd", PATIENCE, || {
            Ok(containerd.ctr(&["version"]).run().is_ok_and(|output| output.ok().is_ok()))
        })?;
        Ok(containerd)
    }

    fn ctr(&self, args: &[&str]) -> Cmd {
        Cmd::new(&[&["ctr", "--address", &self.address], args].concat())
    }

    /// Runs a container of `pod`.
    fn run(&self, ctx: &Ctx, rootfs: &str, pod: &str, id: &str) -> Result<()> {
        let annotation = format!("io.kubernetes.cri.sandbox-id={pod}");
        let kind =
            format!("io.kubernetes.cri.container-type={}", if pod == id { "sandbox" } else { "container" });
        let runtime = ctx.runtime.containerd_name();
        let flags = ["run", "-d", "--runtime", runtime, "--annotation", &annotation, "--annotation", &kind];
        self.ctr(&[&flags[..], &["--rootfs", rootfs, id, "/bin/sleep", "1000"]].concat())
            .timeout(200)
            .run()?
            .ok()?;
        Ok(())
    }

    /// Kills a container and removes it.
    fn remove(&self, id: &str) -> Result<()> {
        self.ctr(&["task", "rm", "--force", id]).timeout(120).run()?.ok()?;
        self.ctr(&["container", "rm", id]).run()?.ok()?;
        Ok(())
    }

    fn stop(self) -> Result<()> {
        self.process.signal(nix::sys::signal::Signal::SIGTERM)?;
        self.process.finish().map(drop)
    }
}
