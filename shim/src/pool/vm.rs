//! One VM that waits, and what it has on the host.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use log::warn;
use tokio::task::spawn_blocking;
use vm_launcher::{Left, Network, Tap, Vm, VmConfig, VmEnd, Waiting};

use super::{
    kind::Kind,
    wire::{Descriptors, Offer},
};
use crate::{
    config::Kept,
    error::{Error, Result},
    files::{
        share::Share,
        state_dir::{self, StateDir},
    },
    host::{
        apparmor,
        parts::{Parts, chain},
    },
    network::{self, Netns},
};

/// How long a boot may take that everybody else goes before.
const BOOT: Duration = Duration::from_secs(600);

/// A VM that waits. Dropping it ends it as well as [`WaitingVm::end`] does, but may block.
pub struct WaitingVm {
    /// The number of its size.
    pub size: usize,
    pub kind: Kind,
    name: String,
    vm: Waiting,
    files: Files,
}

/// What a VM has on the host besides its process.
struct Files {
    netns: Netns,
    share: Share,
    state: StateDir,
    /// Keeps the directory from being removed by a later pool.
    directory: OwnedFd,
}

impl WaitingVm {
    /// Boots one as `wanted`, in a directory of this name and in `cgroup`; without, in this process's.
    ///
    /// # Errors
    /// What is missing or could not be done; nothing stays behind.
    pub async fn boot(wanted: &Kept, size: usize, name: &str, cgroup: Option<PathBuf>) -> Result<WaitingVm> {
        wanted.apparmor_profile.as_deref().map_or(Ok(()), apparmor::check)?;
        let (parts, kind) = parts_and_kind(wanted.clone()).await?;
        let (files, tap) = prepare(name).await?;
        match launch(wanted, &parts, &files, (tap, cgroup)).await {
            Ok(vm) => Ok(WaitingVm { size, kind, name: name.to_owned(), vm, files }),
            Err(error) => {
                remove(files).await;
                Err(error)
            }
        }
    }

    /// Waits until it has ended, or was left.
    pub fn watch(&self) -> impl Future<Output = ()> + Send + 'static {
        let ended = self.vm.ended();
        async move { drop(ended.await) }
    }

    /// How it has ended, if it has.
    pub fn end_of(&self) -> Option<VmEnd> {
        self.vm.end_of()
    }

    /// What is offered to a shim.
    pub fn offer(&self) -> Offer {
        Offer { name: self.name.clone() }
    }

    /// Its descriptors.
    pub fn descriptors(&self) -> Descriptors<BorrowedFd<'_>> {
        let Files { netns, share, directory, .. } = &self.files;
        let (netns, directory) = (netns.as_fd(), directory.as_fd());
        Descriptors { vm: self.vm.handle(), share: share.handle(), netns, directory }
    }

    /// Leaves it to the shim that has its descriptors.
    pub fn leave(self) -> Left {
        let Files { share, state, .. } = self.files;
        share.leave();
        state.leave();
        self.vm.leave()
    }

    /// Ends it, and removes what it has.
    pub async fn end(self) {
        self.vm.end().await;
        remove(self.files).await;
    }

    /// Ends these, all at once.
    pub async fn end_all(vms: Vec<WaitingVm>) {
        vms.iter().for_each(|vm| vm.vm.kill());
        for vm in vms {
            vm.end().await;
        }
    }
}

/// What a VM is made of, and of which kind it is then. The files may be anywhere.
///
/// # Errors
/// As of [`Parts::find`] and [`Kind::of`].
pub async fn parts_and_kind(wanted: Kept) -> Result<(Parts, Kind)> {
    let found = spawn_blocking(move || {
        let parts = Parts::find(&wanted.config)?;
        let kind = Kind::of(&wanted.config, wanted.apparmor_profile.as_deref(), &parts)?;
        Ok((parts, kind))
    });
    found.await.map_err(|e| Error::internal("look for a VM's parts").because(e))?
}

/// Makes all that a VM has besides its process.
async fn prepare(name: &str) -> Result<(Files, Tap)> {
    let name = name.to_owned();
    let prepared = spawn_blocking(move || {
        let state = StateDir::create_waiting(&name)?;
        let directory = state_dir::hold_waiting(&name);
        let directory = directory.map_err(|e| Error::internal("hold a VM's directory").because(e))?;
        let share = Share::create(state.path(), state_dir::SHARE)?;
        let failed = |e: io::Error| Error::internal("make a network namespace").because(e);
        let netns = Netns::make().map_err(failed)?;
        let tap = netns.run(network::make_spare_tap).map_err(failed)??;
        Ok((Files { netns, share, state, directory }, tap))
    });
    prepared.await.map_err(|e| Error::internal("prepare a VM").because(e))?
}

async fn launch(
    wanted: &Kept,
    parts: &Parts,
    files: &Files,
    (tap, cgroup): (Tap, Option<PathBuf>),
) -> Result<Waiting> {
    let vm = VmConfig {
        given_away: true,
        netns: Some(files.netns.path()),
        network: Network::Tap(vec![tap]),
        cgroup,
        apparmor_profile: wanted.apparmor_profile.clone(),
        ..parts.vm(&wanted.config, &files.share, &files.state)
    };
    let vm = Vm::launch_with(&parts.vmm, vm).await.map_err(|e| Error::internal(chain(e)))?;
    let reduced = files.share.namespace().reduce();
    let waiting = vm.wait(BOOT).await.map_err(|e| Error::internal(chain(e)))?;
    if let Err(error) = reduced {
        waiting.end().await;
        return Err(Error::internal("reduce the mount namespace").because(error));
    }
    Ok(waiting)
}

async fn remove(files: Files) {
    // Unmounting blocks.
    if let Err(error) = spawn_blocking(move || drop(files)).await {
        warn!("clean up after a VM: {error}");
    }
}
