//! A shim's side: it asks as soon as it knows what it wants, and looks for the answer when it needs the VM.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use linux::descriptors;
use log::{info, warn};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt::PeerCredentials,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{runtime, time::timeout};
use ttrpc::context;
use vm_launcher::{Guest, Vm, guest_protocol::api};

use super::{
    kind::Kind,
    wire::{Descriptors, LONGEST, Offer, SOCKET, TAKE},
};
use crate::{
    config::Config,
    error::{Error, Result},
    files::{
        share::Share,
        state_dir::{self, StateDir},
    },
    host::parts::{Parts, chain},
    network::{Mode, Netns},
    sandbox::krun::clock::now_ns,
};

/// How much longer than a VM's preparation the pool's answer may take.
const PATIENCE: Duration = Duration::from_millis(5);

/// How long a guest that has waited may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// A question to the pool. The pool has what it offered back when this is dropped.
pub struct Asked {
    socket: OwnedFd,
}

/// A VM that was booted before, and is ours.
pub struct Taken {
    pub vm: Vm,
    pub guest: Guest,
    pub share: Share,
    pub state: StateDir,
    /// The network namespace that has its tap.
    pub netns: Netns,
}

impl Asked {
    /// Asks for a VM of this configuration, with this AppArmor profile of its vmm, unless there is no pool or it could have none.
    pub fn of(config: &Config, apparmor_profile: Option<&str>) -> Option<Asked> {
        if config.network == Mode::Tsi || config.nested_virt || config.debug_console.is_some() {
            return None;
        }
        let socket = dial().ok()?;
        let parts = Parts::find(config).ok()?;
        let asked = Kind::of(config, apparmor_profile, &parts).ok()?;
        let mut line = serde_json::to_vec(&asked).ok()?;
        line.push(b'\n');
        descriptors::send(&socket, &line, &[]).ok()?;
        Some(Asked { socket })
    }

    /// Takes what the pool offers for a sandbox, which is named with containerd's namespace before it. None comes when the pool offers
    /// nothing, or the VM is not well. `vmm` is the vmm's program. It blocks, but not for long, and is to be called within a tokio
    /// runtime whose threads go on meanwhile.
    pub fn take(self, sandbox: (&str, &str), vmm: &Path) -> Option<Taken> {
        let (offer, found) = match self.offer() {
            Ok(offered) => offered?,
            Err(error) => {
                warn!("the pool gives no VM: {error}");
                return None;
            }
        };
        if let Err(error) = descriptors::send(&self.socket, &[TAKE], &[]) {
            info!("the pool has its VM back: {error}");
            return None;
        }
        // From here on it is nobody else's.
        let taken = self.take_over(&offer.name, sandbox, vmm, found);
        taken.inspect_err(|error| warn!("a VM of the pool is of no use: {error}")).ok()
    }

    fn offer(&self) -> io::Result<Option<(Offer, Descriptors)>> {
        let patience = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&patience))? == 0 {
            info!("the pool does not answer");
            return Ok(None);
        }
        let mut buffer = [0; LONGEST];
        let (length, found) = descriptors::receive(&self.socket, &mut buffer)?;
        if length == 0 {
            return Ok(None);
        }
        let offer = serde_json::from_slice(&buffer[..length])?;
        let found = Descriptors::of(found).ok_or_else(|| io::Error::other("its descriptors are others"))?;
        Ok(Some((offer, found)))
    }

    fn take_over(
        self,
        name: &str,
        sandbox: (&str, &str),
        vmm: &Path,
        Descriptors { vm, share, netns, directory }: Descriptors,
    ) -> Result<Taken> {
        // While the socket is open, the pool does not reap the vmm: its pid is no other process's, and how it ends can be seen. When
        // it closes, the pool kills the vmm and removes the directory that it had, if they are there.
        let vm = Vm::of_handle(vmm, vm, self.socket);
        let vm = vm.map_err(|e| Error::internal("have a VM that has waited").because(e))?;
        let take = || {
            let guest = greet(&vm)?;
            let state = StateDir::take_over(name, sandbox)?;
            let share = Share::of_handle(state.path(), state_dir::SHARE, share);
            Ok((guest, state, share))
        };
        match take() {
            Ok((guest, state, share)) => Ok(Taken { vm, guest, share, state, netns: Netns::from_fd(netns) }),
            Err(error) => {
                // From here on the pool may remove it.
                drop(directory);
                // Its process must be gone before its files are.
                runtime::Handle::current().block_on(vm.end());
                Err(error)
            }
        }
    }
}

/// The guest of a VM that has waited, once it has shown that it lives.
fn greet(vm: &Vm) -> Result<Guest> {
    let answered = runtime::Handle::current().block_on(timeout(ANSWER, async {
        let guest = vm.guest(ANSWER).await.map_err(|e| Error::internal(chain(e)))?;
        let request = api::SetClockRequest { realtime_ns: now_ns(), ..Default::default() };
        guest.client.set_clock(context::with_duration(ANSWER), &request).await?;
        Ok(guest)
    }));
    answered.map_err(|_| Error::internal("its guest does not answer"))?
}

/// Connects to the pool, which is root's, and does not wait.
fn dial() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect_to(&socket)?;
    match getsockopt(&socket, PeerCredentials)?.uid() {
        0 => Ok(socket),
        uid => Err(io::Error::other(format!("{SOCKET} is uid {uid}'s"))),
    }
}

#[expect(clippy::disallowed_methods, reason = "a constant path, in a directory that lets in root alone")]
fn connect_to(socket: &OwnedFd) -> io::Result<()> {
    Ok(connect(socket.as_raw_fd(), &UnixAddr::new(SOCKET)?)?)
}
