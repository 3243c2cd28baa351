//! Paths that somebody else can influence: each case swaps one for a link, a FIFO or a device, at one moment of a container's
//! life. The host has a prize: nobody reads it, and nothing of it changes. Each case prints what it tried and what it got.

mod before_create;
mod between;
mod delete;
mod destinations;
mod exec;
mod followed;
mod running;
mod sockets;

use crate::command::{Cmd, Output};
use crate::ctx::{Ctx, DEBIAN};
use crate::scenario::Scenario;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LINKS: &str = "runc follows links of /proc, and its shim any link";
const MOMENT: &str = "runc mounts at another moment, and by paths";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("hostile-paths-followed-volume", followed::volume),
    Scenario::new("hostile-paths-forwarded-socket", sockets::running)
        .image(DEBIAN)
        .krun_only("runc binds the socket itself"),
    Scenario::new("hostile-paths-before-create", before_create::sources).timeout(400).krun_only(LINKS),
    Scenario::new("hostile-paths-bundle", before_create::bundle).long().timeout(300).krun_only(LINKS),
    Scenario::new("hostile-paths-between", between::swapped).long().timeout(200).krun_only(MOMENT),
    Scenario::new("hostile-paths-between-sockets", sockets::between).image(DEBIAN).long().krun_only(MOMENT),
    Scenario::new("hostile-paths-running", running::pod)
        .timeout(300)
        .krun_only("a pod of runc's shim is no VM"),
    Scenario::new("hostile-paths-exec", exec::swapped).long().timeout(300).krun_only(LINKS),
    Scenario::new("hostile-paths-destinations", destinations::links)
        .timeout(300)
        .krun_only("it is about the guest"),
    Scenario::new("hostile-paths-delete", delete::killed).long().timeout(300).krun_only(MOMENT),
    Scenario::new("hostile-paths-delete-rootfs", delete::moved_rootfs).long().krun_only(MOMENT),
];

/// An answer later than this means that something waited for what never comes.
const AT_ONCE: Duration = Duration::from_secs(90);

/// What the prize's files say. No file of a container's own does.
const SECRET: &str = "the-hosts-own";

/// What a container's own files say.
const OWN: &str = "own\n";

/// A directory of the host's that no container was given.
struct Prize {
    dir: PathBuf,
    before: Vec<String>,
}

impl Prize {
    fn new(ctx: &Ctx) -> Result<Prize> {
        let dir = ctx.work("prize");
        fs::create_dir_all(dir.join("below")).context("make the prize")?;
        for name in ["of", "below/of"] {
            fs::write(dir.join(name), SECRET).context("write the prize")?;
        }
        Ok(Prize { before: look(&dir)?, dir })
    }

    fn dir(&self) -> String {
        self.dir.display().to_string()
    }

    fn file(&self) -> String {
        format!("{}/of", self.dir())
    }

    /// A path to it through a link of /proc that leads anywhere without a path.
    fn magic(&self) -> String {
        format!("/proc/1/root{}", self.dir())
    }

    /// Prints what came of an attempt, which must have got nothing of the prize, and have changed nothing.
    fn guarded(&self, what: &str, got: &str) -> Result<()> {
        let line = got.lines().rev().find(|line| !line.trim().is_empty());
        let line = line.with_context(|| format!("{what}: no answer, which shows nothing"))?;
        println!("tried: {what:<56} got {}", line.chars().take(160).collect::<String>());
        ensure!(!got.contains(SECRET), "{what}: the prize was read: {got}");
        let now = look(&self.dir)?;
        ensure!(now == self.before, "{what}: the prize was {:?} and is {now:?}", self.before);
        Ok(())
    }

    /// Runs what must be refused in these words.
    fn refused(&self, what: &str, command: Cmd, words: &[&str]) -> Result<()> {
        let begun = Instant::now();
        let output = command.run()?;
        self.guarded(what, &answer(&output))?;
        output.refused(words).with_context(|| what.to_owned())?;
        ensure!(begun.elapsed() < AT_ONCE, "{what}: refused after {:?}", begun.elapsed());
        Ok(())
    }
}

fn answer(output: &Output) -> String {
    output.stdout_text() + &output.stderr_text()
}

/// What there is in a directory, with owners, permissions and contents.
fn look(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry.context("read a directory")?.path();
        let meta = fs::symlink_metadata(&path).with_context(|| format!("look at {}", path.display()))?;
        let text =
            if meta.is_file() { fs::read_to_string(&path).context("read a file")? } else { String::new() };
        found.push(format!("{} {:o} {}:{} {text}", path.display(), meta.mode(), meta.uid(), meta.gid()));
        if meta.is_dir() {
            found.extend(look(&path)?);
        }
    }
    found.sort();
    Ok(found)
}

/// A link at `name` among the scenario's files.
fn link(ctx: &Ctx, name: &str, target: &str) -> Result<String> {
    let path = ctx.work(name);
    symlink(target, &path).with_context(|| format!("link {}", path.display()))?;
    Ok(path.display().to_string())
}

/// A FIFO there.
fn fifo(ctx: &Ctx, name: &str) -> Result<String> {
    let path = ctx.work(name).display().to_string();
    Cmd::new(&["mkfifo", &path]).run()?.ok()?;
    Ok(path)
}

/// A directory there with a file `of` in it that says that it is the container's own.
fn own_directory(ctx: &Ctx, name: &str) -> Result<PathBuf> {
    let path = ctx.work(name);
    fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    fs::write(path.join("of"), OWN).context("write a file")?;
    Ok(path)
}

/// The flag of `ctr run` for a bind.
fn bind(source: &str, target: &str, options: &str) -> String {
    format!("type=bind,src={source},dst={target},options=rbind:{options}")
}

/// A spec's bind.
fn bind_of(source: &Path, target: &str, propagation: &str) -> Value {
    json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", propagation, "rw"]})
}

/// Hooks of a spec that run `script` on the host when the sources of volumes are resolved and nothing is mounted for the guest.
fn in_the_middle_of_create(script: &str) -> Value {
    let env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
    json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-ec", script], "env": env}]})
}
