//! `krun-vmm run`: a command in a microVM whose root file system is a directory, without
//! containerd: for debugging, and for people who have none.
//!
//! Everything it mounts is in a mount namespace of its own, and the vmm ends with it, so that
//! nothing is left even when it is killed; only an empty directory is, for the next run to remove.

mod exit;
mod process;
mod share;
mod spec;
mod stdio;
mod terminal;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use guest_protocol::{api::ConfigureRequest, failure::CallError};
use nix::unistd::Uid;
use vm_launcher::{Guest, Network, Vm, VmConfig, find, probe};

use share::Share;

/// How long a guest may take until it answers. The slowest place that counts, a VM in an emulated
/// machine on a busy host, takes some 15 s.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Arguments {
    /// Directory that holds the root file system
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// vCPUs, 1 to 16
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u8,
    /// Memory of the VM in MiB, at least 128
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u32,
    /// How the command reaches the network: through sockets of this host, or not at all
    #[arg(long, value_enum, default_value = "tsi")]
    network: NetworkArgument,
    /// Give the command a terminal
    #[arg(short = 't', long = "tty")]
    tty: bool,
    /// Log what the vmm and the guest do, and write the guest kernel's console to stderr
    #[arg(long)]
    debug_console: bool,
    /// The library that holds the guest's kernel, if it is not in a usual place
    #[arg(long, value_name = "FILE")]
    libkrunfw: Option<PathBuf>,
    /// The guest's PID 1, if it is not in a usual place
    #[arg(long, value_name = "FILE")]
    guest_init: Option<PathBuf>,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum NetworkArgument {
    Tsi,
    None,
}

impl From<NetworkArgument> for Network {
    fn from(argument: NetworkArgument) -> Self {
        match argument {
            NetworkArgument::Tsi => Network::Tsi,
            NetworkArgument::None => Network::None,
        }
    }
}

/// Exits with the command's status; 125 when there was no command to have one, and 126 or 127, as
/// a shell does, when it could not be executed or found.
pub fn main(arguments: Arguments) -> ExitCode {
    match run(arguments) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("krun-vmm: {error:#}");
            ExitCode::from(exit::status_of(&error))
        }
    }
}

fn run(arguments: Arguments) -> Result<u8> {
    if arguments.debug_console {
        crate::logger::set();
    }
    ensure!(Uid::effective().is_root(), "run needs root: it mounts, and makes namespaces");
    probe::device()?;
    let libkrunfw = find::libkrunfw(arguments.libkrunfw.as_deref())?;
    let guest_init = find::guest_init(arguments.guest_init.as_deref())?;
    if arguments.tty {
        terminal::require()?;
    }
    let share = Share::prepare(&arguments.root)?;
    let config = VmConfig {
        cpus: arguments.cpus,
        memory_mib: arguments.memory,
        share: share.root(),
        socket_dir: share.sockets(),
        mount_namespace: None,
        cgroup: None,
        // TSI means this host's network, as the person who runs it has it.
        netns: matches!(arguments.network, NetworkArgument::Tsi).then(|| "/proc/self/ns/net".into()),
        network: arguments.network.into(),
        libkrunfw: std::path::absolute(libkrunfw)?,
        guest_init: std::path::absolute(guest_init)?,
        debug: arguments.debug_console,
        debug_console: arguments.debug_console.then(|| "/proc/self/fd/2".into()),
    };
    config.validate()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(in_vm(config, &arguments));
    // A thread may still be reading our stdin.
    runtime.shutdown_background();
    status
}

async fn in_vm(config: VmConfig, arguments: &Arguments) -> Result<u8> {
    let mut signals = process::Signals::listen()?;
    let vm = Vm::launch(config).await?;
    let status = boot_and_run(&vm, arguments, &mut signals).await;
    vm.kill();
    vm.ended().await;
    status
}

async fn boot_and_run(vm: &Vm, arguments: &Arguments, signals: &mut process::Signals) -> Result<u8> {
    let guest = tokio::select! {
        guest = vm.guest(BOOT_TIMEOUT) => guest?,
        // There is no process yet to forward it to.
        signal = signals.next() => return Ok(128 + signal as u8),
    };
    configure(&guest).await?;
    tokio::select! {
        // An exit record that is there already wins.
        biased;
        status = process::run(&guest, arguments, signals) => status,
        end = vm.ended() => anyhow::bail!("the VM ended before its command: {end}"),
    }
}

async fn configure(guest: &Guest) -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let mut request = ConfigureRequest::new();
    request.realtime_ns = i64::try_from(now.as_nanos())?;
    request.hostname = spec::HOSTNAME.to_owned();
    guest
        .client
        .configure(ttrpc::context::with_duration(process::CALL_TIMEOUT), &request)
        .await
        .map_err(CallError::from)
        .context("configuring the guest")?;
    Ok(())
}
