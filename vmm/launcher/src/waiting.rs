//! A VM whose guest is up and was told nothing yet. It can go to another process, which has it as if it had launched it.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::Path,
    time::Duration,
};

use linux::{pidfd::Pidfd, scheduling, spawn::Child};
use nix::sys::signal::Signal;
use tokio::net::UnixStream;

use crate::{ExitStatus, GuestError, Vm, VmEnd, guest::Connections};

/// A VM that waits for who uses it. It was launched to be [given away](crate::VmConfig::given_away), and gets the CPU only
/// while no other process wants it. Dropping it kills it.
pub struct Waiting {
    vm: Vm,
    stderr: OwnedFd,
    connections: Connections,
}

/// The descriptors with which a process owns a VM: those of a [`Waiting`], or copies of them that another process has got.
pub struct Handle<Fd = OwnedFd> {
    /// The vmm, as pidfd_open(2) gives it.
    pub process: Fd,
    /// The pipe that ends the vmm when all copies are closed.
    pub life: Fd,
    /// The pipe that has what the vmm writes to stderr.
    pub stderr: Fd,
    /// The guest's connection for calls.
    pub control: Fd,
    /// The guest's connection for streams.
    pub streams: Fd,
}

/// A vmm of ours that is another process's VM.
pub struct Left(Child);

impl Vm {
    /// Waits until the guest connects, as [`Vm::guest`] does, and has the VM wait for who uses it.
    ///
    /// # Errors
    /// As of [`Vm::guest`], and for a VM that is not to be given away; it is gone then.
    pub async fn wait(mut self, boot_timeout: Duration) -> Result<Waiting, GuestError> {
        let stderr = self.take_stderr().ok_or(GuestError::NotGivenAway)?;
        match self.connections(boot_timeout).await {
            Ok(connections) => Ok(Waiting { vm: self, stderr, connections }),
            Err(error) => {
                self.end().await;
                Err(error)
            }
        }
    }

    /// The VM of a handle, whose sender has [left](Waiting::leave) it or will. How its vmm ends is known as long as the sender does not
    /// [end](Left::end) it, and lives: `until_end` is dropped once it is known. `vmm` is its program.
    ///
    /// To be called within a tokio runtime that has its I/O and time drivers.
    ///
    /// # Errors
    /// When it has ended; when a descriptor is not what it should be.
    pub fn of_handle(vmm: &Path, handle: Handle, until_end: impl Send + 'static) -> io::Result<Vm> {
        let process = Pidfd::from(handle.process);
        scheduling::set(&process, scheduling::Policy::Normal)?;
        let stream = |fd: OwnedFd| {
            let stream = StdStream::from(fd);
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        };
        let connections = Connections { control: stream(handle.control)?, streams: stream(handle.streams)? };
        Vm::adopt(vmm, process, (handle.life, handle.stderr), connections, Box::new(until_end))
    }
}

impl Waiting {
    /// Waits until the vmm has ended, which it should not, or was [left](Waiting::leave).
    pub fn ended(&self) -> impl Future<Output = VmEnd> + Send + 'static {
        self.vm.until_end()
    }

    /// How the vmm has ended, if it has.
    pub fn end_of(&self) -> Option<VmEnd> {
        self.vm.end_of()
    }

    /// What another process needs.
    pub fn handle(&self) -> Handle<BorrowedFd<'_>> {
        Handle {
            process: self.vm.process().as_fd(),
            life: self.vm.life().as_fd(),
            stderr: self.stderr.as_fd(),
            control: self.connections.control.as_fd(),
            streams: self.connections.streams.as_fd(),
        }
    }

    /// Kills it, and does not wait.
    pub fn kill(&self) {
        // What it has to give back, others may wait for.
        let _ = scheduling::set(self.vm.process(), scheduling::Policy::Normal);
        self.vm.kill();
    }

    /// Kills it, and waits until it is gone, for 10 s at most.
    pub async fn end(self) {
        self.kill();
        self.vm.end().await;
    }

    /// Leaves it to who has its handle.
    pub fn leave(self) -> Left {
        Left(self.vm.leave())
    }
}

impl Left {
    /// Kills it, unless it has ended, and reaps it. Until then its pid is no other process's.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub async fn end(self) -> io::Result<ExitStatus> {
        self.0.kill(Signal::SIGKILL);
        self.0.ended().await
    }
}
