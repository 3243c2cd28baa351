//! A config.json that is missing, cut short, or absurdly large by the time the shim reads it, or that names no network
//! namespace where it should.
//!
//! containerd always writes a whole one, so a wrapper stands in for the shim: it spoils the file, once before the shim
//! starts and once between its start and Create. Everything else is real: containerd, ctr, the shim, the clean-up.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("bad-config-json", bad_config_json).timeout(360),
    Scenario::new("bad-network-namespace", bad_network_namespace)
        .long()
        .krun_only("runc waits for a FIFO's writer for ever"),
];

const HUGE: &str = "of 100 MB";
const MISHAPS: [(&str, &str); 3] = [
    ("missing", "rm config.json"),
    ("truncated", "truncate -s 100 config.json"),
    (HUGE, "truncate -s 100M config.json"),
];

fn bad_config_json(ctx: &Ctx) -> Result<Outcome> {
    // runc does not say which file it could not parse.
    let words: &[&str] = if ctx.krun() { &["config.json"] } else { &[] };
    for (title, mishap) in MISHAPS {
        if title == HUGE && !ctx.krun() {
            continue; // runc takes the good first part of it.
        }
        for (when, script) in [
            ("before", format!("{mishap}; exec {{shim}} \"$@\"")),
            ("after", format!("{{shim}} \"$@\"; status=$?; {mishap}; exit $status")),
        ] {
            let wrapper = wrap(ctx, when, &script)?;
            let output = ctx.run_as(&wrapper, &["--rm"], &[BUSYBOX, &ctx.id(when), "true"]).run()?;
            output.refused(words).with_context(|| format!("{title} {when} the shim's start"))?;
        }
    }
    Ok(Outcome::Passed)
}

/// Neither Create nor the clean-up after it opens what is no network namespace: a FIFO would hang both, a device may do
/// anything.
fn bad_network_namespace(ctx: &Ctx) -> Result<Outcome> {
    let fifo = ctx.work("no-netns");
    Cmd::new(&["mkfifo", &fifo.display().to_string()]).run()?.ok()?;
    for (name, path) in [("fifo", fifo.display().to_string()), ("uts", "/proc/self/ns/uts".to_owned())] {
        let namespace = format!("network:{path}");
        ctx.sh(&["--with-ns", &namespace], &ctx.id(name), "true")
            .run()?
            .refused(&[&path, "no network namespace"])?;
    }
    Ok(Outcome::Passed)
}

/// A program that containerd takes for a shim: on `start` it runs the script, otherwise the real one.
pub(super) fn wrap(ctx: &Ctx, name: &str, on_start: &str) -> Result<String> {
    let path = ctx.work(&format!("containerd-shim-{name}-v2"));
    let shim = ctx.runtime.shim();
    let on_start = on_start.replace("{shim}", shim);
    let script = format!(
        "#!/bin/sh\nfor word; do last=$word; done\nif [ \"$last\" = start ]; then\n  {on_start}\nelse\n  exec {shim} \"$@\"\nfi\n"
    );
    fs::write(&path, script).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make it executable")?;
    Ok(path.display().to_string())
}
