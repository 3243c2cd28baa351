//! Mounts below a volume's source: those that are there, and those that come and go while the container runs.

use crate::command::Cmd;
use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use crate::undo;
use anyhow::{Context, Result, ensure};
use std::fs;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("mounts-below-a-volume", below)];

/// A volume that is only read, and the same one that follows the host: what each shows and lets happen.
const SCRIPT: &str = "
touch /read/file 2>/dev/null && echo the top is writable
touch /read/there/file && echo what is mounted below it is writable
touch /all/there/file 2>/dev/null && echo what is all read-only is writable
echo ready
until [ -e /follow/later/file ]; do sleep 0.2; done
echo followed
[ -e /read/later/file ] && echo followed where nobody asked
touch /follow/later/written && echo writable
until [ ! -e /follow/later/file ]; do sleep 0.2; done
echo gone
";

fn below(ctx: &Ctx) -> Result<Outcome> {
    let source = ctx.work("source");
    let (there, later) = (source.join("there"), source.join("later"));
    for dir in [&there, &later] {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let (there, later) = (there.display().to_string(), later.display().to_string());
    // As those who share mounts make their directories: what is mounted below is listed twice then.
    let itself = source.display().to_string();
    undo::remember(&["umount", &itself])?;
    Cmd::new(&["mount", "--bind", &itself, &itself]).run()?.ok()?;
    mount(&there)?;
    let volume = |target: &str, options: &str| {
        format!("type=bind,src={},dst={target},options=rbind:{options}", source.display())
    };
    let volumes =
        [volume("/read", "rprivate:ro"), volume("/all", "rprivate:rro"), volume("/follow", "rslave")];
    let flags: Vec<_> = volumes.iter().flat_map(|volume| ["--mount", volume]).collect();
    let mut running = ctx.sh(&flags, &ctx.id(""), SCRIPT).spawn()?;
    running.wait_for_stdout("ready")?;
    mount(&later)?;
    Cmd::new(&["touch", &format!("{later}/file")]).run()?.ok()?;
    running.wait_for_stdout("followed\nwritable\n")?;
    // The container's mounts are nobody else's: they neither show on the host nor keep its directories busy.
    let table = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    ensure!(!table.contains("/run/krun/"), "the host sees mounts of the share: {table}");
    for dir in [&later, &there] {
        Cmd::new(&["umount", dir]).run()?.ok()?;
        fs::remove_dir(dir).with_context(|| format!("remove {dir} while a container sees a mount on it"))?;
    }
    running
        .finish()?
        .ok()?
        .printed("what is mounted below it is writable\nready\nfollowed\nwritable\ngone\n")?;
    Ok(Outcome::Passed)
}

fn mount(target: &str) -> Result<()> {
    undo::remember(&["sh", "-c", &format!("umount {target} 2>/dev/null; true")])?;
    Cmd::new(&["mount", "-t", "tmpfs", "tmpfs", target]).run()?.ok()?;
    Ok(())
}
