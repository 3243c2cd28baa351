//! A container's mounts, held until its processes are gone and the kernel is done with them.
//!
//! A volume is mounted by the kernel where it is first used, which is in the container's mount namespace alone: it would be
//! unmounted with the container's last process. The kernel does not wait there for what it still asks of the host in that
//! process's name, as the closing of a file that it wrote: "VFS: Busy inodes after unmount of virtiofs", a BUG (seen with
//! Linux 6.12.91), and the process never ends.

use std::fs::{self, File};
use std::io;

use nix::sys::statfs::statfs;

/// Where the kernel counts the requests that file systems have not answered. Source: Documentation/filesystems/fuse.rst.
pub const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// A mount namespace, which lives at least as long as this.
pub struct HeldMounts(File);

impl HeldMounts {
    /// Those of the process `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: i32) -> io::Result<HeldMounts> {
        Ok(HeldMounts(File::open(format!("/proc/{pid}/ns/mnt"))?))
    }

    /// Lets go of them. What they held back is written when this returns.
    pub fn release(self) {
        // The kernel asks in order, a few at a time, and libkrun answers in order: each answer to this comes after that to at
        // least one of the requests that are under way now. Other containers may always have some.
        for _ in 0..=unanswered() {
            let _ = statfs("/");
            if unanswered() == 0 {
                break;
            }
        }
        drop(self.0);
    }
}

/// The number of requests that the host has not answered; 0 where the kernel does not say.
fn unanswered() -> u64 {
    let connections = fs::read_dir(CONNECTIONS).into_iter().flatten().flatten();
    let counts =
        connections.filter_map(|connection| fs::read_to_string(connection.path().join("waiting")).ok());
    counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum()
}
