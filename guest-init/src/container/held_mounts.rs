//! Holds a container's mounts until its processes are gone and the host has answered the kernel's last requests.
//!
//! The kernel mounts a volume where it is first used: in the container's mount namespace alone. The end of the container's
//! last process would unmount it. That unmount does not wait for requests that the process left unanswered, such as the
//! closing of a file that it wrote: Linux 6.12.91 then reports "VFS: Busy inodes after unmount of virtiofs", a BUG, and the
//! process never ends.

use std::fs::{self, File};
use std::io;

use nix::sys::statfs::statfs;

/// The directory in which the kernel counts each file system's unanswered requests. Source: Documentation/filesystems/fuse.rst.
pub const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Keeps a mount namespace alive.
pub struct HeldMounts(File);

impl HeldMounts {
    /// Holds the mounts of process `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: i32) -> io::Result<HeldMounts> {
        Ok(HeldMounts(File::open(format!("/proc/{pid}/ns/mnt"))?))
    }

    /// Lets go of the mounts, once the host has written what the container's processes wrote.
    pub fn release(self) {
        // The kernel sends requests in order, and libkrun answers them in order. So each answer to a statfs comes after the
        // answer to at least one of the requests that wait now. The loop is bounded, as other containers may always have
        // requests.
        for _ in 0..=unanswered() {
            let _ = statfs("/");
            if unanswered() == 0 {
                break;
            }
        }
        drop(self.0);
    }
}

/// The number of requests that the host has not answered; 0 where the kernel does not count them.
fn unanswered() -> u64 {
    let connections = fs::read_dir(CONNECTIONS).into_iter().flatten().flatten();
    let counts =
        connections.filter_map(|connection| fs::read_to_string(connection.path().join("waiting")).ok());
    counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum()
}
