//! A volume that follows the host, whose source is swapped while it does.

use crate::command::Cmd;
use crate::ctx::Ctx;
use crate::scenario::Outcome;
use crate::undo;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// A directory of the host's that is also a mount there.
const PRIZE: &str = "/run";

/// The container moves the source of its following volume away and leaves a link to the host's root. Mounts of the host's
/// then neither appear nor get written to; those below the directory itself go on to appear, wherever it is.
pub fn volume(ctx: &Ctx) -> Result<Outcome> {
    let parent = ctx.work("parent");
    let (source, moved, elsewhere) = (parent.join("v"), parent.join("w"), ctx.work("elsewhere"));
    for dir in [&source.join("later"), &elsewhere] {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let id = ctx.id("");
    let volume = |source: &Path, target: &str, options: &str| {
        format!("type=bind,src={},dst={target},options=rbind:{options}", source.display())
    };
    let volumes = [volume(&parent, "/p", "rprivate:rw"), volume(&source, "/v", "rslave:rw")];
    let flags: Vec<_> = volumes.iter().flat_map(|volume| ["--mount", volume]).collect();
    let script = format!(
        "mkdir -p /v{PRIZE} && mv /p/v /p/w && ln -s / /p/v && echo swapped
         until [ -e /v/later/file ]; do sleep 0.2; done; echo followed; sleep 1000"
    );
    let mut running = ctx.sh(&flags, &id, &script).timeout(200).spawn()?;
    running.wait_for_stdout("swapped")?;
    mount(&elsewhere)?;
    let mark = format!("{PRIZE}/{id}-was-here");
    undo::remember(&["rm", "-f", &mark])?;
    // A guest keeps names for 5 s (docs/limitations.md), and may see only then what was mounted meanwhile.
    let attempt = format!("for i in 1 2 3 4 5 6 7 8; do ls /v{PRIZE}; touch /v{mark}; ls /v; sleep 1; done");
    let seen = ctx.ctr(&["task", "exec", "--exec-id", "try", &id, "sh", "-c", &attempt]).run()?.ok()?;
    ensure!(!Path::new(&mark).exists(), "the container wrote the host's {PRIZE}: {seen}");
    ensure!(!seen.stdout_text().contains("containerd"), "the container reads the host's {PRIZE}: {seen}");
    // What is mounted where the volume really is appears: it is followed, not given up.
    let later = moved.join("later");
    mount(&later)?;
    fs::write(later.join("file"), "").context("write a file")?;
    running.wait_for_stdout("followed")?;
    ctx.kill(&id, "SIGKILL")?.ok()?;
    running.finish()?;
    Ok(Outcome::Passed)
}

fn mount(target: &Path) -> Result<()> {
    let target = target.display().to_string();
    undo::remember(&["umount", &target])?;
    Cmd::new(&["mount", "-t", "tmpfs", "tmpfs", &target]).run()?.ok()?;
    Ok(())
}
