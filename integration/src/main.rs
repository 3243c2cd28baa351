//! krun-scenarios: drives a real containerd in the test box and says what held.
//!
//! It runs as root *inside* the box (see hack/box), changes that machine freely (hides device nodes and libraries,
//! kills shims) and puts it back; never run it on a machine that matters.

mod bench;
mod check;
mod client;

mod command;
mod containerd_log;
mod crc32;
mod cri;
mod ctx;
mod failpoints;
mod frames;
mod growth;
mod host;
mod leaks;
mod mop;
mod own_containerd;
mod procs;
mod runner;
mod scenario;
mod scenarios;
mod spec;
mod undo;
mod veth;
mod wait;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use ctx::Runtime;
use std::process::ExitCode;

/// Scenarios and benchmarks of containerd-shim-krun-v2, for the test box.
#[derive(Parser)]
#[command(name = "krun-scenarios")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Lists the scenarios
    List(Selection),
    /// Runs them, each followed by a check that nothing is left behind
    Run {
        #[command(flatten)]
        selection: Selection,
        /// What to run the containers with
        #[arg(long, value_enum, default_value_t = Runtime::Krun)]
        runtime: Runtime,
        /// Stop at the first failure
        #[arg(long)]
        fail_fast: bool,
    },
    /// Runs one scenario in this process; `run` starts itself so, to be able to end it
    #[command(hide = true)]
    One {
        name: String,
        #[arg(long, value_enum)]
        runtime: Runtime,
    },
    /// A hook that reaches a point of a scenario's, and does nothing else
    #[command(hide = true)]
    At { point: String },
    /// A logger that reaches a point before it is ready and another when it is
    #[command(hide = true)]
    Logger { point: String },
    /// Measures runc and krun side by side; meant for a box with the instruction-counting clock
    Bench {
        /// What to measure
        #[arg(long, value_enum, default_value_t = bench::Subject::Life)]
        subject: bench::Subject,
        /// Runs of each, after one that is thrown away
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
        runs: u32,
        /// With `--subject files`, also krun with a root on a block device
        #[arg(long)]
        block: bool,
    },
}

#[derive(clap::Args)]
struct Selection {
    /// Which scenarios
    #[arg(long, value_enum, default_value_t = Group::All)]
    group: Group,
    /// Only those whose name contains this
    #[arg(long)]
    filter: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// The few that every supported containerd runs
    Smoke,
    /// A representative part of those that need nothing more than containerd
    Test,
    /// A representative part of those that need nerdctl or crictl
    Tools,
    /// All of them; without the tools, those that need them are skipped
    All,
}

impl Selection {
    fn pick(&self) -> Vec<&'static scenario::Scenario> {
        let wanted = |s: &&scenario::Scenario| {
            let in_group = match self.group {
                Group::Smoke => s.smoke,
                Group::Test => !s.long && s.needs.is_none(),
                Group::Tools => !s.long && s.needs.is_some(),
                Group::All => true,
            };
            in_group && self.filter.as_ref().is_none_or(|f| s.name.contains(f.as_str()))
        };
        scenarios::ALL.iter().flat_map(|theme| theme.iter()).filter(wanted).collect()
    }
}

fn main() -> Result<ExitCode> {
    match Cli::parse().verb {
        Verb::List(selection) => {
            for s in selection.pick() {
                let groups = match (s.smoke, s.needs, s.long) {
                    (true, ..) => "smoke, test, all",
                    (_, Some(_), _) => "tools, all",
                    (_, _, true) => "all",
                    _ => "test, all",
                };
                println!("{:<28} {groups}", s.name);
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Run { selection, runtime, fail_fast } => runner::run(&selection.pick(), runtime, fail_fast),
        Verb::One { name, runtime } => runner::one(&name, runtime),
        Verb::At { point } => failpoints::reach(&point).map(|()| ExitCode::SUCCESS),
        Verb::Logger { point } => failpoints::log(&point).map(|()| ExitCode::SUCCESS),
        Verb::Bench { subject, runs, block } => bench::run(subject, runs, block),
    }
}
