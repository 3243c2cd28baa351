//! What other programs want to know of the command line: completions for shells, and manual pages.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Command};
use clap_complete::Shell;

use crate::out;

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
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    out::line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(0)
}

/// Writes a page for `command` and each of its commands.
///
/// # Errors
/// When they cannot be written.
pub fn man(command: Command, arguments: &Man) -> Result<u8> {
    let directory = &arguments.directory;
    ensure!(directory.is_dir(), "{}: it must be a directory", directory.display());
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write_pages(&command, directory)
        .with_context(|| format!("writing pages into {}", directory.display()))?;
    Ok(0)
}

fn write_pages(command: &Command, directory: &Path) -> io::Result<()> {
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(directory.join(page.get_filename()), with_examples(&String::from_utf8_lossy(&text)))?;
    let mut commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    commands.try_for_each(|command| write_pages(command, directory))
}

/// What follows the flags is examples: a section of that name, with each in a line of its own.
fn with_examples(page: &str) -> String {
    let Some((before, rest)) = page.split_once(".SH EXTRA\nExamples:\n") else { return page.to_owned() };
    let (examples, after) = rest.split_at(rest.find(".SH ").unwrap_or(rest.len()));
    format!("{before}.SH EXAMPLES\n.nf\n{examples}.fi\n{after}")
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
            assert!(!text.contains("EXTRA"), "{page}");
        }
        assert!(man(Cli::command(), &Man { directory: directory.path().join("none") }).is_err());
    }

    #[test]
    fn examples_are_a_section_with_lines() {
        let page = |after: &str| with_examples(&format!("x\n.SH EXTRA\nExamples:\n  a\n  b\n{after}"));
        assert_eq!(page(".SH VERSION\n"), "x\n.SH EXAMPLES\n.nf\n  a\n  b\n.fi\n.SH VERSION\n");
        assert_eq!(page(""), "x\n.SH EXAMPLES\n.nf\n  a\n  b\n.fi\n");
        assert_eq!(with_examples("x\n"), "x\n");
    }
}
