//! The pool's side: it boots VMs, keeps them, and gives them away.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use linux::descriptors;
use log::{info, warn};
use rustix::net::{Shutdown, shutdown};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
    sync::{Notify, watch},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use vm_launcher::Left;

use super::{
    cgroup::IdleCgroup,
    kind::Kind,
    place::Place,
    pressure::Pressure,
    stock::{Kept, Stock},
    vm::{WaitingVm, parts_and_kind},
    wire::{LONGEST, SOCKET, TAKE},
};
use crate::{
    config::{Config, PoolSize, RuntimeOptions},
    error::{Error, Result},
    files::state_dir,
    host::parts::Parts,
};

/// How long a shim may take to say what it wants.
const ASKS: Duration = Duration::from_secs(1);

/// How long a shim may think about an offer: it prepares the host meanwhile, and runs hooks.
const THINKS: Duration = Duration::from_secs(120);

/// How long a boot that failed is not tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long the host must not have been short of memory before a VM is booted again.
const RELIEF: Duration = Duration::from_secs(60);

/// Shims that may talk to the pool at once. More wait, and boot VMs themselves.
const MAX_SHIMS: usize = 256;

/// A pool of VMs.
pub struct Pool {
    /// The configuration of each size.
    sizes: Vec<Config>,
    stock: Stock<WaitingVm>,
    /// Something was taken, or has ended.
    changed: Notify,
    /// The number of the next VM.
    next: AtomicU64,
    /// Nothing is given away any more.
    stopping: watch::Sender<bool>,
}

/// A pool that shims can reach.
pub struct Listening {
    pool: Arc<Pool>,
    place: Place,
    cgroup: Option<IdleCgroup>,
}

impl Kept for WaitingVm {
    type Kind = Kind;

    fn size(&self) -> usize {
        self.size
    }

    fn kind(&self) -> &Kind {
        &self.kind
    }

    fn is_well(&self) -> bool {
        self.end_of().is_none()
    }
}

/// Removes what a pool has left that was killed.
///
/// # Errors
/// When another pool runs; the file system's.
pub fn clean() -> Result<()> {
    Place::clean().map_err(|e| Error::internal("clean up after a pool").because(e))
}

impl Pool {
    /// The pool that the administrator has configured, in `file` if it is given.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names the key and what is allowed; when this host cannot run VMs.
    pub fn configured(file: Option<&Path>) -> Result<Pool> {
        let options = RuntimeOptions { config_path: file.map(Path::to_owned), ..RuntimeOptions::default() };
        let config = Config::load(&options)?;
        if config.nested_virt || config.debug_console.is_some() {
            return Err(Error::invalid(
                "nested_virt, debug_console: a pool has no VMs with either: unset both, or boot each VM when it is needed",
            ));
        }
        Parts::find(&config)?;
        let wanted = PoolSize::of(&config)?;
        let sizes = wanted.iter().map(|(size, _)| size.clone()).collect();
        let stock = Stock::new(wanted.iter().map(|(_, count)| *count).collect());
        Ok(Pool {
            sizes,
            stock,
            changed: Notify::new(),
            next: AtomicU64::default(),
            stopping: watch::Sender::new(false),
        })
    }

    /// Listens for shims. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When there is a pool already; when its socket or its cgroup cannot be made.
    pub fn listen(self) -> Result<Listening> {
        let place = Place::take().map_err(|e| Error::internal(format!("listen at {SOCKET}")).because(e))?;
        let cgroup = IdleCgroup::make().map_err(|e| Error::internal("divide the own cgroup").because(e))?;
        Ok(Listening { pool: Arc::new(self), place, cgroup })
    }
}

impl Listening {
    /// Keeps VMs and gives them away until `stop`, then ends those that are left.
    pub async fn keep(self, stop: impl Future<Output = ()>) {
        let Listening { pool, mut place, cgroup } = self;
        let mut shims = JoinSet::new();
        let filling = tokio::spawn(pool.clone().fill(cgroup.as_ref().map(IdleCgroup::path)));
        let relieving = tokio::spawn(pool.clone().relieve());
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = shims.join_next() => {}
                accepted = place.accept(), if shims.len() < MAX_SHIMS => match accepted {
                    Ok(shim) => drop(shims.spawn(pool.clone().serve(shim))),
                    Err(error) => {
                        warn!("accept a connection: {error}");
                        sleep(AGAIN.0).await;
                    }
                },
            }
        }
        place.close();
        relieving.abort();
        // The one that boots ends with its task.
        filling.abort();
        let _ = filling.await;
        pool.stopping.send_replace(true);
        WaitingVm::end_all(pool.stock.close()).await;
        while shims.join_next().await.is_some() {}
        // Only now may another pool remove what it finds.
        drop((cgroup, place));
    }
}

impl Pool {
    /// Boots what is missing, one at a time, in `cgroup`.
    async fn fill(self: Arc<Self>, cgroup: Option<PathBuf>) {
        let mut pause = AGAIN.0;
        loop {
            let mut failed = self.remove_old().await;
            let Some(size) = self.stock.missing() else {
                // All is well for a while.
                if timeout(AGAIN.1, self.changed.notified()).await.is_err() {
                    pause = AGAIN.0;
                    self.changed.notified().await;
                }
                continue;
            };
            if failed == 0 {
                failed = self.boot(size, cgroup.clone()).await;
            }
            if failed > 0 {
                warn!("the next VM is booted in {} s", pause.as_secs());
                sleep(pause).await;
                pause = (pause * 2).min(AGAIN.1);
            }
        }
    }

    /// Boots one of this size, and says how many could not be.
    async fn boot(self: &Arc<Self>, size: usize, cgroup: Option<PathBuf>) -> usize {
        let name = format!("{}-{}", process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        let config = &self.sizes[size];
        match WaitingVm::boot(config, size, &name, cgroup).await {
            Ok(vm) => {
                info!("the VM {name} waits: {} cpus, {} MiB", config.cpus, config.memory_mib);
                tokio::spawn(self.clone().watch(vm.watch()));
                match self.stock.add(vm) {
                    // It has ended, or all are given up.
                    Some(vm) => vm.end().await,
                    None => return 0,
                }
                1
            }
            Err(error) => {
                warn!("boot a VM: {error}");
                1
            }
        }
    }

    /// Ends those that a shim would make otherwise by now, and those that have ended. Says how many have.
    async fn remove_old(&self) -> usize {
        let mut kinds = Vec::new();
        for config in &self.sizes {
            kinds.push(parts_and_kind(config.clone()).await.map(|(_, kind)| kind).ok());
        }
        let is_old = |vm: &WaitingVm| !vm.is_well() || kinds[vm.size].as_ref() != Some(&vm.kind);
        let old = self.stock.take(is_old);
        let ends: Vec<_> = old.iter().filter_map(WaitingVm::end_of).collect();
        ends.iter().for_each(|end| warn!("a VM has ended: {end}"));
        if ends.len() < old.len() {
            info!("{} VMs are replaced: what they are made of has changed", old.len() - ends.len());
        }
        WaitingVm::end_all(old).await;
        ends.len()
    }

    /// Has the VM replaced when it ends.
    async fn watch(self: Arc<Self>, ended: impl Future<Output = ()>) {
        ended.await;
        self.changed.notify_one();
    }

    /// Gives up what is kept while the host is short of memory.
    async fn relieve(self: Arc<Self>) {
        let pressure = match Pressure::watch() {
            Ok(pressure) => pressure,
            Err(error) => {
                warn!("whether the host is short of memory is not known: {error}");
                return;
            }
        };
        loop {
            pressure.rises().await;
            let given_up = self.stock.close();
            info!("the host is short of memory: {} VMs are given up", given_up.len());
            WaitingVm::end_all(given_up).await;
            // Until that has not happened for a while.
            while timeout(RELIEF, pressure.rises()).await.is_ok() {}
            self.stock.open();
            self.changed.notify_one();
        }
    }

    /// Answers a shim.
    async fn serve(self: Arc<Self>, mut shim: UnixStream) {
        let Some(kind) = question(&mut shim).await else { return };
        let Some(vm) = self.stock.lend(&kind) else {
            // There may be something else to boot by now.
            self.changed.notify_one();
            return;
        };
        let size = vm.size;
        let offered = serde_json::to_vec(&vm.offer()).map_err(io::Error::from);
        let offered = offered.and_then(|offer| descriptors::send(&shim, &offer, &vm.descriptors().list()));
        let answer = match offered {
            Ok(()) => self.answer(&mut shim).await,
            Err(_) => Answer::HungUp,
        };
        self.stock.settle(size);
        match answer {
            Answer::Takes => {
                let name = vm.offer().name;
                info!("the VM {name} is taken");
                tokio::spawn(bury(vm.leave(), shim, name));
            }
            Answer::HungUp => {
                if let Some(vm) = self.stock.add(vm) {
                    vm.end().await;
                }
            }
            // It still has the descriptors.
            Answer::Late => vm.end().await,
        }
        self.changed.notify_one();
    }

    /// What a shim says to what it was offered. Afterwards it can take it no more.
    async fn answer(&self, shim: &mut UnixStream) -> Answer {
        let mut stopping = self.stopping.subscribe();
        let mut word = [0];
        tokio::select! {
            read = shim.read(&mut word) => return match read {
                Ok(1) if word[0] == TAKE => Answer::Takes,
                _ => Answer::HungUp,
            },
            () = sleep(THINKS) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        // From here on its word would not arrive, and it hears so. One that has arrived counts.
        let closed = shutdown(shim.as_fd(), Shutdown::Read);
        match closed.is_ok() && matches!(shim.read(&mut word).await, Ok(1)) && word[0] == TAKE {
            true => Answer::Takes,
            false => Answer::Late,
        }
    }
}

/// A shim's answer.
enum Answer {
    Takes,
    /// It has closed all that it was offered.
    HungUp,
    /// None, in its time.
    Late,
}

/// Reaps a VM that was given away once its shim has hung up, which it does when it has seen how the VM ended, or when it ends itself.
/// Until then the vmm's pid is no other process's.
async fn bury(left: Left, mut shim: UnixStream, name: String) {
    let _ = shim.read(&mut [0]).await;
    if let Err(error) = left.end().await {
        warn!("reap a vmm: {error}");
    }
    // Where the shim has not come as far as to have it.
    let _ = spawn_blocking(move || state_dir::remove_waiting(&name)).await;
}

/// What a shim wants.
async fn question(shim: &mut UnixStream) -> Option<Kind> {
    if shim.peer_cred().ok()?.uid() != 0 {
        return None;
    }
    let mut line = Vec::new();
    let mut reader = BufReader::new(shim).take(LONGEST as u64);
    timeout(ASKS, reader.read_until(b'\n', &mut line)).await.ok()?.ok()?;
    serde_json::from_slice(&line).ok()
}
