//! The disks that the vmm inherits, which stay open: libkrun opens them once more.

use std::os::fd::OwnedFd;

use vm_launcher::{
    disk::Kind,
    order::{DISK_FD, Order},
};

use crate::become_vm::inherited;

/// The files of an order's disks.
pub struct Disks {
    kinds: Vec<Kind>,
    _files: Vec<OwnedFd>,
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
        Disks { kinds: order.disks.clone(), _files: files }
    }

    /// What they are.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The path of each, and whether it is written to.
    pub fn paths(&self) -> impl Iterator<Item = (String, bool)> {
        self.kinds.iter().enumerate().map(|(number, kind)| (path(number), !kind.read_only))
    }
}

/// The path of disk `number`: a link to what is open; nothing is looked up.
pub fn path(number: usize) -> String {
    format!("/proc/self/fd/{}", DISK_FD as usize + number)
}
