//! krunctl's commands are killed while they change what stays: images, the state of VMs, and files in them. What is there afterwards
//! is the old or the new, and the next command removes the rest.

use crate::command::{Cmd, Output};
use crate::ctx::Ctx;
use crate::failpoints::Points;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;

use super::krunctl::WHY;
use super::krunctl_image::{STORE, layout, registry};
use super::krunctl_kill_points::{PLACE, Seen, kill_at, tool};

pub const SCENARIOS: &[Scenario] =
    &[Scenario::new("krunctl-kill-points-commands", commands).long().krun_only(WHY).timeout(600)];

const VMS: &str = "/var/lib/krun/vms";

const KILLED: i32 = 128 + 9;

/// What commands come to.
const CREATE: [&str; 2] = ["command.image-kept", "command.state-made"];
const DELETE: [&str; 2] = ["command.state-renamed", "command.state-deleted"];
const COPY: &str = "command.file-copied";

fn entries(directory: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.to_owned())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// The names that `ls` shows.
fn shown() -> Result<Vec<String>> {
    let all: Value = serde_json::from_str(&tool(&["ls", "--format", "json"]).run()?.ok()?.stdout_text())?;
    let names = all.as_array().into_iter().flatten().filter_map(|vm| vm["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn store_is_empty() -> Result<()> {
    for directory in ["layers", "refs", "tmp"] {
        let left = entries(&Path::new(STORE).join(directory).display().to_string())?;
        ensure!(left.is_empty(), "left in {STORE}/{directory}: {left:?}");
    }
    Ok(())
}

fn commands(ctx: &Ctx) -> Result<Outcome> {
    ensure!(Path::new(PLACE).exists(), "there is no {PLACE}: `make build` makes it");
    let layout = layout(ctx)?;
    crate::undo::remember(&["sh", "-c", "krunctl delete -f web || true"])?;
    let points = Points::listen()?;
    let before = Seen::now()?;
    pull(ctx, &layout)?;
    let import =
        || -> Result<Output> { tool(&["image", "import", &layout, "--name", "localhost/app:1"]).run()?.ok() };
    let create = || tool(&["create", "--name", "web", "--memory", "256", "--image", "localhost/app:1"]);
    for name in CREATE {
        import()?;
        kill_at(name, &points, create().spawn()?)?.expect_status(KILLED)?;
        ensure!(shown()?.is_empty(), "{name}: a VM that was not made is there");
        create().run()?.ok().with_context(|| name.to_owned())?;
        ensure!(entries(VMS)? == ["web"], "{name}: {:?}", entries(VMS)?);
        tool(&["delete", "web"]).run()?.ok()?;
        println!("tried: kill -9 of create at {name}: the next one made the VM");
    }
    for name in DELETE {
        import()?;
        create().run()?.ok()?;
        kill_at(name, &points, tool(&["delete", "web"]).spawn()?)?.expect_status(KILLED)?;
        ensure!(shown()?.is_empty(), "{name}: the VM is there");
        tool(&["image", "rm", "localhost/app:1"]).run()?.ok()?;
        tool(&["image", "prune"]).run()?.ok()?;
        store_is_empty().with_context(|| name.to_owned())?;
        println!("tried: kill -9 of delete at {name}: the VM is gone, and prune removed its image");
    }
    import()?;
    create().run()?.ok()?;
    ensure!(entries(VMS)? == ["web"], "{:?}", entries(VMS)?);
    tool(&["delete", "web"]).run()?.ok()?;
    tool(&["image", "rm", "localhost/app:1"]).run()?.ok()?;
    store_is_empty()?;
    copy(ctx, &points)?;
    before.is_back()?;
    Ok(Outcome::Passed)
}

/// A pull that is killed while a layer comes leaves nothing that counts.
fn pull(ctx: &Ctx, layout: &str) -> Result<()> {
    let (mut stalled, reference) = registry(ctx, layout, &["stalled"])?;
    let pulling = Cmd::new(&["krunctl", "image", "pull", "--plain-http", &reference]).spawn()?;
    stalled.wait_for_stdout("stalled\n")?;
    pulling.signal(Signal::SIGKILL)?;
    pulling.finish()?.expect_status(KILLED)?;
    tool(&["image", "ls", "--format", "json"]).run()?.ok()?.printed("[]\n")?;
    tool(&["image", "prune"]).run()?.ok()?;
    store_is_empty()?;
    println!("tried: kill -9 of image pull while a layer came: no image, and prune left nothing");
    Ok(())
}

/// A file that is copied is there as a whole or not at all.
fn copy(ctx: &Ctx, points: &Points) -> Result<()> {
    let root = spec::busybox_root(&ctx.work("root"))?;
    let source = ctx.work("source");
    fs::write(&source, "new\n")?;
    fs::write(root.join("copied"), "old\n")?;
    let words = ["create", "--name", "web", "--root", &root.display().to_string(), "--", "/bin/true"];
    tool(&words).run()?.ok()?;
    let cp = || tool(&["cp", &source.display().to_string(), "web:/copied"]);
    let before = entries(&root.display().to_string())?;
    kill_at(COPY, points, cp().spawn()?)?.expect_status(KILLED)?;
    ensure!(fs::read_to_string(root.join("copied"))? == "old\n", "it was replaced too early");
    ensure!(entries(&root.display().to_string())? == before, "it left something");
    cp().run()?.ok()?;
    ensure!(fs::read_to_string(root.join("copied"))? == "new\n", "it was not replaced");
    println!("tried: kill -9 of cp before the file has its name: the old one is there, and nothing else");
    tool(&["delete", "web"]).run()?.ok().map(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::failpoints;

    #[test]
    fn every_point_of_krunctls_commands_has_a_case() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vmm/krunctl/src");
        if !source.exists() {
            // In a box. `hack/check` runs it where the source is.
            return;
        }
        let cases = [&CREATE[..], &DELETE, &[COPY]].concat();
        let cases: BTreeSet<_> = cases.into_iter().map(str::to_owned).collect();
        assert_eq!(failpoints::named_in(&source), cases);
    }
}
