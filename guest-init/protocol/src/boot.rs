//! The boot file, which is all that PID 1 knows before it dials the host, and the paths that both sides agree on.
//!
//! The vmm makes the boot file, a virtual file in the guest's root. It holds nothing about containers: those arrive over
//! the control connection.

use serde::{Deserialize, Serialize};

/// Name of PID 1's executable in the guest's root directory (a virtual file).
pub const INIT_NAME: &str = "init.krun";

/// Name of the boot file in the guest's root directory (a virtual file).
pub const FILE_NAME: &str = "boot.krun";

/// vsock port on the host (CID 2) that PID 1 dials.
pub const VSOCK_PORT: u32 = 1024;

/// Directories of the guest's root that PID 1 mounts on. The host makes them in the share, as the guest's root is
/// read-only for the guest.
pub const MOUNT_POINTS: [&str; 5] = ["proc", "sys", "dev", "run", "tmp"];

/// The path of a container's rootfs in the share.
pub fn rootfs_path(container_id: &str) -> String {
    format!("containers/{container_id}/rootfs")
}

/// The path of volume `number` of a container in the share.
pub fn volume_path(container_id: &str, number: usize) -> String {
    format!("containers/{container_id}/mounts/{number}")
}

/// The path of layer `number` of a container's image in the share, where the guest mounts them itself.
pub fn layer_path(container_id: &str, number: usize) -> String {
    format!("containers/{container_id}/layers/{number}")
}

/// The path in the share of a file with the file system that is a container's rootfs.
pub fn image_path(container_id: &str) -> String {
    format!("containers/{container_id}/image")
}

/// The name of the disk with the file system that is a container's rootfs: its serial number.
pub const ROOT_DISK: &str = "root";

/// The name of the disk that takes what containers write to their roots: its serial number.
pub const UPPER_DISK: &str = "upper";

/// An owner and group that no file has. A change of both to this does nothing on the host, and succeeds: the guest's kernel
/// then asks for the file's attributes, and tells whoever watches the file. The largest id; the next is "unchanged" (chown(2)).
pub const UNCHANGED_OWNER: u32 = u32::MAX - 1;

/// PID 1 keeps its files of each container below this, in a directory named after its id.
pub const RUN_DIR: &str = "/run/krun";

/// The path on which PID 1 listens for the clients of socket `number` of a container.
pub fn socket_path(container_id: &str, number: usize) -> String {
    format!("{RUN_DIR}/{container_id}/sockets/{number}")
}

/// Begins the path of a namespace in a spec that is another container's; the id of that container follows.
pub const NAMESPACE_OF: &str = "/containers/";

/// Exit status of a VM that died. PID 1 sets it first of all, because libkrun reports 0 for a guest's panic.
pub const SENTINEL_STATUS: u8 = 254;

/// Exit status of a VM whose PID 1 could not go on.
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
