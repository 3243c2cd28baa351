//! The list of commands that put the box back as it was.
//!
//! A scenario that changes the machine writes down the way back *before* it does so; the runner walks it, last entry
//! first, when the scenario has ended in whatever way, killed by its timeout included.

use crate::wait::until_true;
use anyhow::{Context, Result};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Command;
use std::time::Duration;

const JOURNAL: &str = "/run/krun-scenarios.undo";

/// A mount may be busy for as long as what used it takes to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Adds a command to the list.
pub fn remember(command: &[&str]) -> Result<()> {
    let line = serde_json::to_string(command)?;
    let mut journal =
        OpenOptions::new().create(true).append(true).open(JOURNAL).context("open the undo list")?;
    writeln!(journal, "{line}").context("write the undo list")
}

/// Runs the list backwards and empties it. A command that fails does not keep the others from running.
pub fn run_all() -> Result<()> {
    let Ok(journal) = fs::read_to_string(JOURNAL) else { return Ok(()) };
    fs::remove_file(JOURNAL).context("remove the undo list")?;
    let mut failures = Vec::new();
    for line in journal.lines().rev() {
        let command: Vec<String> =
            serde_json::from_str(line).with_context(|| format!("undo list: {line}"))?;
        let mut stderr = String::new();
        let undone = until_true(line, PATIENCE, || {
            let output = Command::new(&command[0]).args(&command[1..]).output();
            let output = output.with_context(|| format!("undo {line}"))?;
            stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Ok(output.status.success())
        });
        if undone.is_err() {
            failures.push(format!("{line}: {stderr}"));
        }
    }
    if failures.is_empty() { Ok(()) } else { anyhow::bail!("could not put back: {}", failures.join("; ")) }
}
