//! What was made for a container on the host, and undoing it: the one place that knows the order.

use std::sync::Arc;

use log::warn;
use tokio::{task::spawn_blocking, time::timeout};

use super::vm::{GONE, Vm};
use crate::{
    files::disk::NewDisk,
    hooks::ContainerHooks,
    sandbox::host::{Anchor, Cgroup, Host},
};

/// The host's side of a container. Each part is there once it was made; [`undo`](HostSide::undo) goes backwards.
pub struct HostSide<H: Host> {
    pub cgroup: Option<Arc<H::Cgroup>>,
    pub rootfs: Option<H::Rootfs>,
    /// The disk that was made for it, until it is created.
    pub disk: Option<NewDisk>,
    pub anchor: Option<Arc<H::Anchor>>,
    pub seat: Option<<H::Cgroup as Cgroup>::Seat>,
    /// The hooks before the start were run, as far as they went: those after the end must be.
    pub hooked: bool,
    pub hooks: Arc<ContainerHooks>,
    /// The VM, where it lives and dies with this container.
    pub vm: Option<Arc<Vm<H>>>,
    pub share: Option<<H::Machine as crate::sandbox::host::Machine<H::Cgroup>>::Share>,
}

impl<H: Host> HostSide<H> {
    /// That of a container for which nothing is made yet.
    pub fn new(hooks: Arc<ContainerHooks>) -> HostSide<H> {
        HostSide {
            cgroup: None,
            rootfs: None,
            disk: None,
            anchor: None,
            seat: None,
            hooked: false,
            hooks,
            vm: None,
            share: None,
        }
    }

    /// Undoes everything, last made first. What fails is logged. No process of the container is left before its files go.
    pub async fn undo(self) {
        let HostSide { cgroup, rootfs, disk, anchor, seat, hooked, hooks, vm, share } = self;
        if let Some(vm) = &vm {
            vm.dismiss();
            vm.end().await;
        }
        failpoint!("delete.vm-ended");
        if let Some(anchor) = &anchor {
            anchor.kill();
            if timeout(GONE, anchor.ended()).await.is_err() {
                warn!("the anchor of {} was killed and has not gone within {GONE:?}", hooks.container());
            }
        }
        // Unmounting and removing block.
        let undone = spawn_blocking(move || {
            failpoint!(blocking "delete.anchor-ended");
            drop(share);
            failpoint!(blocking "delete.share");
            drop(vm);
            failpoint!(blocking "delete.vm");
            drop(seat);
            drop(anchor);
            if let Some(disk) = disk {
                disk.remove();
            }
            drop(rootfs);
            failpoint!(blocking "delete.rootfs");
            drop(cgroup);
            failpoint!(blocking "delete.cgroup");
        });
        if let Err(error) = undone.await {
            warn!("clean up after {}: {error}", hooks.container());
        }
        if hooked {
            hooks.poststop().await;
        }
    }
}
