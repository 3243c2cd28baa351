//! runc and krun side by side, by the box's clock: in a box with the instruction-counting clock that is virtual time,
//! which does not depend on what else the machine does.

mod files;
mod krunctl;
mod memory;
mod network;
mod table;

use crate::containerd_log::{self, Mark};
use crate::ctx::{BUSYBOX, Ctx, Runtime};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use table::{Table, Unit};

/// What the shim logs when the guest's first message is there, and when an exit has been passed on.
/// Source: shim/src/sandbox/krun/{machine,container}.rs.
const BOOT_LINE: (&str, &str) = ("boot: guest answered after ", " us");
const EXIT_LINE: (&str, &str) = (" heard of ", " us after it");

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// A container's life, from `ctr run` to its exit, and its memory
    Life,
    /// krunctl's commands
    Krunctl,
    /// Bytes and round trips between the box and a container
    Network,
    /// Operations on files, in a container's root and in a volume
    Files,
}

/// Measures, and prints a table; of files with `block` also in a root on a block device.
pub fn run(subject: Subject, runs: u32, block: bool) -> Result<ExitCode> {
    ensure!(!block || subject == Subject::Files, "--block is for --subject files");
    match subject {
        Subject::Life => life(runs),
        Subject::Krunctl => krunctl::run(runs),
        Subject::Network => network::run(runs),
        Subject::Files => files::run(runs, block),
    }
}

/// Runs everything once unmeasured, then `runs` times, and prints the table. One microVM boots per run, one for the
/// unmeasured one and one for the memory.
fn life(runs: u32) -> Result<ExitCode> {
    let (mut version, mut boots, mut exits) = (Vec::new(), Vec::new(), Vec::new());
    let mut whole = [Vec::new(), Vec::new()];
    let runtimes = [Runtime::Runc, Runtime::Krun];
    for round in 0..=runs {
        let measured = round > 0;
        let took = timed(&mut ctr(&["version"]))?;
        version.extend(measured.then_some(took));
        for (runtime, times) in runtimes.iter().zip(&mut whole) {
            let mark = containerd_log::mark();
            let took = timed(&mut ctr_run_true(*runtime, round))?;
            times.extend(measured.then_some(took));
            if *runtime == Runtime::Krun && measured {
                boots.extend(logged(mark, BOOT_LINE)?);
                exits.extend(logged(mark, EXIT_LINE)?);
            }
        }
        eprintln!("bench: {round} of {runs} done");
    }
    let [runc_run, krun_run] = whole;
    let [runc_memory, krun_memory] = runtimes.map(|r| memory::of_a_sleeper(&Ctx::new(r, "bench")));
    let (runc_memory, krun_memory) = (runc_memory?, krun_memory?);

    let mut table = Table::new(&format!("{runs} runs"), ["runc", "krun"]);
    table.row("ctr run --rm … true", Unit::Milliseconds, [&runc_run, &krun_run]);
    table.row("ctr version alone", Unit::Milliseconds, [&version, &version]);
    table.row("vmm spawned → guest answers", Unit::Milliseconds, [&[], &boots]);
    table.row("process ends → exit event", Unit::Milliseconds, [&[], &exits]);
    for part in memory::PARTS {
        let of = |memory: &memory::Memory| memory.get(part).copied().into_iter().collect::<Vec<_>>();
        table.row(&format!("PSS of {part}"), Unit::Mebibytes, [&of(&runc_memory), &of(&krun_memory)]);
    }
    print!("{table}");
    ensure!(boots.len() == runs as usize, "the log has {} of {runs} lines with the boot's time", boots.len());
    ensure!(exits.len() == runs as usize, "the log has {} of {runs} lines with the exit's time", exits.len());
    Ok(ExitCode::SUCCESS)
}

fn ctr(args: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn ctr_run_true(runtime: Runtime, round: u32) -> Command {
    ctr(&["run", "--rm", "--runtime", runtime.containerd_name(), BUSYBOX, &format!("bench-{round}"), "true"])
}

/// Seconds from spawn to end.
fn timed(command: &mut Command) -> Result<f64> {
    let begun = Instant::now();
    let status = command.status().context("start ctr")?;
    let took = begun.elapsed().as_secs_f64();
    ensure!(status.success(), "{command:?}: {status}");
    Ok(took)
}

/// The numbers, in seconds, that stand between these words in the log.
fn logged(mark: Mark, (before, after): (&str, &str)) -> Result<Vec<f64>> {
    let text = mark.since()?;
    let number = |line: &str| {
        let (_, rest) = line.split_once(before)?;
        rest.split_once(after)?.0.parse::<f64>().ok()
    };
    Ok(text.lines().filter_map(number).map(|us| us / 1e6).collect())
}
