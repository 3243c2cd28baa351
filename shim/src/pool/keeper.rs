//! The pool's side: it boots VMs, keeps them, and gives them away.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use linux::descriptors;
use log::{info, warn};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag},
};
use rustix::net::{Shutdown, shutdown};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use vm_launcher::Left;

use super::{
    kind::Kind,
    pressure::Pressure,
    stock::{Kept, Stock},
    vm::WaitingVm,
    wire::{LONGEST, SOCKET, TAKE},
};
use crate::{
    config::{Config, PoolSize, RuntimeOptions},
    error::{Error, Result},
    files::{pin, state_dir},
    host::parts::Parts,
};

/// How long a shim may take to say what it wants.
const ASKS: Duration = Duration::from_secs(1);

/// How long a shim may think about an offer: it prepares the host meanwhile, and runs hooks.
const THINKS: Duration = Duration::from_secs(120);

/// How long a boot that failed is not tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long nothing is booted after the host was short of memory.
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
}

/// The place where a pool listens. There is one at a time.
struct Place {
    listener: UnixListener,
    _lock: Flock<File>,
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
    /// When there is a pool already; when its socket cannot be made.
    pub fn listen(self) -> Result<Listening> {
        let place = Place::take().map_err(|e| Error::internal(format!("listen at {SOCKET}")).because(e))?;
        remove_leftovers();
        Ok(Listening { pool: Arc::new(self), place })
    }
}

impl Listening {
    /// Keeps VMs and gives them away until `stop`, then ends those that are left.
    pub async fn keep(self, stop: impl Future<Output = ()>) {
        let Listening { pool, place } = self;
        let mut shims = JoinSet::new();
        let filling = tokio::spawn(pool.clone().fill());
        let relieving = tokio::spawn(pool.clone().relieve());
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = shims.join_next() => {}
                accepted = place.listener.accept(), if shims.len() < MAX_SHIMS => match accepted {
                    Ok((shim, _)) => drop(shims.spawn(pool.clone().serve(shim))),
                    Err(error) => {
                        warn!("accept a connection: {error}");
                        sleep(AGAIN.0).await;
                    }
                },
            }
        }
        drop(place);
        relieving.abort();
        // The one that boots ends with its task.
        filling.abort();
        let _ = filling.await;
        for vm in pool.stock.close() {
            vm.end().await;
        }
        pool.stopping.send_replace(true);
        while shims.join_next().await.is_some() {}
    }
}

impl Pool {
    /// Boots what is missing, one at a time.
    async fn fill(self: Arc<Self>) {
        let mut pause = AGAIN.0;
        loop {
            self.remove_old().await;
            let Some(size) = self.stock.missing() else {
                self.changed.notified().await;
                continue;
            };
            let name = format!("{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed));
            match WaitingVm::boot(&self.sizes[size], size, &name).await {
                Ok(vm) => {
                    info!(
                        "the VM {name} waits: {} cpus, {} MiB",
                        self.sizes[size].cpus, self.sizes[size].memory_mib
                    );
                    pause = AGAIN.0;
                    tokio::spawn(self.clone().watch(vm.watch()));
                    if let Some(vm) = self.stock.add(vm) {
                        vm.end().await;
                    }
                }
                Err(error) => {
                    warn!("boot a VM: {error}; the next try is in {} s", pause.as_secs());
                    sleep(pause).await;
                    pause = (pause * 2).min(AGAIN.1);
                }
            }
        }
    }

    /// Ends those that a shim would make otherwise by now, and those that have ended.
    async fn remove_old(&self) {
        let kinds = self.sizes.iter().map(|config| Kind::of(config, &Parts::find(config)?));
        let kinds: Vec<_> = kinds.map(Result::ok).collect();
        let is_old = |vm: &WaitingVm| !vm.is_well() || kinds[vm.size].as_ref() != Some(&vm.kind);
        for vm in self.stock.take(is_old) {
            match vm.end_of() {
                Some(end) => warn!("a VM has ended: {end}"),
                None => info!("a VM is replaced: what it is made of has changed"),
            }
            vm.end().await;
        }
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
            for vm in given_up {
                vm.end().await;
            }
            sleep(RELIEF).await;
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
        let is_taken = offered.is_ok() && self.is_taken(&mut shim).await;
        if is_taken {
            info!("the VM {} is taken", vm.offer().name);
            let left = vm.leave();
            self.stock.settle(size);
            self.changed.notify_one();
            tokio::spawn(bury(left, shim));
            return;
        }
        self.stock.settle(size);
        if let Some(vm) = self.stock.add(vm) {
            vm.end().await;
        }
        self.changed.notify_one();
    }

    /// Whether a shim takes what it was offered. Afterwards it cannot any more.
    async fn is_taken(&self, shim: &mut UnixStream) -> bool {
        let mut stopping = self.stopping.subscribe();
        let mut word = [0];
        tokio::select! {
            read = shim.read(&mut word) => return matches!(read, Ok(1)) && word[0] == TAKE,
            () = sleep(THINKS) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        // From here on its word would not arrive, and it hears so. One that has arrived counts.
        let closed = shutdown(shim.as_fd(), Shutdown::Read);
        closed.is_ok() && matches!(shim.read(&mut word).await, Ok(1)) && word[0] == TAKE
    }
}

/// Reaps a VM that was given away, once its shim has hung up: until then the vmm's pid is no other process's, and the shim can see how
/// it ended.
async fn bury(left: Left, mut shim: UnixStream) {
    let _ = shim.read(&mut [0]).await;
    if let Err(error) = left.reap().await {
        warn!("reap a vmm: {error}");
    }
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

/// Removes what a pool has left that was killed. Its VMs have ended with it.
fn remove_leftovers() {
    match state_dir::waiting() {
        Ok(names) => names.iter().for_each(|name| state_dir::remove_waiting(name)),
        Err(error) => warn!("look for what an earlier pool has left: {error}"),
    }
}

impl Place {
    /// Listens, if no other pool does.
    #[expect(clippy::disallowed_methods, reason = "constant paths, in a directory that lets in root alone")]
    fn take() -> io::Result<Place> {
        let directory = pin::directory_for(Path::new(state_dir::ROOT), 0o711)?;
        let directory = pin::reopen(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let lock =
            Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
                Errno::EWOULDBLOCK => io::Error::other("another pool runs"),
                errno => errno.into(),
            })?;
        let _ = fs::remove_file(SOCKET);
        let listener = UnixListener::bind(SOCKET)?;
        Ok(Place { listener, _lock: lock })
    }
}

impl Drop for Place {
    #[expect(clippy::disallowed_methods, reason = "as above")]
    fn drop(&mut self) {
        let _ = fs::remove_file(SOCKET);
    }
}
