//! The volumes of a container that the host watches, as mounts of PID 1's own: the container's own kernel objects (its mount
//! namespace has the one instance of each volume's file system), out of the reach of what the container mounts or unmounts.
//!
//! They are copied in the container's mount namespace when the container is made, before anything of it runs. A container may
//! unmount a volume: then these are its last mounts, and must be let go as the container's are ([`super::held_mounts`]).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use guest_protocol::api::LookAgainRequest;
use guest_protocol::boot::volume_path;
use libcontainer::oci_spec::runtime::Spec;
use linux::mount_tree::{self, Attributes};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use nix::sys::stat::Mode;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};

use super::look_again;
use super::look_cgroup::LookCgroup;
use crate::cgroup::Cgroup;
use crate::process::fork::{EXTRA_FD, fork_quietly};
use crate::process::reaper::Reaper;

/// How many volumes of a container are watched: one message takes two descriptors of each. Source: unix(7), SCM_MAX_FD (253).
const MOST: usize = 120;

/// How long the end of a container waits for a look that is under way and was ended.
const ENDED: Duration = Duration::from_secs(1);

/// A volume of a container.
pub struct Volume {
    pub number: u32,
    /// Through which attributes can be changed.
    pub mount: OwnedFd,
    /// Through which nothing can be made.
    pub read_only: OwnedFd,
}

/// The watched volumes of a container. Clones share them.
#[derive(Clone, Default)]
pub struct Volumes {
    all: Arc<Mutex<Vec<Volume>>>,
    /// Held by who looks, one at a time.
    looking: Arc<tokio::sync::Mutex<()>>,
    ended: Arc<tokio::sync::Notify>,
}

/// Where the volumes with these `numbers` are in container `id`.
pub fn places(spec: &Spec, id: &str, numbers: &[u32]) -> Vec<(u32, PathBuf)> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let place = |number: &u32| {
        let source = format!("/{}", volume_path(id, *number as usize));
        let mount = mounts.iter().find(|mount| mount.source().as_deref() == Some(Path::new(&source)))?;
        Some((*number, mount.destination().clone()))
    };
    numbers.iter().filter_map(place).take(MOST).collect()
}

/// The way from the fork that makes a container to PID 1.
pub fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// In the fork: sends those of `watched` that are there to PID 1, out of the mount namespace of process `pid`. It stays there.
pub fn send(pid: i32, watched: &[(u32, PathBuf)]) -> io::Result<()> {
    setns(File::open(format!("/proc/{pid}/ns/mnt"))?, CloneFlags::CLONE_NEWNS)?;
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let (mut numbers, mut mounts) = (Vec::new(), Vec::new());
    for (number, place) in watched {
        if let Ok(copies) = copy(&root, place) {
            numbers.extend(number.to_le_bytes());
            mounts.extend(copies);
        }
    }
    let descriptors: Vec<RawFd> = mounts.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(EXTRA_FD, &[IoSlice::new(&numbers)], &rights, MsgFlags::empty(), None)?;
    Ok(())
}

/// The mount at `place` below `root`: one that takes changes, as far as the host does, and one that does not.
fn copy(root: &OwnedFd, place: &Path) -> io::Result<[OwnedFd; 2]> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let there = openat2(root, place, how)?;
    if fstatfs(&there)?.filesystem_type() != FUSE_SUPER_MAGIC {
        return Err(io::Error::other("it is no volume of the host"));
    }
    let [mount, read_only] = [mount_tree::clone(&there, false)?, mount_tree::clone(&there, false)?];
    let apart = Attributes { propagation: libc::MS_PRIVATE, ..Attributes::default() };
    let writable = Attributes { clear: libc::MOUNT_ATTR_RDONLY, ..apart };
    mount_tree::set_attributes(&mount, false, writable)?;
    mount_tree::set_attributes(&read_only, false, Attributes { set: libc::MOUNT_ATTR_RDONLY, ..apart })?;
    Ok([mount, read_only])
}

impl Volumes {
    /// Takes the volumes that the fork sent, if it sent any.
    pub fn receive(&self, from: &OwnedFd) {
        match receive(from) {
            Ok(volumes) => *self.lock() = volumes,
            Err(err) => log::warn!("receive a container's volumes: {err}"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Volume>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the kernel look again at what `request` names, in a fork: a file system of the host may hang.
    pub async fn look_again(
        &self,
        reaper: &Reaper,
        request: LookAgainRequest,
        cgroup: &Cgroup,
    ) -> Result<()> {
        let ended = self.ended.notified();
        let looking = self.looking.clone().lock_owned().await;
        let began = std::time::Instant::now();
        let own = LookCgroup::make(&request.container_id).context("make a cgroup for a look")?;
        let helper = {
            let volumes = self.lock();
            if volumes.is_empty() {
                return Ok(());
            }
            let extra: Vec<BorrowedFd<'_>> =
                volumes.iter().flat_map(|volume| [volume.mount.as_fd(), volume.read_only.as_fd()]).collect();
            let numbers: Vec<u32> = volumes.iter().map(|volume| volume.number).collect();
            fork_quietly(reaper, &extra, |_| look_again::run(&request, &numbers, (cgroup, &own)))
                .context("fork PID 1")?
        };
        // It is ended when this is, and counts until it has gone: who hangs has no second one beside it.
        let _kill = helper.kill_on_drop().context("open a pidfd of the helper process")?;
        let end = tokio::spawn(async move {
            let status = helper.end().await;
            drop((own, looking));
            status
        });
        tokio::select! {
            status = end => {
                let status = status.context("wait for the helper process")?;
                anyhow::ensure!(status == 0, "the helper process ended with status {status}");
            }
            () = ended => {}
        }
        log::debug!("looked again within {:?}", began.elapsed());
        Ok(())
    }

    /// Ends a look that is under way, and answers the volumes, to be let go when the host has answered all requests about them.
    pub async fn end(&self) -> Vec<Volume> {
        let volumes = std::mem::take(&mut *self.lock());
        self.ended.notify_waiters();
        // The helper that was killed holds them until it has gone, which it does at once but for a host that hangs.
        let _ = tokio::time::timeout(ENDED, self.looking.lock()).await;
        volumes
    }
}

fn receive(from: &OwnedFd) -> nix::Result<Vec<Volume>> {
    let mut numbers = [0; 4 * MOST];
    let mut space = nix::cmsg_space!([RawFd; 2 * MOST]);
    let mut slices = [IoSliceMut::new(&mut numbers)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<()>(from.as_raw_fd(), &mut slices, Some(&mut space), flags) {
        Err(Errno::EAGAIN) => return Ok(Vec::new()),
        message => message?,
    };
    let mut mounts = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just made them for this process, and nobody else knows them.
            mounts.extend(descriptors.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = message.bytes;
    let mut mounts = mounts.into_iter();
    let numbers = numbers[..length].as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    Ok(numbers
        .map_while(|number| Some(Volume { number, mount: mounts.next()?, read_only: mounts.next()? }))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_where_the_spec_binds_its_part_of_the_share() {
        let spec = serde_json::json!({"ociVersion": "1.0.2", "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "/containers/c1/mounts/0"},
            {"destination": "/more", "type": "bind", "source": "/containers/c1/mounts/10"},
        ]});
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let expected = [(10, PathBuf::from("/more")), (0, PathBuf::from("/data"))];
        assert_eq!(places(&spec, "c1", &[10, 1, 0]), expected);
        assert!(places(&spec, "c", &[0]).is_empty());
    }

    #[test]
    fn a_fork_that_sent_nothing_is_not_waited_for() {
        let (ours, _theirs) = channel().unwrap();
        assert!(receive(&ours).unwrap().is_empty());
    }
}
