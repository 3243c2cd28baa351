//! The AppArmor profile that a spec names confines the vmm, which does the container's work on the host.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx};
use crate::host;
use crate::procs;
use crate::scenario::{Outcome, Scenario};
use crate::undo;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("host-apparmor", host_apparmor)
    .krun_only("runc has no vmm")
    .needs("apparmor_parser")
    .timeout(400)];

/// The kernel's own files, which show that it has AppArmor.
const POLICY: &str = "/sys/kernel/security/apparmor";

/// What the kernel says of itself: Y or N.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

/// As containerd's, without what only a container's own /proc needs; and no word of what is forbidden, in any share.
const OURS: &str = "krun-scenario";
const RULES: &str = "profile krun-scenario flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send,receive) peer=krun-scenario,
  ptrace (trace,tracedby,read,readby) peer=krun-scenario,
  deny mount,
  deny /proc/* w,
  deny /**/forbidden/** rw,
}
";

/// The name under which `ctr` loads containerd's own.
const CONTAINERDS: &str = "krun-scenario-default";

/// Nobody loads it.
const MISSING: &str = "krun-scenario-missing";

fn host_apparmor(ctx: &Ctx) -> Result<Outcome> {
    if !Path::new(POLICY).exists() {
        return Ok(Outcome::Skipped(format!("the box's kernel has no {POLICY}")));
    }
    load(ctx)?;
    let files = ctx.work("files");
    for name in ["open", "forbidden"] {
        fs::create_dir_all(files.join(name))?;
        fs::write(files.join(name).join("file"), format!("{name}\n"))?;
    }
    let volume = format!("type=bind,src={},dst=/files,options=rbind:rw", files.display());

    // (a name, the flags, what the kernel says of the vmm, whether it reads all files)
    for (name, flags, confined, reads_all) in [
        ("none", vec![], "unconfined".to_owned(), true),
        ("unconfined", vec!["--apparmor-profile", "unconfined"], "unconfined".to_owned(), true),
        ("ours", vec!["--apparmor-profile", OURS], format!("{OURS} (enforce)"), false),
        (
            "default",
            vec!["--apparmor-default-profile", CONTAINERDS],
            format!("{CONTAINERDS} (enforce)"),
            true,
        ),
    ] {
        let id = ctx.id(name);
        let flags = [&["--detach", "--null-io", "--mount", &volume], &flags[..]].concat();
        ctx.run(&flags, BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
        ctx.wait_for_status(&id, "RUNNING")?;
        let profile = profile_of(procs::vmm_of(&id)?.pid)?;
        println!("{name}: the vmm is {profile}");
        ensure!(profile == confined, "{name}: the vmm is {profile}, not {confined}");
        let exec = |script: &str| {
            ctx.ctr(&["task", "exec", "--exec-id", &format!("e{}", script.len()), &id, "sh", "-c", script])
                .run()
        };
        exec("cat /files/open/file && echo more >>/files/open/file")?.ok()?.has_line("open")?;
        let forbidden = exec("cat /files/forbidden/file; echo >/files/forbidden/new")?;
        let denied = forbidden.stderr_text().matches("Permission denied").count();
        println!("{name}: what is forbidden: {}{}", forbidden.stdout_text(), forbidden.stderr_text());
        ensure!(denied == if reads_all { 0 } else { 2 }, "{name}: what is forbidden: {forbidden}");
        ctx.end(&id)?;
        let new = files.join("forbidden/new");
        ensure!(new.exists() == reads_all, "{name}: whether {} was made is not as it said", new.display());
        let _ = fs::remove_file(new);
    }

    pod(ctx)?;
    let missing = ctx.run(&["--rm", "--apparmor-profile", MISSING], BUSYBOX, &ctx.id("missing"), &["true"]);
    missing.run()?.refused(&[&format!("apparmor profile {MISSING}"), "not loaded"])?;

    let no = ctx.work("no");
    fs::write(&no, "N\n")?;
    host::cover(ENABLED, no.to_str().context("a path in UTF-8")?)?;
    let disabled = ctx.run(&["--rm", "--apparmor-profile", OURS], BUSYBOX, &ctx.id("disabled"), &["true"]);
    let words = [&format!("apparmor profile {OURS}"), "not supported or not enabled"];
    disabled.run()?.refused(&words)?;
    ctx.sh(&[], &ctx.id("without"), "true").run()?.ok()?;
    Ok(Outcome::Passed)
}

/// A pod's VM has its sandbox's profile, whatever another container names.
fn pod(ctx: &Ctx) -> Result<()> {
    let id = ctx.id("pod");
    let sandbox = format!("--annotation=io.kubernetes.cri.sandbox-id={id}");
    let flags = ["--detach", "--null-io", &sandbox, "--apparmor-profile", OURS];
    ctx.run(&flags, BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    ctx.sh(&[&sandbox, "--apparmor-profile", MISSING], &ctx.id("member"), "echo fine")
        .run()?
        .ok()?
        .printed("fine\n")?;
    let profile = profile_of(procs::vmm_of(&id)?.pid)?;
    ensure!(profile == format!("{OURS} (enforce)"), "the pod's vmm is {profile}");
    ctx.end(&id)
}

/// Loads our profile, and has those of this scenario unloaded at its end.
fn load(ctx: &Ctx) -> Result<()> {
    for name in [OURS, CONTAINERDS] {
        // The second is loaded later, or not at all.
        let unload = format!("! grep -q '^{name} ' {POLICY}/profiles || printf {name} >{POLICY}/.remove");
        undo::remember(&["sh", "-c", &unload])?;
    }
    let rules = ctx.work("profile");
    fs::write(&rules, RULES)?;
    Cmd::new(&["apparmor_parser", "--replace", "--skip-cache", rules.to_str().context("a path in UTF-8")?])
        .run()?
        .ok()
        .map(drop)
}

fn profile_of(pid: i32) -> Result<String> {
    let current = fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current"));
    Ok(current.context("read the vmm's profile")?.trim().to_owned())
}
