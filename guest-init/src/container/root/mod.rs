//! A container's root file system where it is the guest's own, and not a part of the share.
//!
//! It is mounted in the fork that makes the container, in a mount namespace of the fork's own, and so is the container's alone: it
//! goes with the container's last mount.

mod disk;
mod image;
mod loop_device;
mod overlay;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use guest_protocol::api::CreateContainerRequest;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::syncfs;

use crate::process::fork::{EXTRA_FD, fork_quietly};
use crate::process::reaper::Reaper;

use image::Image;
use overlay::Overlay;

pub use disk::device_of;

/// A root of the guest's own.
#[derive(Clone, Debug)]
pub struct OwnRoot {
    kind: Kind,
    /// What is written to it is found again by a container of a later VM.
    is_kept: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Overlay(Overlay),
    Image(Image),
}

impl OwnRoot {
    /// The root that `request` asks for; none where it is a part of the share.
    ///
    /// # Errors
    /// When what it needs is not there.
    pub fn of(request: &CreateContainerRequest) -> Result<Option<OwnRoot>> {
        let id = &request.container_id;
        if let Some(image) = request.image.as_ref() {
            return Ok(Some(OwnRoot { kind: Kind::Image(Image::of(id, image)?), is_kept: true }));
        }
        let upper = request.upper.enum_value_or_default();
        let Some(place) = disk::Place::of(id, upper)? else { return Ok(None) };
        let is_kept = place.is_kept;
        Ok(Some(OwnRoot { kind: Kind::Overlay(Overlay::new(id, place, request.layers)), is_kept }))
    }

    /// In a fork: mounts it on `rootfs`, in a mount namespace of the fork's own.
    ///
    /// # Errors
    /// The kernel's, with what could not be mounted.
    pub fn mount(&self, rootfs: &Path) -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        match &self.kind {
            Kind::Overlay(overlay) => overlay.mount(rootfs),
            Kind::Image(image) => image.mount(rootfs),
        }
    }

    /// What is to be written when the container has ended, whose process is `pid`; none where nothing is kept.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn hold(&self, pid: i32) -> io::Result<Option<Held>> {
        self.is_kept.then(|| Ok(Held(File::open(format!("/proc/{pid}/root"))?.into()))).transpose()
    }

    /// Removes what a container wrote that is gone and that nobody finds again, in a fork that nobody waits for.
    ///
    /// # Errors
    /// When there is no fork.
    pub fn forget(&self, reaper: &Reaper) -> io::Result<()> {
        match &self.kind {
            Kind::Overlay(overlay) if !self.is_kept => overlay.forget(reaper),
            Kind::Overlay(_) | Kind::Image(_) => Ok(()),
        }
    }
}

/// The root of a container, as long as it is not written.
pub struct Held(OwnedFd);

impl Held {
    /// Has the kernel write all of it, in a fork, as that may take long.
    ///
    /// # Errors
    /// The file system's.
    pub async fn write(self, reaper: &Reaper) -> Result<()> {
        // Its first extra descriptor is the root.
        let sync = |_| {
            // SAFETY: the descriptor is the fork's for as long as it runs.
            let root = unsafe { BorrowedFd::borrow_raw(EXTRA_FD) };
            syncfs(root).map_or_else(|errno| errno as i32, |()| 0)
        };
        let status = fork_quietly(reaper, &[self.0.as_fd()], sync).context("fork PID 1")?.end().await;
        ensure!(status == 0, "{}", Errno::from_raw(status as i32));
        Ok(())
    }
}

fn errno(err: &io::Error) -> i32 {
    err.raw_os_error().unwrap_or(libc::EIO)
}

/// An error that says what was done.
fn failed(what: &str, path: &Path, err: impl Into<io::Error>) -> io::Error {
    let err = err.into();
    io::Error::new(err.kind(), format!("{what} {}: {err}", path.display()))
}
