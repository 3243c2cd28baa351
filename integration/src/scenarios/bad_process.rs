//! Processes, roots and devices that cannot be: the caller gets a clear error, and nothing stays.

use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("missing-executable", missing_executable).smoke(),
    Scenario::new("executables", executables),
    Scenario::new("bad-process-or-root", bad_process_or_root),
];

fn missing_executable(ctx: &Ctx) -> Result<Outcome> {
    const AT_CREATE: &str = "failed to create shim task";
    ctx.run(&["--rm"], BUSYBOX, &ctx.id(""), &["/no/such/program"])
        .run()?
        .refused(&[AT_CREATE, "/no/such/program"])?;
    Ok(Outcome::Passed)
}

/// Programs by PATH, in a volume, through links and in memory, missing and not.
fn executables(ctx: &Ctx) -> Result<Outcome> {
    let tools = ctx.work("tools");
    fs::create_dir_all(&tools).context("make a volume")?;
    for (name, mode) in [("tool", 0o755), ("text", 0o644)] {
        fs::write(tools.join(name), "#!/bin/sh\necho ran\n").context("fill a volume")?;
        fs::set_permissions(tools.join(name), fs::Permissions::from_mode(mode)).context("chmod")?;
    }
    // Where it leads inside, and not on the host.
    symlink("/tools/tool", tools.join("link")).context("make a link")?;
    symlink("/usr/bin/python3", tools.join("out")).context("make a link")?;
    let volume = format!("type=bind,src={},dst=/tools,options=rbind:ro", tools.display());
    let scratch = "type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m";
    let run = |name: &str, program: &str| {
        let flags = ["--rm", "--env", "PATH=/nowhere:/tools:/bin", "--mount", &volume, "--mount", scratch];
        ctx.run(&flags, BUSYBOX, &ctx.id(name), &[program]).run()
    };
    for (name, program) in [("path", "tool"), ("link", "/tools/link"), ("dots", "/bin/../tools/tool")] {
        run(name, program)?.ok()?.printed("ran\n")?;
    }
    for (name, program, words) in [
        ("not-in-path", "none", "executable file not found in $PATH"),
        ("not-executable", "/tools/text", "permission denied"),
        ("not-in-volume", "/tools/none", "no such file or directory"),
        ("link-out", "/tools/out", "no such file or directory"),
        ("directory", "/tools", "is a directory"),
    ] {
        run(name, program)?.refused(&["failed to create shim task", program, words]).context(name)?;
    }
    // Nobody but the guest can say.
    run("in-memory", "/scratch/tool")?.refused(&["/scratch/tool", "no such file or directory"])?;
    run("below-a-file", "/tools/tool/x")?.refused(&["/tools/tool/x", "not a directory"])?;
    Ok(Outcome::Passed)
}

/// What exists and cannot be run, a root that is a file, a disk of the host.
fn bad_process_or_root(ctx: &Ctx) -> Result<Outcome> {
    ctx.run(&["--rm"], BUSYBOX, &ctx.id("directory"), &["/bin"]).run()?.refused(&["/bin"])?;
    let file = ctx.work("not-a-directory");
    fs::write(&file, "I am a file").context("write the file")?;
    let path = file.display().to_string();
    if ctx.krun() {
        let port = ["--rm", "--device", "/dev/ttyS0"];
        ctx.run(&port, BUSYBOX, &ctx.id("device"), &["true"]).run()?.refused(&["/dev/ttyS0", "/dev/null"])?;
    }
    ctx.run(&["--rm", "--rootfs"], &path, &ctx.id("root"), &["true"]).run()?.refused(&["not a directory"])?;
    Ok(Outcome::Passed)
}
