//! What the pool says to a shim, from its question to the end of the VM that it took.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use linux::descriptors;
use log::{debug, info, warn};
use rustix::net::{Shutdown, shutdown};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use vm_launcher::Left;

use super::{
    keeper::Pool,
    kind::Kind,
    wire::{LONGEST, TAKE},
};
use crate::files::state_dir;

/// How long a shim may take to say what it wants.
const ASKS: Duration = Duration::from_secs(1);

/// How long a shim may think about an offer: it prepares the host meanwhile, and runs hooks.
const THINKS: Duration = Duration::from_secs(120);

impl Pool {
    /// Answers a shim.
    pub(super) async fn serve(self: Arc<Self>, mut shim: UnixStream) {
        let Some(kind) = question(&mut shim).await else { return };
        let Some(vm) = self.stock.lend(&kind) else {
            debug!("no VM waits that is as it is wanted: {kind:?}");
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
