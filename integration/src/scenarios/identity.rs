//! Ids and names: taken ones, equal ones of other namespaces, the longest ones.

use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use crate::undo;
use anyhow::Result;

pub const SCENARIOS: &[Scenario] =
    &[Scenario::new("taken-id", taken_id).long(), Scenario::new("long-names", long_names).long()];

/// containerd's limit for ids and namespaces (identifiers.Validate).
const LONGEST: usize = 76;

/// `ctr --namespace N`, with an image of the default namespace in N.
struct Namespace<'a> {
    ctx: &'a Ctx,
    name: String,
}

impl<'a> Namespace<'a> {
    /// Makes it and gives it the busybox image.
    fn new(ctx: &'a Ctx, name: &str) -> Result<Self> {
        let tar = ctx.work("busybox.tar").display().to_string();
        // runc and ctr leave these parents, which are containerd's business, behind.
        for parent in [
            "/run/containerd/io.containerd.runtime.v2.task",
            "/var/lib/containerd/io.containerd.runtime.v2.task",
        ] {
            undo::remember(&["rm", "-df", &format!("{parent}/{name}")])?;
        }
        undo::remember(&["rm", "-df", &format!("/run/containerd/runc/{name}")])?;
        undo::remember(&["rm", "-df", &format!("/sys/fs/cgroup/{name}")])?;
        undo::remember(&["ctr", "namespace", "rm", name])?;
        undo::remember(&["ctr", "--namespace", name, "image", "rm", "--sync", BUSYBOX])?;
        ctx.ctr(&["image", "export", &tar, BUSYBOX]).run()?.ok()?;
        let this = Self { ctx, name: name.to_owned() };
        this.ctr(&["image", "import", &tar]).run()?.ok()?;
        Ok(this)
    }

    fn ctr(&self, args: &[&str]) -> crate::command::Cmd {
        self.ctx.ctr(&[&["--namespace", self.name.as_str()], args].concat())
    }

    fn run(&self, id: &str, args: &[&str]) -> crate::command::Cmd {
        let runtime = self.ctx.runtime.containerd_name();
        self.ctr(&[&["run", "--rm", "--runtime", runtime, BUSYBOX, id], args].concat())
    }
}

/// A second container of the same id is refused and harms nothing; in another namespace it is another container.
fn taken_id(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let other = Namespace::new(ctx, "scenarios-other")?;
    let mut first = ctx.sh(&[], &id, "echo up; read line; echo got $line").hold_stdin().spawn()?;
    first.wait_for_stdout("up")?;
    ctx.sh(&[], &id, "true").run()?.refused(&["already exists"])?;
    other.run(&id, &["echo", "another"]).run()?.ok()?.printed("another\n")?;
    first.say("still here\n")?;
    first.finish()?.ok()?.has_line("got still here")?;
    Ok(Outcome::Passed)
}

/// The longest id in the longest namespace: a bundle path of more than 200 bytes, where sockets cannot live.
fn long_names(ctx: &Ctx) -> Result<Outcome> {
    let namespace = Namespace::new(ctx, &"n".repeat(LONGEST))?;
    namespace.run(&"i".repeat(LONGEST), &["echo", "fine"]).run()?.ok()?.printed("fine\n")?;
    Ok(Outcome::Passed)
}
