//! `krunctl run`: runs a command in a microVM whose root file system is a directory. It needs no containerd.
//!
//! It mounts in a mount namespace of its own, and the vmm ends when it ends. So even when it is killed, only an empty
//! directory is left, which the next run removes.

mod process;
mod terminal;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{share::Share, vm};

/// The flags of `run`.
#[derive(Args)]
pub struct Arguments {
    /// Directory that holds the root file system
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    #[command(flatten)]
    vm: vm::Arguments,
    /// Allocate a terminal for the command
    #[arg(short = 't', long = "tty")]
    tty: bool,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Answers the command's exit status.
///
/// # Errors
/// When it could not be run.
pub fn run(arguments: Arguments) -> Result<u8> {
    let parts = arguments.vm.parts()?;
    if arguments.tty {
        terminal::require()?;
    }
    let share = Share::prepare(&arguments.root)?;
    share.bind_root()?;
    let config = arguments.vm.config(parts, &share)?;
    vm::with_guest(config, async |guest, signals| process::run(guest, &arguments, signals).await)
}
