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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};

    use super::*;
    use crate::Cli;

    #[test]
    fn every_shell_gets_a_script_and_every_command_a_page() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "krunctl", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("krunctl") && script.contains("prune"), "{shell}");
        }
        let directory = tempfile::tempdir().unwrap();
        man(Cli::command(), &Man { directory: directory.path().to_owned() }).unwrap();
        for page in ["krunctl.1", "krunctl-run.1", "krunctl-image-pull.1", "krunctl-exec.1"] {
            let text = std::fs::read_to_string(directory.path().join(page)).unwrap();
            assert!(text.contains(".SH"), "{page}");
        }
        assert!(man(Cli::command(), &Man { directory: directory.path().join("none") }).is_err());
    }
}
