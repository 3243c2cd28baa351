//! The pool: it boots VMs and keeps them, until a shim takes them ([`super::serve`]) or it ends.

use std::{
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use log::{info, warn};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    cgroup::IdleCgroup,
    kind::Kind,
    place::Place,
    pressure::Pressure,
    stock::{Kept, Stock},
    vm::{WaitingVm, parts_and_kind},
    wire::SOCKET,
};
use crate::{
    config::{self, Config, RuntimeOptions},
    error::{Error, Result},
    host::parts::Parts,
};

/// How long a boot that failed is not tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long the host must not have been short of memory before a VM is booted again.
const RELIEF: Duration = Duration::from_secs(60);

/// Shims that may talk to the pool at once. More wait, and boot VMs themselves.
const MAX_SHIMS: usize = 256;

/// A pool of VMs.
pub struct Pool {
    /// What is kept of each size.
    sizes: Vec<config::Kept>,
    pub(super) stock: Stock<WaitingVm>,
    /// Something was taken, or has ended.
    pub(super) changed: Notify,
    /// The number of the next VM.
    next: AtomicU64,
    /// Nothing is given away any more.
    pub(super) stopping: watch::Sender<bool>,
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
        let sizes = config::Kept::of(&config)?;
        let stock = Stock::new(sizes.iter().map(|kept| kept.count).collect());
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
            let have_ended = self.remove_old().await;
            let Some(size) = self.stock.missing() else {
                // All is well for a while.
                if timeout(AGAIN.1, self.changed.notified()).await.is_err() {
                    pause = AGAIN.0;
                    self.changed.notified().await;
                }
                continue;
            };
            if have_ended || !self.boot(size, cgroup.clone()).await {
                warn!("the next VM is booted in {} s", pause.as_secs());
                sleep(pause).await;
                pause = (pause * 2).min(AGAIN.1);
            }
        }
    }

    /// Boots one of this size, and says whether it waits now.
    async fn boot(self: &Arc<Self>, size: usize, cgroup: Option<PathBuf>) -> bool {
        let name = format!("{}-{}", process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        let wanted = &self.sizes[size];
        match WaitingVm::boot(wanted, size, &name, cgroup).await {
            Ok(vm) => {
                info!("the VM {name} waits: {} cpus, {} MiB", wanted.config.cpus, wanted.config.memory_mib);
                tokio::spawn(self.clone().watch(vm.watch()));
                let rejected = self.stock.add(vm);
                let waits = rejected.is_none();
                // It has ended, or all are given up.
                if let Some(vm) = rejected {
                    vm.end().await;
                }
                waits
            }
            Err(error) => {
                warn!("boot a VM: {error}");
                false
            }
        }
    }

    /// Removes those that a shim would make otherwise by now, and those that have ended. Says whether any have.
    async fn remove_old(&self) -> bool {
        let mut kinds = Vec::new();
        for wanted in &self.sizes {
            kinds.push(parts_and_kind(wanted.clone()).await.map(|(_, kind)| kind).ok());
        }
        let is_old = |vm: &WaitingVm| !vm.is_well() || kinds[vm.size].as_ref() != Some(&vm.kind);
        let old = self.stock.take(is_old);
        let ends: Vec<_> = old.iter().filter_map(WaitingVm::end_of).collect();
        ends.iter().for_each(|end| warn!("a VM has ended: {end}"));
        if ends.len() < old.len() {
            info!("{} VMs are replaced: what they are made of has changed", old.len() - ends.len());
        }
        WaitingVm::end_all(old).await;
        !ends.is_empty()
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
}
