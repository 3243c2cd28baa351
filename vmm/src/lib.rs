//! What krun-vmm is made of. It is a library only so that the vmm of the `hostile-vmm` scenarios
//! (`integration/hostile-vmm`) is launched and jailed by the same code; nobody else uses it.

pub mod become_vm;
mod check;
mod guest_memory;
mod jail;
mod krun;
mod kvm_guest;
mod logger;
mod parts;
mod reuse_address;
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
    /// Runs a few instructions on KVM.
    #[command(hide = true)]
    Probe,
    /// Says whether this host can run microVMs
    Check(check::Arguments),
    /// Runs a command in a microVM whose root file system is a directory
    Run(run::Arguments),
}

/// The whole program.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Vm => become_vm::main(),
        Command::Probe => kvm_guest::main(),
        Command::Check(arguments) => check::main(&arguments),
        Command::Run(arguments) => run::main(arguments),
    }
}
