//! krunctl, without containerd: `run` and `check`.

use crate::command::Cmd;
use crate::ctx::Ctx;
use crate::host;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::Result;

pub const WHY: &str = "it is krun's own tool";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("krunctl-run", run).krun_only(WHY),
    Scenario::new("krunctl-check-and-refusals", check_and_refusals).krun_only(WHY),
];

/// A directory boots, with stdin, stdout and status passed through.
fn run(ctx: &Ctx) -> Result<Outcome> {
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let command = [
        "krunctl",
        "run",
        "--root",
        &root,
        "--memory",
        "256",
        "--",
        "/bin/sh",
        "-c",
        "uname -r; cat; exit 7",
    ];
    let expected = format!("{}\nhello\n", host::libkrunfw_kernel()?);
    Cmd::new(&command).stdin("hello\n").run()?.expect_status(7)?.printed(&expected)?;
    Ok(Outcome::Passed)
}

/// `check` is content with the box; `run` refuses sizes and roots that cannot be.
fn check_and_refusals(ctx: &Ctx) -> Result<Outcome> {
    Cmd::new(&["krunctl", "check"]).run()?.ok()?;
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let file = format!("{root}/bin/busybox");
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--root", &root, "--memory", "64"], &["64", "128"]),
        (&["--root", &root, "--memory", "99999999"], &["99999999", "128"]),
        (&["--root", &root, "--cpus", "0"], &["0", "16"]),
        (&["--root", &root, "--cpus", "17"], &["17", "16"]),
        (&["--root", &file], &["not a directory"]),
        (&["--root", "/no/such/root"], &["/no/such/root"]),
    ];
    for (flags, words) in cases {
        Cmd::new(&[&["krunctl", "run"], flags, &["--", "/bin/true"]].concat())
            .run()?
            .expect_status(125)?
            .refused(words)?;
    }
    Ok(Outcome::Passed)
}
