//! A VM for one call of this tool: its flags, its boot, its end.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum, builder::RangedU64ValueParser};
use guest_protocol::{api::ConfigureRequest, failure::CallError};
use nix::unistd::Uid;
use vm_launcher::{
    Guest, Network, Vm, VmConfig,
    config::{DEFAULT_CPUS, DEFAULT_RUN_MEMORY_MIB, MAX_CPUS, MIN_MEMORY_MIB},
    find, probe,
};

use crate::{exit, logger, share::Share, signals::Signals, spec};

/// How long a guest may take to boot. The slowest case in use, a VM in an emulated machine on a busy host, takes some
/// 15 s.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the VM may take to end after the connection to its guest is lost.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a call may take that does not wait for anything.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The flags that describe a VM.
#[derive(Args)]
// Its group would have the name of that of the command it is part of.
#[group(skip)]
pub struct Arguments {
    /// vCPUs, 1 to 16
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CPUS,
        value_parser = RangedU64ValueParser::<u8>::new().range(1..=MAX_CPUS as u64))]
    cpus: u8,
    /// Memory of the VM in MiB, at least 128
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_RUN_MEMORY_MIB, value_parser = memory)]
    pub memory: u32,
    /// How commands reach the network: through sockets of this host, or not at all
    #[arg(long, value_enum, default_value = "tsi")]
    network: NetworkArgument,
    /// Log what the vmm and the guest do, and write the guest kernel's console to stderr
    #[arg(long)]
    debug_console: bool,
    /// The library that holds the guest's kernel, if it is not in a usual place
    #[arg(long, value_name = "FILE")]
    libkrunfw: Option<PathBuf>,
    /// The guest's PID 1, if it is not in a usual place
    #[arg(long, value_name = "FILE")]
    guest_init: Option<PathBuf>,
}

fn memory(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("it must be a whole number of MiB, at least {MIN_MEMORY_MIB}"))
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

/// The parts of a VM, found on a host that seems able to run one.
pub struct Parts {
    libkrunfw: PathBuf,
    guest_init: PathBuf,
}

impl Arguments {
    /// Looks for what a VM needs, before anything is made.
    pub fn parts(&self) -> Result<Parts> {
        if self.debug_console {
            logger::set();
        }
        ensure!(Uid::effective().is_root(), "not root: mounting and making namespaces needs it; use sudo");
        probe::device()?;
        Ok(Parts {
            libkrunfw: std::path::absolute(find::libkrunfw(self.libkrunfw.as_deref())?)?,
            guest_init: std::path::absolute(find::guest_init(self.guest_init.as_deref())?)?,
        })
    }

    /// The VM of these flags whose root is `share`.
    pub fn config(&self, parts: Parts, share: &Share) -> Result<VmConfig> {
        let config = VmConfig {
            cpus: self.cpus,
            memory_mib: self.memory,
            // TSI uses the network that the user of this command has.
            netns: matches!(self.network, NetworkArgument::Tsi).then(|| "/proc/self/ns/net".into()),
            network: self.network.into(),
            debug: self.debug_console,
            debug_console: self.debug_console.then(|| "/proc/self/fd/2".into()),
            ..VmConfig::new(share.root(), share.sockets(), parts.libkrunfw, parts.guest_init)
        };
        config.validate()?;
        Ok(config)
    }
}

/// Boots a VM, does `go` with its guest, and ends the VM. Answers the exit status.
pub fn with_guest(config: VmConfig, go: impl AsyncFnOnce(&Guest, &mut Signals) -> Result<u8>) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let vm = Vm::launch(config).await?;
        let status = boot_and_go(&vm, &mut signals, go).await;
        vm.kill();
        vm.ended().await;
        status
    });
    // A thread may still be reading our stdin.
    runtime.shutdown_background();
    status
}

async fn boot_and_go(
    vm: &Vm,
    signals: &mut Signals,
    go: impl AsyncFnOnce(&Guest, &mut Signals) -> Result<u8>,
) -> Result<u8> {
    let guest = tokio::select! {
        guest = vm.guest(BOOT_TIMEOUT) => guest?,
        // No process exists yet that could get the signal.
        signal = signals.next() => return Ok(exit::of_signal(signal)),
    };
    configure(&guest).await?;
    let status = tokio::select! {
        // An exit record wins over the end of the VM.
        biased;
        status = go(&guest, signals) => status,
        end = vm.ended() => anyhow::bail!("the VM ended before its command: {end}"),
    };
    match status {
        // The connection is lost a moment before the end of the VM is known, which says why.
        Err(error) if is_lost(&error) => match tokio::time::timeout(END_TIMEOUT, vm.ended()).await {
            Ok(end) => Err(error.context(format!("the VM ended before its command: {end}"))),
            Err(_) => Err(error),
        },
        status => status,
    }
}

/// Whether `error` is about the connection to the guest.
fn is_lost(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(CallError::Connection(_))))
}

async fn configure(guest: &Guest) -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let mut request = ConfigureRequest::new();
    request.realtime_ns = i64::try_from(now.as_nanos())?;
    request.hostname = spec::HOSTNAME.to_owned();
    guest
        .client
        .configure(call(), &request)
        .await
        .map_err(CallError::from)
        .context("configuring the guest")?;
    Ok(())
}

/// The context of a call that does not wait for anything.
pub fn call() -> ttrpc::context::Context {
    ttrpc::context::with_duration(CALL_TIMEOUT)
}
