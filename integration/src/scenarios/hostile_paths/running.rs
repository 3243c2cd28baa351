//! While a container runs: one that can write what leads to the volumes of its pod swaps that for links.

use super::{OWN, Prize, answer, bind, own_directory};
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::Outcome;
use anyhow::{Context, Result, ensure};
use std::fs;

/// The volumes of the pod's other container: the path there, and the source below the directory that the first may write.
const VOLUMES: [(&str, &str); 4] =
    [("dir", "dir"), ("deep", "sub/deep"), ("followed", "followed"), ("fifo", "fifo")];

/// A pod of two containers. The first has the directory with the volumes of the other.
pub fn pod(ctx: &Ctx) -> Result<Outcome> {
    let prize = Prize::new(ctx)?;
    let parent = ctx.work("parent");
    for (_, source) in VOLUMES {
        own_directory(ctx, &format!("parent/{source}"))?;
    }
    fs::write(parent.join("file"), OWN).context("write a file")?;
    let of = |name: &str| parent.join(name).display().to_string();

    let (one, two) = (ctx.id("one"), ctx.id("two"));
    let sandbox = format!("--annotation=io.kubernetes.cri.sandbox-id={one}");
    let member =
        |kind: &str| [sandbox.clone(), format!("--annotation=io.kubernetes.cri.container-type={kind}")];
    let start = |id: &str, kind: &str, mounts: &[String]| -> Result<()> {
        let annotations = member(kind);
        let mut flags = vec!["--detach", "--null-io"];
        flags.extend(annotations.iter().map(String::as_str));
        flags.extend(mounts.iter().flat_map(|mount| ["--mount", mount.as_str()]));
        ctx.run(&flags, BUSYBOX, id, &["sleep", "1000"]).run()?.ok()?;
        ctx.wait_for_status(id, "RUNNING").map(drop)
    };
    let exec =
        |id: &str, script: &str| ctx.ctr(&["task", "exec", "--exec-id", "e", id, "sh", "-c", script]).run();

    start(&one, "sandbox", &[bind(&parent.display().to_string(), "/p", "rprivate:rw")])?;
    let mut mounts: Vec<_> = VOLUMES
        .iter()
        .map(|(name, source)| {
            let propagation = if *name == "followed" { "rslave" } else { "rprivate" };
            bind(&of(source), &format!("/{name}"), &format!("{propagation}:rw"))
        })
        .collect();
    mounts.push(bind(&of("file"), "/file", "rprivate:rw"));
    start(&two, "container", &mounts)?;

    let (dir, magic) = (prize.dir(), prize.magic());
    let swap = format!(
        "cd /p; mkdir kept; mv dir sub followed fifo file kept/
         ln -s {dir} dir; ln -s {dir} sub; ln -s / followed; mkfifo fifo; ln -s {dir}/of file; ln -s {magic} magic"
    );
    exec(&one, &swap)?.ok()?;
    for (name, source) in VOLUMES {
        let output =
            exec(&two, &format!("cat /{name}/of; ls -R /{name}; echo {name} >/{name}/written"))?.ok()?;
        prize.guarded(&format!("/{name}, by another container of the pod"), &answer(&output))?;
        ensure!(output.stdout_text().starts_with(OWN), "/{name} is another: {output}");
        let written =
            fs::read_to_string(parent.join("kept").join(source).join("written")).unwrap_or_default();
        ensure!(written.trim() == name, "/{name} was not written where it is: {output}");
    }
    let output = exec(&two, "cat /file; echo more >>/file")?.ok()?;
    prize.guarded("the single file /file, by another container", &answer(&output))?;
    output.printed(OWN)?;
    // What the first container sees of the links is its own root, and the guest's.
    let read = format!(
        "cat /p/dir/of /p/file {dir}/of {magic}/of /p/magic/of; echo x >/p/dir/new; echo x >>/p/file"
    );
    prize.guarded("the links, by the container that made them", &answer(&exec(&one, &read)?))?;

    // A later container of the pod is given what the first has made of a path.
    let mount = bind(&of("magic"), "/m", "rprivate:rw");
    let annotations = member("container");
    let flags = ["--mount", mount.as_str(), annotations[0].as_str(), annotations[1].as_str()];
    let command = ctx.sh(&flags, &ctx.id("three"), "cat /m/of");
    prize.refused("a link of /proc, by another container of the pod", command, &["mount source"])?;

    for id in [&two, &one] {
        ctx.end(id)?;
    }
    prize.guarded("the end of the pod", "nothing")?;
    let kept = fs::read_to_string(parent.join("kept/dir/of")).context("read what was a volume")?;
    ensure!(kept == OWN, "the volume is not what it was");
    Ok(Outcome::Passed)
}
