//! Where a pool listens: there is one at a time.

#![expect(clippy::disallowed_methods, reason = "a constant path, in a directory that lets in root alone")]

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
};

use log::warn;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::net::{UnixListener, UnixStream};

use super::wire::SOCKET;
use crate::files::state_dir;

/// The place, which another pool can have when this is dropped.
pub struct Place {
    listener: Option<UnixListener>,
    _lock: Flock<File>,
}

impl Place {
    /// Takes it, and removes what a pool has left that was killed: its VMs have ended with it.
    ///
    /// # Errors
    /// When another pool has it; the socket's.
    pub fn take() -> io::Result<Place> {
        let lock = Place::lock()?;
        let listener = UnixListener::bind(SOCKET)?;
        let place = Place { listener: Some(listener), _lock: lock };
        fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o600))?;
        Ok(place)
    }

    /// Removes what a pool has left that was killed.
    ///
    /// # Errors
    /// When another pool has the place; the file system's.
    pub fn clean() -> io::Result<()> {
        Place::lock().map(drop)
    }

    /// Locks the place, and clears it.
    fn lock() -> io::Result<Flock<File>> {
        let lock = Flock::lock(state_dir::root()?, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => io::Error::other("another pool runs"),
            errno => errno.into(),
        })?;
        match state_dir::waiting() {
            Ok(names) => names.iter().for_each(|name| state_dir::remove_waiting(name)),
            Err(error) => warn!("look for what an earlier pool has left: {error}"),
        }
        let _ = fs::remove_file(SOCKET);
        Ok(lock)
    }

    /// Accepts a shim's connection, until it is closed.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        match &self.listener {
            Some(listener) => listener.accept().await.map(|(shim, _)| shim),
            None => std::future::pending().await,
        }
    }

    /// Accepts no more of them. Nobody else has the place yet.
    pub fn close(&mut self) {
        if self.listener.take().is_some() {
            let _ = fs::remove_file(SOCKET);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.close();
    }
}
