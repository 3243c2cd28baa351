//! A reader that stops reading holds up its own process, and nothing else.

use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use anyhow::{Result, ensure};
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("stalled-reader", stalled_reader).timeout(360)];

/// More than all pipes and windows on the way can hold.
const FLOOD: usize = 16 << 20;

/// While nobody reads stdout, the writer stalls, its neighbour's stderr goes on, and so does another container; then
/// the reader goes on and gets everything.
fn stalled_reader(ctx: &Ctx) -> Result<Outcome> {
    let script = format!(
        "(head -c {FLOOD} /dev/zero; echo flooded >&2) &
         writer=$!
         while kill -0 $writer 2>/dev/null; do echo tick >&2; sleep 0.5; done
         wait $writer"
    );
    let mut stalled = ctx.sh(&[], &ctx.id("stalled"), &script).hold_stdout().timeout(300).spawn()?;
    let ticks = |stderr: &[u8]| String::from_utf8_lossy(stderr).matches("tick").count();
    stalled.wait_for_stderr("tick")?;

    ctx.sh(&[], &ctx.id("other"), "echo fine").run()?.ok()?.printed("fine\n")?;

    let before = ticks(&stalled.stderr_now());
    until_true("stderr to go on while stdout stalls", Duration::from_secs(20), || {
        Ok(ticks(&stalled.stderr_now()) >= before + 4)
    })?;
    let stderr = String::from_utf8_lossy(&stalled.stderr_now()).into_owned();
    ensure!(!stderr.contains("flooded"), "{FLOOD} bytes that nobody read were taken from the writer");

    stalled.release_stdout();
    let output = stalled.finish()?.ok()?;
    ensure!(output.stdout.len() == FLOOD, "{} of {FLOOD} bytes arrived", output.stdout.len());
    ensure!(output.stderr_text().contains("flooded"), "the writer did not finish: {output}");
    Ok(Outcome::Passed)
}
