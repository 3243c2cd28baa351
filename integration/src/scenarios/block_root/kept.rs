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
