//! At delete: what a container has left in the place of its volumes and in its root, and what became of its bundle, leads no
//! removal and no unmount elsewhere.

use super::super::bad_bundle::wrap;
use super::super::orphans::{kill_9_shim, removed_by_containerd};
use super::{AT_ONCE, OWN, Prize, answer, bind_of, in_the_middle_of_create, own_directory};
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::Outcome;
use crate::spec;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The container leaves links everywhere. It is deleted by its shim, and then by containerd after its shim was killed, when a
/// FIFO is where its config.json was.
pub fn killed(ctx: &Ctx) -> Result<Outcome> {
    let prize = Prize::new(ctx)?;
    let dir = prize.dir();
    for (what, is_killed) in [("links, deleted by the shim", false), ("links, deleted without a shim", true)]
    {
        let id = ctx.id(if is_killed { "killed" } else { "ended" });
        let parent = ctx.work(&id);
        let volume = own_directory(ctx, &format!("{id}/v"))?;
        let script = format!(
            "busybox rm -rf /tmp; busybox ln -s {dir} /tmp; mkdir -p /a/b; busybox ln -s {dir} /a/b/c; busybox mkfifo /a/fifo
             busybox ln -s {dir} /v/link; busybox mv /p/v /p/kept; busybox ln -s {dir} /p/v; echo left >/p/left; sleep 1000"
        );
        let mut spec = spec::new(ctx, &id, &["sh", "-c", &script])?;
        let mounts = spec["mounts"].as_array_mut().context("mounts")?;
        mounts.push(bind_of(&parent, "/p", "rprivate"));
        mounts.push(bind_of(&volume, "/v", "rslave"));
        if is_killed {
            // A hook's directory is the bundle.
            spec["hooks"] = in_the_middle_of_create("rm config.json; mkfifo config.json");
        }
        spec::run(ctx, &["--detach", "--null-io"], &spec, &id)?.run()?.ok()?;
        until_true("the links", AT_ONCE, || Ok(parent.join("left").exists()))?;
        if is_killed {
            kill_9_shim(&id)?;
            removed_by_containerd(ctx, &id)?;
        } else {
            ctx.end(&id)?;
        }
        let kept = fs::read_to_string(parent.join("kept/of")).context("read what was a volume")?;
        prize.guarded(what, &kept)?;
        ensure!(kept == OWN, "{what}: the volume is not what it was");
        let root = ctx.work(&format!("{id}.rootfs"));
        ensure!(root.join("bin/busybox").exists(), "{what}: the root directory is not what it was");
    }
    Ok(Outcome::Passed)
}

/// The snapshot's mount is moved aside in the bundle, from another mount namespace, and a link is where it was: the shim
/// unmounts it where it is, so that containerd can remove the bundle.
pub fn moved_rootfs(ctx: &Ctx) -> Result<Outcome> {
    let prize = Prize::new(ctx)?;
    let (hook, bundle) = (ctx.work("hook"), ctx.work("bundle"));
    let swap = format!(
        "#!/bin/sh -e\npwd >{}\nunshare -m sh -ec 'umount rootfs; mv rootfs kept; ln -s {} rootfs'\n",
        bundle.display(),
        prize.dir()
    );
    fs::write(&hook, swap).context("write a hook")?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).context("make it executable")?;
    // A hook's directory is the bundle.
    let hooks = format!(
        r#""hooks":{{"createRuntime":[{{"path":"{}","env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}}]}}"#,
        hook.display()
    );
    let script = format!("sed -i 's|^{{|{{{hooks},|' config.json; exec {{shim}} \"$@\"");
    let wrapper = wrap(ctx, "moved", &script)?;
    let output = ctx.run_as(&wrapper, &["--rm"], &[BUSYBOX, &ctx.id(""), "sh", "-c", "echo ran"]).run()?;
    prize.guarded("a snapshot's mount, moved in the bundle", &answer(&output))?;
    let output = output.ok()?.printed("ran\n")?;
    let bundle = fs::read_to_string(bundle).context("read what the hook said")?;
    ensure!(!Path::new(bundle.trim()).exists(), "the bundle is left: {output}");
    Ok(Outcome::Passed)
}
