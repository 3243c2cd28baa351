//! What a container's process ends with is what the caller gets.

use crate::ctx::{BUSYBOX, Ctx};
use crate::host;
use crate::scenario::{Outcome, Scenario};
use anyhow::{Result, ensure};

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("run-kernel-and-exit-42", kernel_and_exit_42).smoke(),
    Scenario::new("exit-codes", exit_codes).timeout(360),
];

/// The container runs on libkrunfw's kernel, not the box's, and its status comes through.
fn kernel_and_exit_42(ctx: &Ctx) -> Result<Outcome> {
    let output = ctx.sh(&[], &ctx.id(""), "uname -r; exit 42").run()?.expect_status(42)?;
    let box_kernel = host::kernel()?;
    let expected = if ctx.krun() { host::libkrunfw_kernel()? } else { box_kernel.clone() };
    ensure!(
        !ctx.krun() || expected != box_kernel,
        "libkrunfw and the box have the same kernel: nothing to tell apart"
    );
    output.printed(&format!("{expected}\n"))?;
    Ok(Outcome::Passed)
}

/// Success, failure, the shell's 126 (not executable) and 127 (not found), and the largest one.
fn exit_codes(ctx: &Ctx) -> Result<Outcome> {
    let cases: [(&str, i32); 5] = [
        ("exit 0", 0),
        ("exit 1", 1),
        ("/etc/passwd || exit $?", 126),
        ("/no/such || exit $?", 127),
        ("exit 255", 255),
    ];
    // Two at a time: as many as the box has processors.
    for pair in cases.chunks(2) {
        let start = |(script, status): &(&str, i32)| {
            let script = format!("touch /etc/passwd; {script}");
            let id = ctx.id(&status.to_string());
            Ok((ctx.run(&["--rm"], BUSYBOX, &id, &["sh", "-c", &script]).spawn()?, *status))
        };
        let running = pair.iter().map(start).collect::<Result<Vec<_>>>()?;
        for (container, status) in running {
            container.finish()?.expect_status(status)?;
        }
    }
    Ok(Outcome::Passed)
}
