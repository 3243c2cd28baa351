//! A file of the host, or a block device, that is a disk of the VM.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

/// Maximum length of a disk's name. Source: `VIRTIO_BLK_ID_BYTES` of linux/virtio_blk.h.
pub const MAX_NAME: usize = 20;

/// An open disk. It is passed to the vmm as a descriptor, which reaches nothing else through it.
#[derive(Debug, Clone)]
pub struct Disk {
    file: Arc<OwnedFd>,
    kind: Kind,
}

/// What a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// The name by which the guest finds it, its serial number: 1 to [`MAX_NAME`] of A-Z a-z 0-9 - and _.
    pub name: String,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// Whether the guest's flushes reach the host's disk: what the guest has synced then outlives a crash of the host. Without, it
    /// outlives the VM, and a flush costs nothing.
    pub durable: bool,
}

impl Disk {
    /// A disk whose contents are those of `file`, which is open for reading, and for writing unless the disk is to be read-only.
    /// The size that the file has at the launch is the disk's.
    pub fn new(file: OwnedFd, kind: Kind) -> Disk {
        Disk { file: Arc::new(file), kind }
    }

    /// What it is.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Its file, for the vmm.
    pub(crate) fn inherited(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }
}

impl Kind {
    /// Whether the guest can find it by its name.
    pub(crate) fn has_name(&self) -> bool {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        (1..=MAX_NAME).contains(&self.name.len()) && self.name.chars().all(good)
    }
}

/// The same open file.
impl PartialEq for Disk {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file) && self.kind == other.kind
    }
}

impl Eq for Disk {}
