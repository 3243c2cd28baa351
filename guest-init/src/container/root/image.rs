//! A file system that is a container's whole root: on a disk of the VM's, or in a file in the share.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use guest_protocol::api;
use guest_protocol::boot::{ROOT_DISK, image_path};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::{disk, failed, loop_device};

/// A file system.
#[derive(Clone, Debug)]
pub struct Image {
    source: PathBuf,
    in_file: bool,
    kind: String,
    options: String,
}

impl Image {
    /// The one of container `id`.
    ///
    /// # Errors
    /// When the VM has no disk for it.
    pub fn of(id: &str, image: &api::Image) -> Result<Image> {
        let source = match image.in_file {
            true => Path::new("/").join(image_path(id)),
            false => disk::device_of(ROOT_DISK)?,
        };
        let (kind, options) = (image.type_.clone(), image.options.clone());
        Ok(Image { source, in_file: image.in_file, kind, options })
    }

    /// In a fork: mounts it on `rootfs`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mount(&self, rootfs: &Path) -> io::Result<()> {
        let (kind, options) = (self.kind.as_str(), self.options.as_str());
        let mount_from =
            |source: &Path| mount(Some(source), rootfs, Some(kind), MsFlags::empty(), Some(options));
        let mounted = match self.in_file {
            // It has its device until it is unmounted.
            true => mount_from(&loop_device::of(&self.source, false)?.path()),
            false => mount_from(&self.source),
        };
        mounted.map_err(|errno| match errno {
            Errno::EINVAL | Errno::EUCLEAN => {
                io::Error::other(format!("the snapshot holds no {kind} that is whole ({errno})"))
            }
            _ => failed(&format!("mount the snapshot's {kind} from"), &self.source, errno),
        })
    }
}
