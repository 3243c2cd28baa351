//! A host on which no VM can run: `ctr` and `krunctl check` say why, and nothing stays.

use crate::command::Cmd;
use crate::ctx::Ctx;
use crate::host;
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result, ensure};
use std::path::Path;

const WHY: &str = "runc needs no VM";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("no-kvm", no_kvm).krun_only(WHY),
    Scenario::new("useless-kvm", useless_kvm).long().krun_only(WHY),
    Scenario::new("no-libkrunfw", no_libkrunfw).krun_only(WHY),
    Scenario::new("no-guest-init", no_guest_init).long().krun_only(WHY),
    Scenario::new("full-state-directory", full_state_directory).long().krun_only("the directory is krun's"),
];

/// Where an installation may have put guest-init.
const GUEST_INIT: [&str; 3] =
    ["/usr/local/libexec/krun/guest-init", "/usr/libexec/krun/guest-init", "/usr/local/bin/guest-init"];
const STATE: &str = "/run/krun";

fn no_kvm(ctx: &Ctx) -> Result<Outcome> {
    host::hide(Path::new("/dev/kvm"))?;
    both_refuse(ctx, &["/dev/kvm"])
}

/// A node that opens and is no KVM.
fn useless_kvm(ctx: &Ctx) -> Result<Outcome> {
    host::cover("/dev/kvm", "/dev/null")?;
    both_refuse(ctx, &["/dev/kvm"])
}

fn no_libkrunfw(ctx: &Ctx) -> Result<Outcome> {
    for library in host::libkrunfws()? {
        host::hide(&library)?;
    }
    both_refuse(ctx, &["libkrunfw"])
}

fn no_guest_init(ctx: &Ctx) -> Result<Outcome> {
    let installed: Vec<_> = GUEST_INIT.iter().filter(|p| Path::new(p).exists()).collect();
    ensure!(!installed.is_empty(), "guest-init is in none of {GUEST_INIT:?}");
    for path in installed {
        host::hide(Path::new(path))?;
    }
    both_refuse(ctx, &["guest-init"])
}

/// `ctr run` and `krunctl check` fail and name the cause.
fn both_refuse(ctx: &Ctx, words: &[&str]) -> Result<Outcome> {
    ctx.sh(&[], &ctx.id(""), "true").run()?.refused(words)?;
    let check = Cmd::new(&["krunctl", "check"]).run()?;
    ensure!(check.status != 0, "krunctl check finds nothing wrong: {check}");
    let printed = check.stdout_text() + &check.stderr_text();
    for word in words {
        ensure!(printed.contains(word), "krunctl check does not name {word}: {check}");
    }
    Ok(Outcome::Passed)
}

/// With no room left below the state directory a container cannot start, and says so. It needs
/// directories only, which take no bytes of a tmpfs: the room is that for files.
fn full_state_directory(ctx: &Ctx) -> Result<Outcome> {
    host::full_tmpfs(STATE, 4).context("fill the state directory")?;
    ctx.sh(&[], &ctx.id(""), "true").run()?.refused(&["No space left", "/run/krun/"])?;
    Ok(Outcome::Passed)
}
