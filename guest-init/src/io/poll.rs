//! Registers descriptors with the runtime's poller.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::sys::signalfd::SignalFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Owns one descriptor, which never changes.
pub trait Owner: AsRawFd {}

impl Owner for Arc<OwnedFd> {}
impl Owner for File {}
impl Owner for SignalFd {}

/// Registers `fd`, whose reads and writes must not block.
pub fn register<T: Owner>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: an Owner's descriptor stays the same and open until the AsyncFd drops the owner.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
