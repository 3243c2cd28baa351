//! runc and krun side by side, by the box's clock: in a box with the instruction-counting clock that is virtual time,
//! which does not depend on what else the machine does.

mod committed;
mod exec;
mod files;
mod krunctl;
mod many;
mod memory;
mod network;
mod pool;
mod table;

use crate::containerd_log::{self, Mark};
use crate::ctx::{BUSYBOX, Ctx, Runtime};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::io::{self, Read};
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
    /// Containers that start at the same time
    Many,
}

/// Measures, and prints a table; of files with `block` also in a root on a block device.
pub fn run(subject: Subject, runs: u32, block: bool) -> Result<ExitCode> {
    ensure!(!block || subject == Subject::Files, "--block is for --subject files");
    match subject {
        Subject::Life => life(runs),
        Subject::Krunctl => krunctl::run(runs),
        Subject::Network => network::run(runs),
        Subject::Files => files::run(runs, block),
        Subject::Many => many::run(runs),
    }
}

/// The columns: a VM of the pool's beside one that is booted, and runc's container.
const COLUMNS: [&str; 3] = ["runc", "krun", "krun, pool"];

/// Runs everything once unmeasured, then `runs` times, prints the table, and compares it with what was committed. One microVM boots
/// per run and column, one for the unmeasured one and one for the memory.
fn life(runs: u32) -> Result<ExitCode> {
    let (mut version, mut boots, mut exits) = (Vec::new(), Vec::new(), Vec::new());
    let (mut whole, mut first_byte) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    for round in 0..=runs {
        let measured = round > 0;
        let took = timed(&mut ctr(&["version"]))?;
        version.extend(measured.then_some(took));
        for (column, name) in COLUMNS.iter().enumerate() {
            let runtime = if column == 0 { Runtime::Runc } else { Runtime::Krun };
            let pool = (column == 2).then(pool::Pool::start).transpose()?;
            let mark = containerd_log::mark();
            pool.as_ref().map_or(Ok(()), |pool| pool.has_one())?;
            let took = timed(&mut ctr_run(runtime, &format!("bench-{round}"), &["true"]))?;
            whole[column].extend(measured.then_some(took));
            if column == 1 && measured {
                boots.extend(logged(mark, BOOT_LINE)?);
                exits.extend(logged(mark, EXIT_LINE)?);
            }
            pool.as_ref().map_or(Ok(()), |pool| pool.has_one())?;
            let took = until_output(&mut ctr_run(runtime, &format!("bench-echo-{round}"), &["echo", "x"]))?;
            first_byte[column].extend(measured.then_some(took));
            if let Some(pool) = pool {
                let taken = mark.since()?.matches("from the pool").count();
                ensure!(taken == 2, "{name}: {taken} of 2 VMs were the pool's");
                pool.end()?;
            }
        }
        eprintln!("bench: {round} of {runs} done");
    }
    let execs = [exec::of(Runtime::Runc, runs)?, exec::of(Runtime::Krun, runs)?];
    let memories = [Runtime::Runc, Runtime::Krun].map(|r| memory::of_a_sleeper(&Ctx::new(r, "bench")));
    let [runc_memory, krun_memory] = memories;
    let (runc_memory, krun_memory) = (runc_memory?, krun_memory?);

    let mut table = Table::new(&format!("{runs} runs"), COLUMNS).with_ratios();
    table.row("ctr run --rm … true", Unit::Milliseconds, whole.each_ref().map(Vec::as_slice));
    table.row("first byte of output", Unit::Milliseconds, first_byte.each_ref().map(Vec::as_slice));
    table.row("ctr task exec … true", Unit::Milliseconds, [&execs[0], &execs[1], &[]]);
    table.row("ctr version alone", Unit::Milliseconds, [&version, &[], &[]]);
    table.row("vmm spawned → guest answers", Unit::Milliseconds, [&[], &boots, &[]]);
    table.row("process ends → exit event", Unit::Milliseconds, [&[], &exits, &[]]);
    for part in memory::PARTS {
        let of = |memory: &memory::Memory| memory.get(part).copied().into_iter().collect::<Vec<_>>();
        table.row(&format!("PSS of {part}"), Unit::Mebibytes, [&of(&runc_memory), &of(&krun_memory), &[]]);
    }
    print!("{table}");
    ensure!(boots.len() == runs as usize, "the log has {} of {runs} lines with the boot's time", boots.len());
    ensure!(exits.len() == runs as usize, "the log has {} of {runs} lines with the exit's time", exits.len());
    let worse = committed::compare(&table);
    worse.iter().for_each(|line| println!("{line}"));
    Ok(if worse.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ctr(args: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn ctr_run(runtime: Runtime, id: &str, command: &[&str]) -> Command {
    ctr(&[&["run", "--rm", "--runtime", runtime.containerd_name(), BUSYBOX, id][..], command].concat())
}

/// Seconds from spawn to the first byte of standard output; it goes on to its end.
fn until_output(command: &mut Command) -> Result<f64> {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().context("start ctr")?;
    let mut output = child.stdout.take().context("stdout is piped")?;
    output.read_exact(&mut [0]).context("the container wrote nothing")?;
    let took = begun.elapsed().as_secs_f64();
    io::copy(&mut output, &mut io::sink()).context("read the rest")?;
    let status = child.wait().context("wait for ctr")?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(took)
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
