//! krun-vmm: becomes a VM (`vm`, started by the library only), runs a directory in one (`run`),
//! and says whether this host can (`check`).

mod become_vm;
mod jail;
mod krun;
mod logger;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs libkrun microVMs
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Becomes a VM, as told over inherited descriptors
    #[command(hide = true)]
    Vm,
    /// Runs a command in a microVM whose root file system is a directory
    Run(run::Arguments),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Vm => become_vm::main(),
        Command::Run(arguments) => run::main(arguments),
    }
}
