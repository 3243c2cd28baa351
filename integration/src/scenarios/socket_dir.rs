//! A containerd of 2.3 and later that is configured to have its shims' sockets elsewhere.

use crate::ctx::{BUSYBOX, Ctx, containerd_version};
use crate::own_containerd::Containerd;
use crate::scenario::{Outcome, Scenario};
use crate::undo;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::FileTypeExt;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("socket-dir", socket_dir)
    .smoke()
    .krun_only("runc's shim puts it where containerd says, too")];

/// What `delete` is not told is where the sockets are: when one container of a pod goes, it must not take the pod for dead.
fn socket_dir(ctx: &Ctx) -> Result<Outcome> {
    if containerd_version()? < (2, 3) {
        return Ok(Outcome::Skipped("containerd has no socket_dir before 2.3".to_owned()));
    }
    let rootfs = ctx.work("rootfs").display().to_string();
    fs::create_dir(&rootfs).context("make a directory")?;
    undo::remember(&["ctr", "images", "unmount", "--rm", &rootfs])?;
    ctx.ctr(&["images", "mount", "--rw", BUSYBOX, &rootfs]).run()?.ok()?;
    let sockets = ctx.work("sockets");
    let shims = format!("[plugins.\"io.containerd.shim.v1.manager\"]\nsocket_dir = {sockets:?}\n");
    let other = Containerd::start(ctx, &ctx.work("root"), &shims)?;
    let (pod, member) = (ctx.id("pod"), ctx.id("member"));
    let sandbox = format!("io.kubernetes.cri.sandbox-id={pod}");
    for (id, kind) in [(&pod, "sandbox"), (&member, "container")] {
        let kind = format!("io.kubernetes.cri.container-type={kind}");
        let flags = ["--annotation", &sandbox, "--annotation", &kind, "--rootfs"];
        other.run(ctx, &flags, &[&rootfs, id, "/bin/sleep", "1000"])?;
    }
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
