//! A volume on a file system that never answers: it holds up whoever needs it, and nobody else in the pod.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use crate::undo;
use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] =
    &[Scenario::new("hung-volume", hung_volume).krun_only("with runc each container has a shim of its own")];

/// How long a call may take that does not need the volume.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Puts a container into the sandbox of another. Source: containerd `cmd/containerd-shim-runc-v2`.
const GROUP: &str = "io.containerd.runc.v2.group";

/// A pod of two: the second one's volume hangs at its creation. The first can be looked at, executed in, killed and removed.
fn hung_volume(ctx: &Ctx) -> Result<Outcome> {
    let volume = ctx.work("hung");
    fs::create_dir(&volume).context("make a directory")?;
    let server = hang(&volume)?;
    let (pod, hung) = (ctx.id("pod"), ctx.id("hung"));
    let group = format!("{GROUP}={pod}");
    ctx.run(&["-d", "--annotation", &group], BUSYBOX, &pod, &["sleep", "1000"]).run()?.ok()?;
    let mount = format!("type=bind,src={},dst=/hung,options=rbind:rw", volume.display());
    let flags = ["--rm", "--annotation", &group, "--mount", &mount];
    let creating = ctx.run(&flags, BUSYBOX, &hung, &["true"]).timeout(200).spawn()?;
    // The shim waits for the volume: a thread of it is in the file system.
    let waits =
        |task: &Path| fs::read_to_string(task.join("stack")).is_ok_and(|stack| stack.contains("fuse"));
    crate::wait::until_true("a thread to wait for the volume", Duration::from_secs(60), || {
        Ok(tasks_of("containerd-shim-krun-v2")?.iter().any(|task| waits(task)))
    })?;
    let began = Instant::now();
    ensure!(ctx.task(&pod)?.is_some_and(|task| task.status == "RUNNING"), "the pod's task is not running");
    ctx.ctr(&["task", "exec", "--exec-id", "e", &pod, "true"]).run()?.ok()?;
    ctx.kill(&pod, "SIGTERM")?.ok()?;
    let took = began.elapsed();
    ensure!(took < AT_ONCE * 3, "three calls took {took:?} beside a volume that hangs");
    // The file system ends with its server, and the create with an error.
    drop(server);
    let output = creating.finish()?;
    ensure!(output.status != 0, "a container with a dead volume was created: {output}");
    ctx.end(&pod)?;
    Ok(Outcome::Passed)
}

/// Mounts a FUSE file system whose server never answers, and which ends with what this returns. Source: the kernel's
/// Documentation/filesystems/fuse.rst.
fn hang(on: &Path) -> Result<File> {
    Cmd::new(&["modprobe", "fuse"]).run()?;
    let server = File::options().read(true).write(true).open("/dev/fuse").context("open /dev/fuse")?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
    undo::remember(&["umount", "-l", &on.display().to_string()])?;
    mount(Some("hung"), on, Some("fuse"), MsFlags::empty(), Some(options.as_str())).context("mount FUSE")?;
    Ok(server)
}

/// The directories in /proc of all threads of processes that run this program.
fn tasks_of(program: &str) -> Result<Vec<std::path::PathBuf>> {
    let mut tasks = Vec::new();
    for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
        let runs = fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe.ends_with(program));
        if let (true, Ok(threads)) = (runs, fs::read_dir(entry.path().join("task"))) {
            tasks.extend(threads.flatten().map(|thread| thread.path()));
        }
    }
    Ok(tasks)
}
