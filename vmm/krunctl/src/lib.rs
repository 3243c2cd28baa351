//! krunctl: runs commands in microVMs without containerd, and says whether this host can run VMs.
//!
//! It has the shim's sandbox in its own process: the same VMs, volumes, ports and networks as under containerd.

mod bundle;
mod cgroup;
mod check;
mod completions;
mod console;
mod container;
mod duration;
mod env;
mod examples;
mod exit;
mod hosts;
mod image;
mod inject;
mod layer;
mod logger;
mod metrics;
mod named;
mod network;
mod notify;
mod observe;
mod out;
mod pool;
mod root;
mod run;
mod session;
mod sh;
mod signals;
mod spec;
mod stdio;
mod table;
mod terminal;
mod vm;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Runs commands in microVMs, without containerd
#[derive(Parser)]
#[command(name = "krunctl", version, after_help = examples::ALL)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says whether this host can run microVMs
    Check(check::Arguments),
    /// Runs a command in a microVM whose root file system is a directory or an image
    #[command(after_help = examples::RUN)]
    Run(Box<run::Arguments>),
    /// Pulls, lists and removes images
    #[command(subcommand, after_help = examples::IMAGE)]
    Image(image::Command),
    /// Makes a VM with a name, which `start` starts
    #[command(after_help = examples::CREATE)]
    Create(Box<named::create::Arguments>),
    /// Starts a VM
    Start(named::Name),
    /// Runs a command in a VM that runs
    #[command(after_help = examples::EXEC)]
    Exec(Box<named::exec::Arguments>),
    /// Ends what runs in a VM
    Stop(named::stop::Arguments),
    /// Removes a VM with all that it has written
    Delete(named::delete::Arguments),
    /// Lists the VMs
    Ls(named::ls::Arguments),
    /// Says how a VM is
    Status(named::Name),
    /// Prints what a VM's command has written
    #[command(after_help = examples::LOGS)]
    Logs(named::logs::Arguments),
    /// Copies files and directories between this host and a VM
    #[command(after_help = examples::CP)]
    Cp(named::cp::Arguments),
    /// Prints a script that has a shell complete what is typed
    #[command(after_help = examples::COMPLETIONS)]
    Completions(completions::Completions),
    /// Writes manual pages
    #[command(after_help = examples::MAN)]
    Man(completions::Man),
    /// Keeps booted VMs, which containers and direct runs take, until it is ended
    #[command(after_help = examples::POOL)]
    Pool(pool::Arguments),
    /// Lists the sandboxes of this host, whoever runs them
    #[command(after_help = examples::PS)]
    Ps(observe::ps::Arguments),
    /// Says all that is known of a sandbox, as JSON
    #[command(after_help = examples::INSPECT)]
    Inspect(observe::inspect::Arguments),
    /// Serves figures of the sandboxes to Prometheus, until it is ended
    #[command(after_help = examples::METRICS)]
    Metrics(metrics::Arguments),
    /// Keeps a VM while it runs
    #[command(hide = true)]
    Keep(named::Name),
    /// Runs each line of a script as a command, all in one microVM that is thrown away
    #[command(after_help = examples::SH)]
    Sh(sh::Arguments),
}

/// What the binary does.
pub fn main() -> ExitCode {
    if let Some(code) = shim::direct::anchor() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, and is no failure. Nothing can be said when neither can be written.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::FAILED) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Check(arguments) => check::main(&arguments),
        Command::Run(arguments) => exit::of(run::run(&arguments)),
        Command::Image(command) => exit::of(image::run(&command)),
        Command::Create(arguments) => exit::of(named::create::run(&arguments)),
        Command::Start(name) => exit::of(named::start::run(&name)),
        Command::Exec(arguments) => exit::of(named::exec::run(&arguments)),
        Command::Stop(arguments) => exit::of(named::stop::run(&arguments)),
        Command::Delete(arguments) => exit::of(named::delete::run(&arguments)),
        Command::Ls(arguments) => exit::of(named::ls::run(&arguments)),
        Command::Status(name) => exit::of(named::ls::status(&name)),
        Command::Logs(arguments) => exit::of(named::logs::run(&arguments)),
        Command::Cp(arguments) => exit::of(named::cp::run(&arguments)),
        Command::Completions(arguments) => exit::of(completions::print(Cli::command(), &arguments)),
        Command::Man(arguments) => exit::of(completions::man(Cli::command(), &arguments)),
        Command::Pool(arguments) => exit::of(pool::run(&arguments)),
        Command::Ps(arguments) => exit::of(observe::ps::run(&arguments)),
        Command::Inspect(arguments) => exit::of(observe::inspect::run(&arguments)),
        Command::Metrics(arguments) => exit::of(metrics::run(&arguments)),
        Command::Keep(name) => exit::of(named::keeper::run(&name)),
        Command::Sh(arguments) => exit::of(sh::run(&arguments)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_wrong_with_a_flag_names_it_and_what_is_allowed() {
        for (arguments, words) in [
            (&["sh", "--cpus", "0"][..], &["'0'", "--cpus", "1 to 16"][..]),
            (&["sh", "--cpus", "300"], &["'300'", "--cpus", "1 to 16"]),
            (&["sh", "--cpus", "two"], &["'two'", "--cpus", "1 to 16"]),
            (&["run", "--root", "/", "--add-host", "db:1.2"], &["1.2", "db:10.0.0.7"]),
            (&["run", "--root", "/", "--memory", "much", "--", "x"], &["--memory", "much", "MiB", "128"]),
            (&["sh", "-e", "=x"], &["KEY=VAL", "=x"]),
            (&["sh", "--shell", ""], &["--shell"]),
            (&["sh", "--network", "wifi"], &["wifi", "tsi", "tap", "none"]),
            (&["sh", "a", "b"], &["'b'"]),
            (&["run", "--", "x"], &["--root <DIR>", "--image <REFERENCE|ARCHIVE|LAYOUT>"]),
            (&["create", "--name", "web"], &["--root <DIR>", "--image <REFERENCE|ARCHIVE|LAYOUT>"]),
            (&["run", "--root", "/", "--image", "x"], &["--root <DIR>", "--image"]),
            (&["sh", "--nonsense"], &["--nonsense"]),
        ] {
            let error = Cli::try_parse_from([&["krunctl"], arguments].concat()).err().unwrap();
            assert!(error.use_stderr());
            let text = error.to_string();
            for word in words {
                assert!(text.contains(word), "{arguments:?}: no {word:?} in {text}");
            }
        }
    }
}
