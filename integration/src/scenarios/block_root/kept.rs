//! A lone container that is stopped and started again.

use super::{BLOCK, gone, says, snapshot};
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::scenario::Outcome;
use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// It finds what it wrote: after its end all of that, after a kill of its VM all that was synced, its own programs too.
pub fn kept(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let flags = ["container", "create", "--runtime", ctx.runtime.containerd_name(), BLOCK];
    let own = "/usr/own";
    ctx.ctr(
        &[&flags[..], &[BUSYBOX, &id, "sh", "-c", "[ ! -x /usr/own ] || exec /usr/own; exec sleep 1000"]]
            .concat(),
    )
    .run()?
    .ok()?;
    let begin = || -> Result<()> {
        ctx.ctr(&["task", "start", "--null-io", "--detach", &id]).run()?.ok()?;
        ctx.wait_for_status(&id, "RUNNING").map(drop)
    };
    let end = || -> Result<()> {
        ctx.wait_for_status(&id, "STOPPED")?;
        ctx.ctr(&["task", "rm", &id]).run().map(drop)
    };

    begin()?;
    says(ctx, &id, "mkdir /usr; echo unsynced >/usr/a; rm /bin/ls; chmod 700 /etc")?;
    ctx.kill(&id, "SIGKILL")?.ok()?;
    end()?;

    begin()?;
    let found = says(ctx, &id, "cat /usr/a; [ -e /bin/ls ] || echo gone; stat -c %a /etc")?;
    ensure!(found == "unsynced\ngone\n700", "after its end it finds {found}");
    // The VM is killed in the middle of writing.
    let script = format!(
        "printf '#!/bin/sh\\necho mine >/usr/ran; sync; exec sleep 1000\\n' >{own}; chmod 755 {own}; sync
         (while :; do dd if=/dev/urandom of=/usr/noise bs=64k count=16 2>/dev/null; done) >/dev/null 2>&1 </dev/null &"
    );
    says(ctx, &id, &script)?;
    kill(Pid::from_raw(procs::vmm_of(&id)?.pid), Signal::SIGKILL)?;
    end()?;

    begin()?;
    let ran = crate::wait::until("its own program", std::time::Duration::from_secs(30), || {
        Ok(Some(says(ctx, &id, "cat /usr/ran 2>/dev/null || true")?).filter(|said| !said.is_empty()))
    })?;
    ensure!(
        ran == "mine" && says(ctx, &id, "cat /usr/a")? == "unsynced",
        "after a kill of its VM it says {ran}"
    );
    let disk = snapshot(ctx, &id)?;
    ctx.kill(&id, "SIGKILL")?.ok()?;
    end()?;
    ctx.ctr(&["container", "rm", &id]).run()?.ok()?;
    gone(&disk)?;
    Ok(Outcome::Passed)
}

/// A container that was run with one kind of root, and then with the other: what it wrote by virtiofs it finds on the disk, as if it had
/// written it there. The other way round is refused, as virtiofs does not show the disk.
pub fn changed(ctx: &Ctx) -> Result<Outcome> {
    let (id, config) = (ctx.id(""), ctx.work("root.toml"));
    let configure = |rootfs: &str| std::fs::write(&config, format!("rootfs = {rootfs:?}\n"));
    configure("virtiofs")?;
    let path = config.display().to_string();
    let flags =
        ["container", "create", "--runtime", ctx.runtime.containerd_name(), "--runtime-config-path", &path];
    let script = "cat /etc/new /x 2>/dev/null; [ -e /bin/ls ] || echo gone; echo more >>/x; rm -f /bin/ls; echo new >/etc/new";
    ctx.ctr(&[&flags[..], &[BUSYBOX, &id, "sh", "-c", script]].concat()).run()?.ok()?;
    let run = || -> Result<crate::command::Output> {
        let output = ctx.ctr(&["task", "start", &id]).run()?;
        ctx.ctr(&["task", "rm", "--force", &id]).run()?;
        Ok(output)
    };
    run()?.ok()?.printed("")?;
    configure("block")?;
    run()?.ok()?.printed("new\nmore\ngone\n")?;
    run()?.ok()?.printed("new\nmore\nmore\ngone\n")?;
    configure("virtiofs")?;
    run()?.refused(&["rootfs = virtiofs", "rootfs = block", "has a disk in"])?;
    configure("auto")?;
    run()?.ok()?.printed("new\nmore\nmore\nmore\ngone\n")?;
    ctx.ctr(&["container", "rm", &id]).run()?.ok()?;
    Ok(Outcome::Passed)
}
