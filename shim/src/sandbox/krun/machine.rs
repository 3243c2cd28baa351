//! A sandbox's VM: its directory and share on the host, its vmm, and the way to its guest.

use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use guest_init::{api, mux};
use log::{error, info, warn};
use tokio::sync::watch;
use vmm::{Guest, Vm, VmConfig, VmEnd, find};

use crate::{
    cgroup::HostCgroup,
    clock::{self, HostClock},
    config::Config,
    error::{Error, Result},
    sandbox::Exit,
    share::Share,
    state_dir::StateDir,
};

/// How long a VM may take from its launch to its guest's first words. A guest boots in half a
/// second; on an emulated machine under load it has been seen to take twenty.
const BOOT: Duration = Duration::from_secs(120);

/// How long the guest may take over a call that does not wait for anything.
pub const CALL: Duration = Duration::from_secs(60);

/// What has become of the boot.
#[derive(Clone)]
enum Boot {
    UnderWay,
    Done(Guest),
    Failed(String),
}

/// A sandbox's VM. Ends with all that belongs to it when it is dropped.
pub struct Machine {
    // Dropped in this order: the vmm must be dead before its share goes.
    vm: Vm,
    boot: watch::Sender<Boot>,
    next_stream: AtomicU32,
    pub share: Share,
    _state: StateDir,
}

impl Machine {
    /// Starts the VM of `sandbox` in the network namespace of `anchor`, a pid; it boots on after
    /// this returns.
    ///
    /// # Errors
    /// What is missing or could not be done; nothing stays behind.
    pub async fn launch(
        (namespace, sandbox): (&str, &str),
        config: &Config,
        anchor: u32,
        cgroup: Option<&HostCgroup>,
    ) -> Result<Machine> {
        vmm::probe::device().map_err(|e| Error::precondition(chain(e)))?;
        let missing = |e: find::NotFound| Error::precondition(chain(e));
        let libkrunfw = find::libkrunfw(config.libkrunfw.as_deref()).map_err(missing)?;
        let guest_init = find::guest_init(config.guest_init.as_deref()).map_err(missing)?;
        let state = StateDir::create(namespace, sandbox)?;
        let share = Share::create(state.share())?;
        let vm_config = VmConfig {
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            share: share.path().to_owned(),
            socket_dir: state.sockets(),
            netns: Some(PathBuf::from(format!("/proc/{anchor}/ns/net"))),
            network: config.network,
            libkrunfw,
            guest_init,
            debug: log::max_level() >= log::LevelFilter::Debug,
            debug_console: config.debug_console.as_ref().map(|dir| dir.join(format!("{sandbox}.log"))),
        };
        let place = |pid| cgroup.map_or(Ok(()), |cgroup| cgroup.add(pid)).map_err(io::Error::other);
        info!(
            "VM of {sandbox}: {} cpus, {} MiB, network {:?}",
            config.cpus, config.memory_mib, config.network
        );
        let vm = launch(config, vm_config, place).await.map_err(|e| Error::internal(chain(e)))?;
        Ok(Machine {
            vm,
            boot: watch::Sender::new(Boot::UnderWay),
            next_stream: AtomicU32::new(mux::FIRST_STREAM),
            share,
            _state: state,
        })
    }

    /// Takes the guest's call, tells it what it needs to know, and keeps its clock right until the VM ends; run once,
    /// beside all else.
    pub async fn boot(&self) {
        let launched = Instant::now();
        let boot = match self.greet().await {
            Ok(guest) => {
                info!("boot: guest answered after {} us", launched.elapsed().as_micros());
                Boot::Done(guest)
            }
            Err(error) => {
                error!("the VM did not come up: {error}");
                self.vm.kill();
                Boot::Failed(error.to_string())
            }
        };
        let guest = match &boot {
            Boot::Done(guest) => Some(guest.clone()),
            _ => None,
        };
        self.boot.send_replace(boot);
        if let Some(guest) = guest
            && let Err(error) = keep_time(&guest).await
        {
            warn!("the guest's clock no longer follows the host's: {error}");
        }
    }

    async fn greet(&self) -> Result<Guest> {
        let guest = self.vm.guest(BOOT).await.map_err(|e| Error::internal(chain(e)))?;
        let request = api::ConfigureRequest { realtime_ns: clock::now_ns(), ..Default::default() };
        let configured = guest.client.configure(ttrpc::context::with_duration(CALL), &request).await?;
        info!("guest kernel {}", configured.kernel);
        Ok(guest)
    }

    /// The guest, once it is up.
    ///
    /// # Errors
    /// Why it did not come up.
    pub async fn guest(&self) -> Result<Guest> {
        let mut changes = self.boot.subscribe();
        loop {
            match &*changes.borrow_and_update() {
                Boot::Done(guest) => return Ok(guest.clone()),
                Boot::Failed(reason) => return Err(Error::internal(reason.clone())),
                Boot::UnderWay => {}
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// A stream number that was never used in this VM.
    pub fn next_stream(&self) -> u32 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// Ends the VM at once. Idempotent.
    pub fn kill(&self) {
        self.vm.kill();
    }

    /// Waits until the vmm process is gone.
    pub async fn ended(&self) -> VmEnd {
        self.vm.ended().await
    }

    /// Waits for an end of the VM before which nothing was heard of how a process ended, and says
    /// what that means for it.
    pub async fn died(&self) -> (Exit, String) {
        let end = self.ended().await;
        let status = match end.how {
            vmm::How::Killed(libc::SIGKILL) => Exit::KILLED.status,
            _ => 255,
        };
        (Exit { status, oom_killed: false }, end.reason)
    }
}

/// Tells the guest the host's time again and again, until it is lost.
async fn keep_time(guest: &Guest) -> Result<()> {
    let clock = HostClock::new().map_err(|e| Error::internal(format!("watch the clock: {e}")))?;
    loop {
        tokio::select! {
            _ = guest.lost() => return Ok(()),
            due = clock.due() => due.map_err(|e| Error::internal(format!("watch the clock: {e}")))?,
        }
        let request = api::SetClockRequest { realtime_ns: clock::now_ns(), ..Default::default() };
        match guest.client.set_clock(ttrpc::context::with_duration(CALL), &request).await {
            Ok(_) => {}
            // One that does not answer is somebody else's business; it may do so again.
            Err(error) => warn!("tell the guest the time: {error}"),
        }
    }
}

/// Launches the configured vmm, or the one in its usual place.
async fn launch(
    config: &Config,
    vm: VmConfig,
    place: impl FnOnce(nix::unistd::Pid) -> io::Result<()>,
) -> Result<Vm, vmm::LaunchError> {
    match &config.vmm {
        Some(vmm) => Vm::launch_with(vmm, vm, place).await,
        None => Vm::launch(vm, place).await,
    }
}

/// An error with all that caused it, in one line.
fn chain(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
