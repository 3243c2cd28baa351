//! `krunctl run`: runs a command in a microVM whose root file system is a directory or an image. It needs no containerd.
//!
//! It mounts in a mount namespace of its own, and the vmm ends when it ends. So even when it is killed, only a directory, a
//! cgroup and firewall rules are left, which the next run removes.

mod command;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    bundle::Bundle,
    cgroup::Place,
    console::Console,
    container::{self, HOSTS},
    duration, inject, named, network, notify,
    root::{self, Root},
    session, signals,
    stdio::Fifos,
    terminal,
};

/// The flags of `run`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    container: container::Arguments,
    /// Give the command our standard input
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Allocate a terminal for the command
    #[arg(short = 't', long = "tty")]
    tty: bool,
    /// A name that no other run has at the same time
    #[arg(long, value_name = "NAME", value_parser = named::name)]
    name: Option<String>,
    /// For who is used to it: what is left of a run is always removed
    #[arg(long)]
    rm: bool,
    /// End the VM after this time, with exit status 124: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    timeout: Option<Duration>,
}

/// Answers the command's exit status.
///
/// # Errors
/// When it could not be run.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let container = &arguments.container;
    let variables = container.variables()?;
    let (plan, ports) = (container.network()?, container.published()?);
    container.vm.check()?;
    if arguments.tty {
        terminal::require()?;
    }
    let (origin, _image) = container.origin()?;
    root::enter()?;
    let place = Place::find()?;
    let bundle = match &arguments.name {
        Some(name) => Bundle::of(format!("run-{name}"), |pid| {
            format!("a run with that name is running, as process {pid}: end it with `kill {pid}`, or give another name")
        })
        .with_context(|| format!("--name {name}"))?,
        None => Bundle::make()?,
    };
    let root = Root::mount(&origin, container.writes(), &bundle)?;
    inject::all(container.injections(), &root)?;
    let size = arguments.tty.then(terminal::size).transpose()?;
    let mut described =
        container.container((bundle.id(), bundle.path()), (&root, &plan), &variables, size)?;
    described.cgroup = place.cgroup(bundle.id());
    bundle.describe(&described.json())?;
    if let Some(hosts) = container.hosts() {
        bundle.write(HOSTS, hosts.as_bytes())?;
    }
    signals::hold()?;
    let network = plan.make(&bundle)?;
    let console = Console::of(&bundle, container.vm.debug_console)?;
    let mut fifos = Fifos::make(bundle.path(), "run", arguments.interactive, arguments.tty)?;
    fifos.start_output();
    let options = container.vm.options(&plan, bundle.path())?;
    let network = network.as_ref();
    let status = session::with_container(&bundle, options, fifos.paths(), async |session, signals| {
        tokio::select! {
            status = command::attend(session, signals, fifos, arguments) => status,
            () = network::attend(network) => unreachable!("it never ends"),
            () = notify::ready(network, &ports) => unreachable!("it never ends"),
        }
    });
    drop(console);
    status
}
