//! nerdctl's containers, whose spec names an AppArmor profile where the host has AppArmor: the vmms that wait are under it.

use super::super::nerdctl::nerdctl;
use super::{Pool, taken_since};
use crate::containerd_log;
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::scenario::Outcome;
use anyhow::{Context, Result, ensure};
use std::fs;

/// What nerdctl loads, and names in every spec.
const PROFILE: &str = "nerdctl-default";

/// What the kernel says of itself: Y or N.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

pub fn profile(ctx: &Ctx) -> Result<Outcome> {
    let runtime = ["--runtime", ctx.runtime.containerd_name()];
    let run = |flags: &[&str], command: &[&str]| {
        nerdctl(&[&["run"], &runtime[..], flags, &[BUSYBOX], command].concat()).run()?.ok()
    };
    // It loads its profile.
    run(&["--rm", "--net", "none"], &["true"])?;
    let has_apparmor = fs::read_to_string(ENABLED).is_ok_and(|said| said.trim() == "Y");
    let named = if has_apparmor { PROFILE } else { "" };
    let mut pool = Pool::start(ctx, &format!("[[pool]]\ncount = 2\napparmor_profile = \"{named}\"\n"), 2)?;
    let mark = containerd_log::mark();
    // CNI's network comes by a hook before the start.
    for network in ["none", "bridge"] {
        run(&["--rm", "--net", network], &["true"])?;
    }
    ensure!(taken_since(mark)? == 2, "the VMs are not the pool's: {}", pool.log());
    pool.has_booted(4)?;
    let id = run(&["--detach", "--net", "none", "--name", "profiled"], &["sleep", "1000"])?.stdout_text();
    let vmm = procs::vmm_of(id.trim())?.pid;
    let confined = fs::read_to_string(format!("/proc/{vmm}/attr/current")).context("the vmm's profile")?;
    nerdctl(&["rm", "--force", "profiled"]).run()?.ok()?;
    ensure!(taken_since(mark)? == 3, "the third VM is not the pool's");
    ensure!(!has_apparmor || confined.starts_with(PROFILE), "its vmm is {confined}");
    println!("tried: three containers of nerdctl's: each in a VM of the pool's, under {confined}");

    // A VM without the profile is none for them.
    pool.end()?;
    if has_apparmor {
        let pool = Pool::start(ctx, super::TWO, 2)?;
        run(&["--rm", "--net", "none"], &["true"])?;
        ensure!(pool.given() == 0, "an unconfined VM was taken for a container with a profile");
        pool.end()?;
    }
    Ok(Outcome::Passed)
}
