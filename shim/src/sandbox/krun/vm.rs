//! A sandbox's VM from its launch to its end, and calls of its guest, which are never waited for without a bound.

mod network;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use guest_protocol::{
    api,
    failure::{CallError, one_line},
};
use linux::user_namespace::{IdMaps, Range};
use log::{error, info, warn};
use nix::sys::utsname::uname;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use ttrpc::context::{self, Context};
use vm_launcher::{Guest, Lost};

use super::{boot::Boot, clock, container::container_ref};
use crate::{
    config::Size,
    error::{Error, Result},
    failpoint::seconds,
    id::StreamNumbers,
    lock::lock,
    network::{Choice, Dialer},
    report::{self, Failure, Report},
    sandbox::{
        Exit, ProcessId,
        host::{Booted, Ended, Host, Machine},
    },
    stdio::{Endpoints, Pumps, StdioPaths, streams},
};

/// How long a VM may take from its launch to its guest's first words. A guest boots in half a second; ten at once on a busy
/// emulated machine have been seen to take a minute.
pub const BOOT: Duration = seconds(90, 40);

/// How long the guest may take over a call that does not wait for anything.
pub const CALL: Duration = seconds(30, 8);

/// How long a guest that was late may take to show that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// How long a VM may take to end by itself when the connection to its guest is lost: then it says why.
const BY_ITSELF: Duration = Duration::from_secs(1);

/// How long the vmm may take to go when it was killed.
pub const GONE: Duration = Duration::from_secs(10);

/// A VM. Ends with all that belongs to it when it is dropped.
pub struct Vm<H: Host> {
    machine: H::Machine,
    /// There is a vmm, or was one.
    launched: AtomicBool,
    /// What was told of its end, once: none if that is no surprise.
    told: OnceLock<Option<Failure>>,
    boot: watch::Sender<Boot>,
    /// Dials servers in the guest.
    dialer: Dialer,
    numbers: StreamNumbers,
    sandbox: String,
    /// Its user namespace, which its containers may have.
    users: Option<IdMaps>,
    attendant: Mutex<Option<JoinHandle<()>>>,
}

fn nodename() -> String {
    uname().map(|names| names.nodename().to_string_lossy().into_owned()).unwrap_or_default()
}

fn ranges(ranges: Option<&[Range]>) -> Vec<api::IdRange> {
    let of = |range: &Range| api::IdRange {
        inside: range.inside,
        outside: range.outside,
        length: range.length,
        ..Default::default()
    };
    ranges.unwrap_or_default().iter().map(of).collect()
}

impl<H: Host> Vm<H> {
    /// A VM of `sandbox` that is not launched yet.
    pub fn new(sandbox: &str, machine: H::Machine, users: Option<IdMaps>) -> Vm<H> {
        let (boot, watched) = watch::channel(Boot::Awaited);
        let numbers = StreamNumbers::default();
        Vm {
            machine,
            launched: AtomicBool::new(false),
            told: OnceLock::new(),
            boot,
            dialer: Dialer::new(watched, numbers.clone()),
            numbers,
            sandbox: sandbox.to_owned(),
            users,
            attendant: Mutex::default(),
        }
    }

    /// Whether a container may have `users` for its user namespace: what belongs to a user namespace, as a pod's other namespaces do,
    /// can be joined from within it alone.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when the VM has another.
    pub fn check_users(&self, users: Option<&IdMaps>) -> Result<()> {
        match users {
            Some(users) if self.users.as_ref() != Some(users) => Err(Error::invalid(
                "linux.uidMappings, linux.gidMappings: a pod's containers have the user namespace of its sandbox",
            )),
            _ => Ok(()),
        }
    }

    /// Its directory, share, taps and vmm on the host.
    pub fn machine(&self) -> &H::Machine {
        &self.machine
    }

    /// Its CPUs and memory.
    pub fn size(&self) -> Size {
        self.machine.size()
    }

    /// Its stream numbers.
    pub fn numbers(&self) -> StreamNumbers {
        self.numbers.clone()
    }

    /// Launches it; see [`Machine::launch`].
    ///
    /// # Errors
    /// As there.
    pub async fn launch(self: &Arc<Self>, anchor: u32, cgroup: Option<&H::Cgroup>) -> Result<()> {
        self.machine.launch(anchor, cgroup, &self.dialer).await.inspect_err(|_| self.tell(Failure::Boot))?;
        self.launched.store(true, Ordering::Release);
        let is_wanted = self.boot.send_if_modified(|boot| {
            let is_wanted = matches!(boot, Boot::Awaited);
            if is_wanted {
                *boot = Boot::UnderWay;
            }
            is_wanted
        });
        if !is_wanted {
            // It was killed before this.
            self.machine.kill();
        }
        *lock(&self.attendant) = Some(tokio::spawn(attend(self.clone())));
        Ok(())
    }

    /// Whether nobody has launched it, nor killed it.
    pub fn awaits_launch(&self) -> bool {
        matches!(*self.boot.borrow(), Boot::Awaited)
    }

    async fn greet(&self) -> Result<Guest> {
        let launched = Instant::now();
        let guest = self.machine.guest(BOOT).await?;
        let called = launched.elapsed();
        failpoint!("boot.hello");
        let request = api::ConfigureRequest {
            realtime_ns: clock::now_ns(),
            network: self.machine.guest_network().into(),
            // That of a container which names none.
            hostname: nodename(),
            tsi: self.network() == Choice::Tsi,
            spare_nic: self.machine.keeps_nic(),
            idle_cache_mib: self.machine.idle_cache_mib(),
            users: ranges(self.users.as_ref().map(|maps| maps.users.as_slice())),
            groups: ranges(self.users.as_ref().map(|maps| maps.groups.as_slice())),
            ..Default::default()
        };
        let configured = guest.client.configure(context::with_duration(CALL), &request).await?;
        let kernel = one_line(&configured.kernel);
        info!("guest kernel {kernel}");
        self.machine.booted(&Booted { called, configured: launched.elapsed() - called, kernel });
        failpoint!("boot.configured");
        Ok(guest)
    }

    /// The guest, once it is up.
    ///
    /// # Errors
    /// Why it did not come up.
    pub async fn guest(&self) -> Result<Guest> {
        self.dialer.guest().await
    }

    /// Calls the guest for what it should do within [`CALL`].
    ///
    /// # Errors
    /// The guest's; when it was too late; when it does not live, for which its VM is killed.
    pub async fn call<T, F>(&self, what: &str, call: impl FnOnce(Guest, Context) -> F) -> Result<T>
    where
        F: Future<Output = ttrpc::Result<T>>,
    {
        self.call_within(CALL, what, call).await
    }

    /// As [`Vm::call`], with another limit.
    ///
    /// # Errors
    /// As there.
    pub async fn call_within<T, F>(
        &self,
        limit: Duration,
        what: &str,
        call: impl FnOnce(Guest, Context) -> F,
    ) -> Result<T>
    where
        F: Future<Output = ttrpc::Result<T>>,
    {
        let guest = self.guest().await?;
        match call(guest.clone(), context::with_duration(limit)).await.map_err(CallError::from) {
            Ok(answer) => Ok(answer),
            Err(CallError::Late) => Err(self.late(&guest, limit, what).await),
            Err(error @ CallError::Connection(_)) => Err(self.lost(error).await),
            Err(error) => Err(Error::from(error)),
        }
    }

    /// Connects the streams of `process`.
    ///
    /// # Errors
    /// When there is no guest, or its stream connection is lost.
    pub async fn connect(
        &self,
        process: &ProcessId,
        stdio: &StdioPaths,
        endpoints: Endpoints,
    ) -> Result<(api::Stdio, Pumps)> {
        let guest = self.guest().await?;
        let numbers = streams(stdio, || self.numbers.next());
        let pumps = Pumps::connect(endpoints, &numbers, &guest.streams)
            .map_err(|e| Error::internal(format!("open the streams of {process}")).because(e))?;
        Ok((numbers, pumps))
    }

    /// Removes an ended container from a guest that goes on. What fails is logged.
    pub async fn remove(&self, container: &str) {
        let what = format!("remove {container}");
        let reference = container_ref(container);
        let removed =
            self.call(&what, async |guest, limit| guest.client.delete_container(limit, &reference).await);
        if let Err(error) = removed.await {
            warn!("{what} from the guest: {error}");
        }
    }

    /// What to tell of a guest whose connection is lost: why its VM ends, if it does.
    async fn lost(&self, error: CallError) -> Error {
        match timeout(2 * BY_ITSELF, self.ended()).await {
            Ok(ended) => Error::internal(ended.reason).because(error),
            Err(_) => Error::from(error),
        }
    }

    /// What to tell of a guest that did not answer in time. One that does not live either is of no more use.
    async fn late(&self, guest: &Guest, limit: Duration, what: &str) -> Error {
        let request = api::SetClockRequest { realtime_ns: clock::now_ns(), ..Default::default() };
        let sign = guest.client.set_clock(context::with_duration(SIGN_OF_LIFE), &request).await;
        if sign.is_ok() {
            return Error::internal(format!("{what}: not done within {limit:?}")).because(CallError::Late);
        }
        let message = format!("{what}: not done within {limit:?}, and its VM is killed");
        error!("VM of {}: {message}: {}", self.sandbox, CallError::Late);
        self.fail(Failure::Unresponsive);
        Error::internal(message).because(CallError::Late)
    }

    /// Ends the VM at once, also one that is not launched yet. Idempotent.
    pub fn kill(&self) {
        self.boot.send_if_modified(|boot| {
            let is_awaited = matches!(boot, Boot::Awaited);
            if is_awaited {
                *boot = Boot::Failed("the VM was killed before it was launched".to_owned());
            }
            is_awaited
        });
        if self.launched.load(Ordering::Acquire) {
            self.machine.kill();
        }
    }

    /// Nobody wants it any more: its end will be no failure.
    pub fn dismiss(&self) {
        let _ = self.told.set(None);
    }

    /// Tells why it is of no more use, unless its end is no surprise, or was told.
    fn tell(&self, why: Failure) {
        if self.told.set(Some(why)).is_ok() {
            report::send(Report::Failed(why));
        }
    }

    /// What was told of its end.
    #[cfg(test)]
    pub fn told(&self) -> Option<Failure> {
        self.told.get().copied().flatten()
    }

    /// Tells that it has ended before its container was made.
    pub fn tell_early(&self, ended: &Ended) {
        let is_up = matches!(*self.boot.borrow(), Boot::Done(_));
        self.tell(if is_up { died(ended) } else { Failure::Boot });
    }

    /// Ends a VM that is of no more use, and tells why.
    pub fn fail(&self, why: Failure) {
        self.tell(why);
        self.kill();
    }

    /// Ends a VM whose guest has said no more: why, is what its own end says if that comes soon, and what became of the connection
    /// otherwise.
    pub async fn end_lost(&self) -> Ended {
        if timeout(BY_ITSELF, self.ended()).await.is_err() {
            self.tell(Failure::Connection);
        }
        self.end().await
    }

    /// Waits until the vmm process is gone, or will never be.
    pub async fn ended(&self) -> Ended {
        let mut changes = self.boot.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let boot = changes.wait_for(|boot| !matches!(boot, Boot::Awaited)).await.map(|boot| boot.clone());
        match boot {
            Ok(Boot::Failed(reason)) if !self.launched.load(Ordering::Acquire) => {
                Ended { exit: Exit::UNKNOWN, reason }
            }
            _ => self.machine.ended().await,
        }
    }

    /// Kills the VM and waits until its process is gone, for [`GONE`] at most: one that the host's kernel does not let go
    /// holds up nobody.
    pub async fn end(&self) -> Ended {
        self.kill();
        let ended = timeout(GONE, self.ended()).await.unwrap_or_else(|_| {
            let reason = format!("the vmm was killed and has not gone within {GONE:?}");
            warn!("VM of {}: {reason}", self.sandbox);
            Ended { exit: Exit::KILLED, reason }
        });
        self.boot.send_if_modified(|boot| {
            let is_under_way = matches!(boot, Boot::UnderWay);
            if is_under_way {
                *boot = Boot::Failed(ended.reason.clone());
            }
            is_under_way
        });
        self.tell(died(&ended));
        // It would keep the VM for a moment longer.
        let attendant = lock(&self.attendant).take();
        if let Some(attendant) = attendant {
            attendant.abort();
            // It was aborted, or had ended.
            let _ = attendant.await;
        }
        ended
    }
}

/// What a VM's end says of why it ended, where nobody else has said it.
fn died(ended: &Ended) -> Failure {
    if ended.exit.oom_killed { Failure::Memory } else { Failure::Died }
}

/// Takes the guest's call and tells it what it needs to know, then watches over it to its end.
async fn attend<H: Host>(vm: Arc<Vm<H>>) {
    let launched = Instant::now();
    let guest = match vm.greet().await {
        Ok(guest) => guest,
        Err(error) => {
            error!("the VM did not come up: {error}");
            vm.tell(Failure::Boot);
            vm.boot.send_replace(Boot::Failed(error.to_string()));
            vm.kill();
            return;
        }
    };
    info!("boot: guest answered after {} us", launched.elapsed().as_micros());
    vm.boot.send_replace(Boot::Done(guest.clone()));
    // The VM goes when its containers do; who watches over it must not keep it.
    let watched = Arc::downgrade(&vm);
    drop(vm);
    let ended = async {
        let lost = guest.lost().await;
        let (patience, why) = match lost {
            Lost::Ended(_) => (BY_ITSELF, Failure::Connection),
            Lost::Broken(_) => (Duration::ZERO, Failure::Protocol),
        };
        let Some(vm) = watched.upgrade() else { return };
        vm.fail(match timeout(patience, vm.ended()).await {
            Ok(ended) => died(&ended),
            Err(_) => {
                info!("VM of {}: {lost}: it is ended", vm.sandbox);
                why
            }
        });
    };
    let clock = async {
        if let Err(error) = clock::keep(&guest).await {
            warn!("the guest's clock no longer follows the host's: {error}");
        }
    };
    tokio::join!(ended, clock);
}
