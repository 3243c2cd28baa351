//! The boot file: all that PID 1 knows before it has dialled the host.
//!
//! It is a virtual file in the guest's root, made by the vmm; it holds nothing about the
//! containers to come, which arrive over the control connection.

use serde::{Deserialize, Serialize};

/// Name of PID 1's executable in the guest's root directory (a virtual file).
pub const INIT_NAME: &str = "init.krun";

/// Name of the boot file in the guest's root directory (a virtual file).
pub const FILE_NAME: &str = "boot.krun";

/// vsock port on the host (CID 2) that PID 1 dials.
pub const VSOCK_PORT: u32 = 1024;

/// Directories of the guest's root that PID 1 mounts on, and that whoever prepares the share makes:
/// the root is read-only for the guest.
pub const MOUNT_POINTS: [&str; 5] = ["proc", "sys", "dev", "run", "tmp"];

/// Where the share holds container `id`'s rootfs, seen from the share's top.
pub fn rootfs_path(container_id: &str) -> String {
    format!("containers/{container_id}/rootfs")
}

/// Where the share holds volume `number` of container `id`, seen from the share's top.
pub fn volume_path(container_id: &str, number: usize) -> String {
    format!("containers/{container_id}/mounts/{number}")
}

/// Below this PID 1 keeps what it has of each container, in a directory of its id.
pub const RUN_DIR: &str = "/run/krun";

/// Where PID 1 listens for the clients of socket `number` of container `id`.
pub fn socket_path(container_id: &str, number: usize) -> String {
    format!("{RUN_DIR}/{container_id}/sockets/{number}")
}

/// What a namespace's path in a spec begins with that is another container's of the VM; that
/// container's id follows.
pub const NAMESPACE_OF: &str = "/containers/";

/// Exit status of a VM whose init never set one: PID 1 sets it first of all, so that a VM that
/// dies without a word is told apart from one that ended well (libkrun reports 0 for a panic).
pub const SENTINEL_STATUS: u8 = 254;

/// Exit status of a VM whose PID 1 gave up by itself, for want of something it needs.
pub const GAVE_UP_STATUS: u8 = 253;

/// What PID 1 reads at boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootConfig {
    /// Proves to the host that a connection comes from PID 1: 64 hexadecimal digits.
    pub nonce: String,
    /// Log at debug level.
    pub debug: bool,
}
