//! The disks that the vmm inherits, which stay open: libkrun opens them once more.

use std::os::fd::OwnedFd;

use nix::sys::stat::{SFlag, fstat};
use vm_launcher::{
    disk::Kind,
    order::{DISK_FD, Order},
};

use crate::become_vm::inherited;

/// A file that libkrun opens in the jail.
pub struct Opened {
    /// Its path there.
    pub path: String,
    /// Whether libkrun writes to it.
    pub is_written: bool,
    /// Whether it is a block device, which libkrun asks for its size.
    pub is_device: bool,
}

/// The files of an order's disks.
pub struct Disks {
    kinds: Vec<Kind>,
    files: Vec<OwnedFd>,
}

impl Disks {
    /// Takes them.
    ///
    /// # Safety
    /// They must be open, from [`DISK_FD`] on, and owned by nobody else.
    pub unsafe fn of(order: &Order) -> Disks {
        let numbers = (DISK_FD..).take(order.disks.len());
        // SAFETY: the caller's promise.
        let files = numbers.map(|number| unsafe { inherited(number) }).collect();
        Disks { kinds: order.disks.clone(), files }
    }

    /// What they are.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// Their files, as libkrun opens them.
    pub fn opened(&self) -> impl Iterator<Item = Opened> {
        self.kinds.iter().zip(&self.files).enumerate().map(|(number, (kind, file))| Opened {
            path: path(number),
            is_written: !kind.read_only,
            is_device: is_device(file),
        })
    }
}

fn is_device(file: &OwnedFd) -> bool {
    let mode = fstat(file).map_or(0, |stat| stat.st_mode);
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFBLK
}

/// The path of disk `number`: a link to what is open; nothing is looked up.
pub fn path(number: usize) -> String {
    format!("/proc/self/fd/{}", DISK_FD as usize + number)
}
