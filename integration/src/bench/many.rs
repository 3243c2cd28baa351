//! Sandboxes that start at the same time: whether they wait for each other.

use super::{ctr_run, timed};
use crate::bench::table::{Table, Unit};
use crate::ctx::Runtime;
use anyhow::{Context, Result, ensure};
use std::process::{Child, ExitCode};
use std::time::Instant;

/// How many start at once.
const MANY: usize = 20;

/// Prints what one container costs, `ctr run` to its end: alone, and as one of many that start at once.
pub fn run(runs: u32) -> Result<ExitCode> {
    let (mut alone, mut at_once) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    for round in 0..=runs {
        for (column, runtime) in [Runtime::Runc, Runtime::Krun].into_iter().enumerate() {
            let one = timed(&mut ctr_run(runtime, &format!("many-{round}"), &["true"]))?;
            let of_many = together(runtime)? / MANY as f64;
            // The first round warms caches.
            if round > 0 {
                alone[column].push(one);
                at_once[column].push(of_many);
            }
        }
        eprintln!("bench: {round} of {runs} done");
    }
    let mut table = Table::new(&format!("{runs} runs"), ["runc", "krun"]).with_ratios();
    table.row("ctr run --rm … true", Unit::Milliseconds, alone.each_ref().map(Vec::as_slice));
    table.row(&format!("one of {MANY} at once"), Unit::Milliseconds, at_once.each_ref().map(Vec::as_slice));
    print!("{table}");
    Ok(ExitCode::SUCCESS)
}

/// Seconds until all have ended that start now.
fn together(runtime: Runtime) -> Result<f64> {
    let begun = Instant::now();
    let started: Result<Vec<Child>> = (0..MANY)
        .map(|number| {
            ctr_run(runtime, &format!("many-{number}-at-once"), &["true"]).spawn().context("start ctr")
        })
        .collect();
    for mut child in started? {
        let status = child.wait().context("wait for ctr")?;
        ensure!(status.success(), "one of {MANY} at once: {status}");
    }
    Ok(begun.elapsed().as_secs_f64())
}
