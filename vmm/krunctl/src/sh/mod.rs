//! `krunctl sh`: runs each line of a script as a command, all in one microVM. Its root is the host's, with a writable layer that
//! is thrown away with the VM.
//!
//! Each command is a shell of its own that reads the line as its standard input: so no limit of a command line applies, and
//! what it starts has an empty input. A shell that reads an input that never comes is the container's first process.

mod commands;
mod script;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, builder::NonEmptyStringValueParser};

use crate::{env, share::Share, vm};
use script::Script;

/// The flags of `sh`.
#[derive(Args)]
pub struct Arguments {
    /// Directory that commands see as their root; they cannot change it
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The program that gets each command on its standard input
    #[arg(long, value_name = "SH", default_value = "/bin/sh", value_parser = NonEmptyStringValueParser::new())]
    shell: String,
    /// Go on after a command that fails; the exit status is the last failed one's
    #[arg(long)]
    keep_going: bool,
    /// Print each command on stderr before it runs
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Set a variable of the commands' environment; KEY alone takes the value that it has here
    #[arg(short = 'e', long = "env", value_name = "KEY=VAL|KEY")]
    env: Vec<env::Variable>,
    #[command(flatten)]
    vm: vm::Arguments,
    /// The script: a command a line; blank lines and lines that begin with # are skipped. Without it, standard input is read
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Answers the exit status of the command that failed, or 0.
///
/// # Errors
/// When not all commands could be run.
pub fn run(arguments: Arguments) -> Result<u8> {
    let env = env::with(&arguments.env)?;
    // Of the host's files, not of those that the mounts below hide.
    let script = Script::open(arguments.file.as_deref())?;
    let parts = arguments.vm.parts()?;
    let share = Share::prepare(&arguments.root)?;
    share.layer_root(arguments.vm.memory)?;
    let config = arguments.vm.config(parts, &share)?;
    vm::with_guest(config, async |guest, signals| {
        commands::run(guest, &arguments, &env, script.lines(), signals).await
    })
}
