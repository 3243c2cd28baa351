//! Many VMs of krunctl, one after the other and at the same time: nothing of the host piles up.

use crate::command::Cmd;
use crate::ctx::Ctx;
use crate::growth;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::Result;

use super::krunctl::WHY;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("krunctl-many-runs", sequential).long().krun_only(WHY).timeout(2 * 3600),
    Scenario::new("krunctl-many-at-once", parallel).long().krun_only(WHY).timeout(1800),
];

/// How many without being told.
const TIMES: u64 = 20;

/// How many VMs run at the same time.
const AT_ONCE: usize = 20;

/// Seconds for all of them to boot, in an emulated box with two CPUs.
const PATIENCE: u64 = 900;

fn run(root: &str, flags: &[&str], script: &str) -> Cmd {
    let words =
        [&["krunctl", "run", "--root", root, "--memory", "128"], flags, &["--", "/bin/sh", "-c", script]];
    Cmd::new(&words.concat())
}

fn sequential(ctx: &Ctx) -> Result<Outcome> {
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    growth::repeat(TIMES, |round| {
        // Every other one has a network namespace and rules of its own.
        let flags: &[&str] = if round % 2 == 0 { &["--deny-all"] } else { &[] };
        run(&root, flags, &format!("echo {round}; exit 3"))
            .run()?
            .expect_status(3)?
            .printed(&format!("{round}\n"))?;
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

fn parallel(ctx: &Ctx) -> Result<Outcome> {
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let start = |number: usize| {
        let flags: &[&str] = if number.is_multiple_of(2) { &["-i", "--deny-all"] } else { &["-i"] };
        let script = format!("echo up {number}; read word; echo $word; exit {number}");
        run(&root, flags, &script).hold_stdin().timeout(PATIENCE).spawn()
    };
    let mut all = (1..=AT_ONCE).map(start).collect::<Result<Vec<_>>>()?;
    for (index, running) in all.iter_mut().enumerate() {
        running.wait_for_stdout(&format!("up {}\n", index + 1))?;
    }
    // All run now.
    for (index, mut running) in all.into_iter().enumerate() {
        running.say("go\n")?;
        let number = index + 1;
        running.finish()?.expect_status(number as i32)?.printed(&format!("up {number}\ngo\n"))?;
    }
    Ok(Outcome::Passed)
}
