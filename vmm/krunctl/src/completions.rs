//! What other programs want to know of the command line: completions for shells, and manual pages.

use std::{io, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, Command};
use clap_complete::Shell;

/// The flags of `completions`.
#[derive(Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// The flags of `man`.
#[derive(Args)]
pub struct Man {
    /// The directory for them
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Prints a script that has a shell complete the words of `command`.
pub fn print(mut command: Command, arguments: &Completions) -> Result<u8> {
    let name = command.get_name().to_owned();
    clap_complete::generate(arguments.shell, &mut command, name, &mut io::stdout());
    Ok(0)
}

/// Writes a page for `command` and each of its commands.
///
/// # Errors
/// When they cannot be written.
pub fn man(command: Command, arguments: &Man) -> Result<u8> {
    let directory = &arguments.directory;
    ensure!(directory.is_dir(), "{}: it must be a directory", directory.display());
    clap_mangen::generate_to(command, directory)
        .with_context(|| format!("writing pages into {}", directory.display()))?;
    Ok(0)
}
