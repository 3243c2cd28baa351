//! Commands of krunctl that want the same VM at the same moment.

use crate::command::{Cmd, Output};
use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::{Result, ensure};

use super::krunctl::WHY;

pub const SCENARIOS: &[Scenario] =
    &[Scenario::new("krunctl-named-races", races).long().krun_only(WHY).timeout(900)];

/// How many at once.
const MANY: usize = 8;

/// Runs all at the same time, and answers what became of each.
fn at_once(commands: &[Vec<&str>]) -> Result<Vec<Output>> {
    let start = |words: &Vec<&str>| Cmd::new(&[&["krunctl"], &words[..]].concat()).timeout(300).spawn();
    let running = commands.iter().map(start).collect::<Result<Vec<_>>>()?;
    running.into_iter().map(|command| command.finish()).collect()
}

/// One has done it; the others say why they could not.
fn one_of(outputs: &[Output], why: &[&str]) -> Result<()> {
    let done = outputs.iter().filter(|output| output.status == 0).count();
    ensure!(done == 1, "{done} of {MANY} have done it: {}", outputs[0]);
    for output in outputs.iter().filter(|output| output.status != 0) {
        let text = output.stderr_text();
        ensure!(
            output.status == 125 && why.iter().any(|word| text.contains(word)),
            "not as it must: {output}"
        );
    }
    Ok(())
}

fn races(ctx: &Ctx) -> Result<Outcome> {
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    crate::undo::remember(&["sh", "-c", "krunctl delete -f race || true"])?;
    let create =
        vec!["create", "--name", "race", "--root", &root, "--memory", "256", "--", "/bin/sleep", "1000"];
    for _ in 0..3 {
        one_of(&at_once(&vec![create.clone(); MANY])?, &["taken", "another command has it now"])?;
        one_of(&at_once(&vec![vec!["start", "race"]; MANY])?, &["runs already"])?;
        // Whoever comes first: each ends, and nothing is between two states.
        let mut all = vec![vec!["stop", "--timeout", "1s", "race"]; 2];
        all.extend(vec![vec!["start", "race"]; 2]);
        all.extend(vec![vec!["exec", "race", "--", "/bin/true"]; 2]);
        all.extend(vec![vec!["delete", "-f", "race"]; 2]);
        for output in at_once(&all)? {
            let said = output.status == 0 || !output.stderr_text().is_empty();
            ensure!(said && [0, 125, 137].contains(&output.status), "not as it must: {output}");
        }
        Cmd::new(&["krunctl", "delete", "-f", "race"]).run()?;
        Cmd::new(&["krunctl", "status", "race"])
            .run()?
            .expect_status(125)?
            .refused(&["no VM is named race"])?;
    }
    Ok(Outcome::Passed)
}
