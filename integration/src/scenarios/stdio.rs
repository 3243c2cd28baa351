//! Bytes in and out: all of them, in order, and an end of file where one belongs.

use crate::crc32::{crc32, noise};
use crate::ctx::Ctx;
use crate::procs;
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("stdin-to-stdout", stdin_to_stdout).smoke(),
    Scenario::new("stdout-50-mb", stdout_50_mb).long().timeout(360),
    Scenario::new("stdin-50-mb", stdin_50_mb).long().timeout(360),
    Scenario::new("stdout-256-mb", stdout_256_mb).long().timeout(700),
    Scenario::new("burst-then-exit", burst_then_exit).long(),
];

const LARGE: usize = 50 << 20;

/// `echo hi | ctr run … cat`, with both outputs kept apart.
fn stdin_to_stdout(ctx: &Ctx) -> Result<Outcome> {
    let run = ctx.sh(&[], &ctx.id(""), "echo up >&2; cat; echo over >&2");
    let output = if ctx.krun() {
        run.stdin("hi\n").run()?
    } else {
        // ctr forgets to close stdin when it reads the end of it before Create has returned; a shim that lets the
        // writes wait for Start keeps that from happening, and runc's does not.
        let mut running = run.hold_stdin().spawn()?;
        running.wait_for_stderr("up")?;
        running.say("hi\n")?;
        running.finish()?
    };
    let output = output.ok()?.printed("hi\n")?;
    ensure!(output.stderr_text().lines().any(|l| l == "over"), "stderr did not arrive: {output}");
    Ok(Outcome::Passed)
}

/// 50 MB of noise out; the container says on stderr what it sent.
fn stdout_50_mb(ctx: &Ctx) -> Result<Outcome> {
    // 2 MiB of noise, 25 times, each copy under its number, so that no copy can take another's place.
    let script = "exec 3>&1
        head -c 2097152 /dev/urandom >/dev/shm/noise
        send() { for i in $(seq 25); do echo copy $i; cat /dev/shm/noise; done; }
        send | tee /dev/fd/3 | crc32 >&2";
    let output = ctx.sh(&[], &ctx.id(""), script).timeout(300).run()?.ok()?;
    let headers: usize = (1..=25).map(|i| format!("copy {i}\n").len()).sum();
    let (sent, arrived) = (LARGE + headers, output.stdout.len());
    ensure!(arrived == sent, "{sent} bytes were sent, {arrived} arrived");
    let (sum, got) = (output.stderr_text(), format!("{:08x}", crc32(&output.stdout)));
    ensure!(sum.trim() == got, "what arrived has checksum {got}, what was sent had {sum}");
    Ok(Outcome::Passed)
}

/// 256 MB pass through a shim that never holds more than a little of them.
fn stdout_256_mb(ctx: &Ctx) -> Result<Outcome> {
    const HUGE: usize = 256 << 20;
    /// Kilobytes; a shim that does nothing has some ten thousand, most of them its file's.
    const MOST: u64 = 32 << 10;
    let id = ctx.id("");
    let script = format!("head -c {HUGE} /dev/zero; sleep 1000");
    let container = ctx.sh(&[], &id, &script).timeout(650).spawn()?;
    until_true("256 MB", Duration::from_secs(600), || Ok(container.stdout_len() == HUGE))?;
    let shim = procs::shim_of(&id)?.context("no shim")?;
    let status =
        fs::read_to_string(format!("/proc/{}/status", shim.pid)).context("read the shim's status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().context("VmHWM")?;
    ensure!(peak < MOST, "the shim had {peak} kB at its peak");
    println!("the shim had {peak} kB at its peak");
    ctx.kill(&id, "SIGKILL")?.ok()?;
    container.finish()?.expect_status(137)?;
    Ok(Outcome::Passed)
}

/// 50 MB of noise in; the container says on stdout what it got.
fn stdin_50_mb(ctx: &Ctx) -> Result<Outcome> {
    let data = noise(LARGE);
    let expected = format!("{:08x}\n{LARGE}\n", crc32(&data));
    let script = "mkfifo /dev/shm/copy; wc -c </dev/shm/copy >/dev/shm/length &
        tee /dev/shm/copy | crc32; wait; cat /dev/shm/length";
    ctx.sh(&[], &ctx.id(""), script).stdin(data).timeout(300).run()?.ok()?.printed(&expected)?;
    Ok(Outcome::Passed)
}

/// A process that writes 8 MB and is gone: what it wrote arrives nevertheless.
fn burst_then_exit(ctx: &Ctx) -> Result<Outcome> {
    const BURST: usize = 8 << 20;
    let output = ctx.sh(&[], &ctx.id(""), &format!("exec head -c {BURST} /dev/zero")).run()?.ok()?;
    ensure!(output.stdout.len() == BURST, "{} of {BURST} bytes arrived", output.stdout.len());
    Ok(Outcome::Passed)
}
