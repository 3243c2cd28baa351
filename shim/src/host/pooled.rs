//! A machine whose VM was booted before it was wanted: what it has of the pool, until it is as any other.

use std::{path::Path, sync::Mutex, thread};

use log::{debug, warn};
use tokio::runtime::Handle;
use vm_launcher::{Guest, Vm};

use crate::{
    cgroup::{self, HostCgroup},
    error::{Error, Result},
    files::{share::Share, state_dir::StateDir},
    lock::lock,
    network::{Choice, Joined, Netns, Spare},
    pool::{Asked, Taken},
};

/// Where a VM belongs.
pub struct Place<'a> {
    /// How it reaches the network.
    pub network: Choice,
    /// How many interfaces of the task's network namespace need a NIC.
    pub nics: usize,
    /// That namespace.
    pub netns: &'a Netns,
    /// Its cgroup; none is this process's own.
    pub cgroup: Option<&'a HostCgroup>,
    /// Whether its NIC sends from the addresses of its interface only.
    pub anti_spoofing: bool,
}

/// What a machine has of the pool.
pub struct Pooled {
    /// The VM and its NIC's tap, until it is woken; no tap where it has no network.
    waiting: Mutex<Option<(Vm, Option<Spare>)>>,
    /// Its guest, until somebody waits for it.
    guest: Mutex<Option<Guest>>,
    /// What the tap was joined to before the guest is configured.
    joined: Option<Joined>,
}

impl Pooled {
    /// Takes a VM of the pool's for a sandbox, and brings it to its place. It blocks, and is to be called within a tokio runtime whose
    /// threads go on meanwhile. None is there when the pool has none, when it cannot be in that place, or when something fails: then
    /// nothing stays behind.
    pub fn take(
        asked: Asked,
        sandbox: (&str, &str),
        vmm: &Path,
        place: &Place<'_>,
    ) -> Option<(StateDir, Share, Pooled)> {
        if !fits(place) {
            return None;
        }
        let Taken { vm, guest, share, state, netns } = asked.take(sandbox, vmm)?;
        match settle(&vm, &netns, place) {
            Ok((spare, joined)) => {
                let (waiting, guest) = (Mutex::new(Some((vm, spare))), Mutex::new(Some(guest)));
                Some((state, share, Pooled { waiting, guest, joined }))
            }
            Err(error) => {
                warn!("a VM of the pool is of no use: {error}");
                // Its process must be gone before its files are.
                Handle::current().block_on(vm.end());
                None
            }
        }
    }

    /// The VM and its NIC's tap, for the call that wakes it.
    pub fn wake(&self) -> Option<(Vm, Option<Spare>)> {
        lock(&self.waiting).take()
    }

    /// Its guest, for the call that waits for it.
    pub fn guest(&self) -> Option<Guest> {
        lock(&self.guest).take()
    }

    /// What the guest is to be told of its network, if it has a NIC from the start.
    pub fn joined(&self) -> Option<&Joined> {
        self.joined.as_ref()
    }
}

/// Whether a VM of the pool's, which has one NIC, can be there.
fn fits(place: &Place<'_>) -> bool {
    match place.network {
        Choice::Tap => place.nics == 1,
        Choice::Spare | Choice::None => true,
        Choice::TapAtStart | Choice::Tsi => false,
    }
}

/// Gives the VM its cgroup and its network. Each waits until no CPU uses what it changes in the kernel, so both go at the same time.
fn settle(vm: &Vm, from: &Netns, place: &Place<'_>) -> Result<(Option<Spare>, Option<Joined>)> {
    thread::scope(|scope| {
        let moved = thread::Builder::new()
            .name("cgroup".to_owned())
            .spawn_scoped(scope, || move_vmm(vm, place.cgroup));
        let connected = connect(from, place);
        let moved = moved.map_err(|e| Error::internal("make a thread").because(e))?;
        moved.join().unwrap_or_else(|_| Err(Error::internal("the thread that moves the vmm panicked")))?;
        connected
    })
}

/// Takes the tap to the task's network namespace, and joins it to the interface there.
fn connect(from: &Netns, place: &Place<'_>) -> Result<(Option<Spare>, Option<Joined>)> {
    if place.network == Choice::None {
        return Ok((None, None));
    }
    let spare = Spare::take(from, place.netns)?;
    if place.network != Choice::Tap {
        return Ok((Some(spare), None));
    }
    let gone = || Error::precondition("network = tap: the network namespace has no interface any more");
    let joined = spare.join(place.anti_spoofing)?.ok_or_else(gone)?;
    Ok((Some(spare), Some(joined)))
}

/// Moves the process of a VM from the pool's cgroup to its own.
fn move_vmm(vm: &Vm, cgroup: Option<&HostCgroup>) -> Result<()> {
    let moved = cgroup::move_vm(vm.pid(), cgroup.map(HostCgroup::vms).as_deref());
    // The pool keeps the pid from other processes, as long as it lives.
    if vm.has_ended() {
        return Err(Error::internal("the vmm has ended"));
    }
    match moved {
        // Nothing limits it either way.
        Err(error) if cgroup.is_none() => {
            debug!("the vmm stays in the pool's cgroup: {error}");
            Ok(())
        }
        moved => moved,
    }
}
