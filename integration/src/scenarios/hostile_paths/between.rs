//! Between the moment in which a path is resolved and those in which it is used: a hook, which runs in the middle of Create,
//! swaps everything that the spec names. The container has what was resolved.

use super::{OWN, Prize, SECRET, bind_of, in_the_middle_of_create, own_directory};
use crate::command::Cmd;
use crate::ctx::Ctx;
use crate::scenario::Outcome;
use crate::{spec, undo};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The container's volumes: its path there, the source among the scenario's files, and what the hook does to that.
const VOLUMES: [(&str, &str, &str); 7] = [
    ("dir", "dir", "mv dir dir.kept; ln -s prize dir"),
    ("below", "parent/below", "mv parent parent.kept; ln -s prize parent"),
    ("followed", "followed", "mv followed followed.kept; ln -s / followed"),
    ("magic", "magic", "mv magic magic.kept; ln -s /proc/1/root/$PWD/prize magic"),
    ("fifo", "fifo", "mv fifo fifo.kept; mkfifo fifo"),
    ("device", "device", "mv device device.kept; mknod device c 1 5"),
    ("gone", "gone", "mv gone gone.kept"),
];

pub fn swapped(ctx: &Ctx) -> Result<Outcome> {
    let prize = Prize::new(ctx)?;
    let id = ctx.id("");
    let mut script = String::from("echo root >/written\n");
    let mut hook = format!("cd {}\n", ctx.work("").display());
    let mut mounts = Vec::new();
    for (name, source, swap) in VOLUMES {
        let source = own_directory(ctx, source)?;
        let propagation = if name == "followed" { "rslave" } else { "rprivate" };
        mounts.push(bind_of(&source, &format!("/{name}"), propagation));
        script += &format!("echo \"{name} $(cat /{name}/of)\"; echo {name} >/{name}/written\n");
        hook += &format!("{swap}\n");
    }
    let files = own_directory(ctx, "files")?;
    for (name, swap) in [("link", "ln -s ../prize/of link"), ("node", "mknod node c 1 5")] {
        let file = files.join(name);
        fs::write(&file, OWN).context("write a file")?;
        mounts.push(bind_of(&file, &format!("/{name}"), "rprivate"));
        script += &format!("echo \"{name} $(cat /{name})\"; echo {name} >>/{name}\n");
        hook += &format!("(cd files; mv {name} {name}.kept; {swap})\n");
    }
    script += "echo ready; sleep 1000\n";
    hook += &format!("mv {id}.rootfs kept.rootfs; ln -s prize {id}.rootfs\n");

    // The network namespace, which the spec names by a link of the host's.
    let name = "krun-between";
    undo::remember(&["ip", "netns", "del", name])?;
    Cmd::new(&["ip", "netns", "add", name]).run()?.ok()?;
    let given = Path::new("/run/netns").join(name);
    let named = super::link(ctx, "netns", &given.display().to_string())?;
    hook += "ln -sfn /proc/1/ns/net netns\n";

    let mut spec = spec::new(ctx, &id, &["sh", "-c", &script])?;
    spec["mounts"].as_array_mut().context("mounts")?.extend(mounts);
    spec["hooks"] = in_the_middle_of_create(&hook);
    let namespaces = spec["linux"]["namespaces"].as_array_mut().context("namespaces")?;
    let network = namespaces.iter_mut().find(|ns| ns["type"] == "network").context("a network namespace")?;
    network["path"] = named.into();

    let mut running = spec::run(ctx, &["--rm"], &spec, &id)?.spawn()?;
    running.wait_for_stdout("ready")?;
    let inode = |path: &Path| fs::metadata(path).map(|meta| meta.ino()).context("look at a namespace");
    let pid = ctx.task(&id)?.context("no task")?.pid;
    let entered = inode(Path::new(&format!("/proc/{pid}/ns/net")))?;
    ensure!(entered == inode(&given)?, "the container is in another network namespace");
    println!("tried: {:<56} got the one that was given", "a network namespace, in the middle of Create");
    ctx.kill(&id, "SIGKILL")?.ok()?;
    let output = running.finish()?;

    let text = output.stdout_text();
    ensure!(!text.contains(SECRET), "the prize was read: {output}");
    let kept = |name: &str, source: &str| match name {
        "below" => ctx.work("parent.kept/below"),
        _ => ctx.work(&format!("{source}.kept")),
    };
    for (name, source, _) in VOLUMES {
        let written = fs::read_to_string(kept(name, source).join("written")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        prize.guarded(&format!("/{name}, in the middle of Create"), &line)?;
        ensure!(line == format!("{name} own"), "/{name} is not what was resolved: {output}");
        ensure!(written.trim() == name, "/{name} was not written where it is: {output}");
    }
    for name in ["link", "node"] {
        let written = fs::read_to_string(files.join(format!("{name}.kept"))).context("read a file")?;
        prize.guarded(&format!("the single file /{name}, in the middle of Create"), &written)?;
        ensure!(written == format!("{OWN}{name}\n"), "/{name} was not written where it is: {output}");
    }
    let written = fs::read_to_string(ctx.work("kept.rootfs/written")).context("read what the root got")?;
    prize.guarded("the root directory, in the middle of Create", &written)?;
    ensure!(written == "root\n", "the root is another: {output}");
    Ok(Outcome::Passed)
}
