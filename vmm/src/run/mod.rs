//! `krun-vmm run`: runs a command in a microVM whose root file system is a directory. It needs no containerd.
//!
//! It mounts in a mount namespace of its own, and the vmm ends when it ends. So even when it is killed, only an empty
//! directory is left, which the next run removes.

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
use vm_launcher::{
    Guest, Network, Vm, VmConfig,
    config::{DEFAULT_CPUS, DEFAULT_RUN_MEMORY_MIB},
    find, probe,
};

use share::Share;

/// How long a guest may take to boot. The slowest case in use, a VM in an emulated machine on a busy host, takes some
/// 15 s.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the VM may take to end after the connection to its guest is lost.
const END_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Args)]
pub struct Arguments {
    /// Directory that holds the root file system
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// vCPUs, 1 to 16
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CPUS)]
    cpus: u8,
    /// Memory of the VM in MiB, at least 128
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_RUN_MEMORY_MIB)]
    memory: u32,
    /// How the command reaches the network: through sockets of this host, or not at all
    #[arg(long, value_enum, default_value = "tsi")]
    network: NetworkArgument,
    /// Allocate a terminal for the command
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

/// Exits with the command's status: 126 when the command cannot be executed and 127 when it is not found, as a shell
/// does; 125 when the run itself fails.
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
        // TSI uses the network that the user of this command has.
        netns: matches!(arguments.network, NetworkArgument::Tsi).then(|| "/proc/self/ns/net".into()),
        network: arguments.network.into(),
        debug: arguments.debug_console,
        debug_console: arguments.debug_console.then(|| "/proc/self/fd/2".into()),
        ..VmConfig::new(
            share.root(),
            share.sockets(),
            std::path::absolute(libkrunfw)?,
            std::path::absolute(guest_init)?,
        )
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
        // No process exists yet that could get the signal.
        signal = signals.next() => return Ok(128 + signal as u8),
    };
    configure(&guest).await?;
    let status = tokio::select! {
        // An exit record wins over the end of the VM.
        biased;
        status = process::run(&guest, arguments, signals) => status,
        end = vm.ended() => anyhow::bail!("the VM ended before its command: {end}"),
    };
    match status {
        // The connection is lost a moment before the end of the VM is known, which says why.
        Err(error) if error.is::<ttrpc::Error>() => match tokio::time::timeout(END_TIMEOUT, vm.ended()).await
        {
            Ok(end) => Err(error.context(format!("the VM ended before its command: {end}"))),
            Err(_) => Err(error),
        },
        status => status,
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
