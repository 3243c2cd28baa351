//! Volumes: what a container sees of the host besides its rootfs. A new kind is a variant here, with its way to the guest.

use guest_protocol::boot::{socket_path, volume_path};
use oci_spec::runtime::Mount;

use super::Owners;
use crate::files::{
    mount::ReadOnly,
    pin::{Pinned, Socket, Source},
};

/// What a bind mount of a spec shows.
#[derive(Debug, Clone)]
pub enum Volume {
    /// A directory or file, which the shim binds into the share.
    Files(FileVolume),
    /// A unix socket: virtiofs carries none, so the guest listens in its place, and the shim relays to the server.
    Socket(Socket),
}

/// A directory or file of the host.
#[derive(Debug, Clone)]
pub struct FileVolume {
    /// What is shared.
    pub source: Pinned,
    /// Whether that is a directory.
    pub is_directory: bool,
    /// Whether the mounts below it are shared too.
    pub recursive: bool,
    /// What of it the host makes read-only in the share.
    pub read_only: ReadOnly,
    /// Whether what the host mounts below it later is shared too.
    pub follows: bool,
    /// To whom its files belong, if not to those on the host.
    pub owners: Option<Owners>,
}

impl Volume {
    /// The volume that `mount`, a bind of `source`, asks for.
    pub fn new(mount: &Mount, source: Source, owners: Option<Owners>) -> Volume {
        let (source, is_directory) = match source {
            Source::Socket(socket) => return Volume::Socket(socket),
            Source::Directory { file, .. } => (file, true),
            Source::File(file) => (file, false),
        };
        let has = |option: &str| mount.options().iter().flatten().any(|o| o == option);
        let read_only = if has("rro") {
            ReadOnly::All
        } else if has("ro") {
            ReadOnly::Top
        } else {
            ReadOnly::Nothing
        };
        let follows = ["slave", "rslave", "shared", "rshared"].into_iter().any(has);
        Volume::Files(FileVolume {
            source,
            is_directory,
            recursive: has("rbind"),
            read_only,
            follows,
            owners,
        })
    }

    /// Where the guest finds volume `number` of a container.
    pub fn path_in_guest(&self, container: &str, number: usize) -> String {
        match self {
            Volume::Files(_) => format!("/{}", volume_path(container, number)),
            Volume::Socket(_) => socket_path(container, number),
        }
    }
}
