//! `krunctl sh`: runs each line of a script as a command, all in one microVM. Its root is the host's, with a writable layer that
//! is thrown away with the VM.
//!
//! Each command is a shell of its own that reads the line as its standard input: so no limit of a command line applies, and
//! what it starts has an empty input. A shell that reads an input that never comes is the container's first process.

mod commands;
mod script;

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::{Args, builder::NonEmptyStringValueParser};

use crate::{
    bundle::Bundle,
    cgroup::Place,
    console::Console,
    env, exit,
    network::{self, Plan, RESOLV_CONF},
    root::{self, Origin, Root, Writes},
    session, signals,
    spec::{self, Container, Process, limits, mounts, user::User},
    stdio::Fifos,
    vm,
};
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
    #[command(flatten)]
    env: env::Arguments,
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
pub fn run(arguments: &Arguments) -> Result<u8> {
    let env = env::with(&[env::PATH.to_owned(), "HOME=/root".to_owned()], &arguments.env.variables()?)?;
    // Of the host's files, not of those that the mounts below hide.
    let script = Script::open(arguments.file.as_deref())?;
    let plan = arguments.vm.network.plan(false, true)?;
    arguments.vm.check()?;
    let origin = Origin::Directory(std::path::absolute(&arguments.root)?);
    root::enter()?;
    let place = Place::find()?;
    let bundle = Bundle::make()?;
    let _root = Root::mount(&origin, Writes::Memory(arguments.vm.memory), &bundle)?;
    let container = arguments.container(&bundle, place.cgroup(bundle.id()), &plan, env)?;
    bundle.describe(&container.json())?;
    let process = container.process.json();
    signals::hold()?;
    let network = plan.make(&bundle)?;
    let console = Console::of(&bundle, arguments.vm.debug_console)?;
    // Its input never comes, and it says nothing.
    let fifos = Fifos::make(bundle.path(), "sh", true, false)?;
    let options = arguments.vm.options(&plan, bundle.path())?;
    let status = session::with_container(&bundle, options, fifos.input_only(), async |session, signals| {
        tokio::select! {
            status = commands::run(session, &bundle, arguments, &process, script.lines(), signals) => status,
            () = network::attend(network.as_ref()) => unreachable!("it never ends"),
        }
    });
    drop(console);
    status.map_err(|error| match exit::of_command(&error) {
        // Not a command's: it would pass for that of the first line.
        Some(_) => {
            anyhow!("--shell {}, below --root {}: {error:#}", arguments.shell, arguments.root.display())
        }
        None => error,
    })
}

impl Arguments {
    /// The container in which all commands run.
    fn container(
        &self,
        bundle: &Bundle,
        cgroup: PathBuf,
        plan: &Plan,
        env: Vec<String>,
    ) -> Result<Container> {
        let resolver = plan.has_resolver().then(|| bundle.path().join(RESOLV_CONF));
        let mounts = resolver.iter().map(|path| mounts::own_file(path, "/etc/resolv.conf")).collect();
        Ok(Container {
            process: Process {
                args: vec![self.shell.clone()],
                env,
                cwd: "/".to_owned(),
                user: User { uid: 0, gid: 0, groups: Vec::new(), home: None },
                capabilities: limits::capabilities(&[], &[])?,
                rlimits: limits::rlimits(&[]),
                terminal: None,
            },
            hostname: spec::HOSTNAME.to_owned(),
            read_only: false,
            mounts,
            network: plan.namespace(bundle.path()),
            ports: String::new(),
            cgroup,
        })
    }
}
