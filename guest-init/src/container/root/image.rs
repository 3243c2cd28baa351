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
    flags: MsFlags,
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
        let (flags, options) = parse(&image.options);
        Ok(Image { source, in_file: image.in_file, kind: image.type_.clone(), flags, options })
    }

    /// In a fork: mounts it on `rootfs`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mount(&self, rootfs: &Path) -> io::Result<()> {
        let (kind, options) = (self.kind.as_str(), self.options.as_str());
        let mount_from = |source: &Path| mount(Some(source), rootfs, Some(kind), self.flags, Some(options));
        let mounted = match self.in_file {
            // It has its device until it is unmounted.
            true => mount_from(&loop_device::of(&self.source, false)?.path()),
            false => mount_from(&self.source),
        };
        mounted.map_err(|errno| match errno {
            Errno::EINVAL | Errno::EUCLEAN => {
                let with = if options.is_empty() {
                    String::new()
                } else {
                    format!(", or takes no option of {options:?}")
                };
                io::Error::other(format!("the snapshot holds no {kind} that is whole{with} ({errno})"))
            }
            _ => failed(&format!("mount the snapshot's {kind} from"), &self.source, errno),
        })
    }
}

/// Options that are a mount's own, and the rest, which is the file system's. Source: mount(8).
fn parse(options: &str) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let of_the_file_system = |option: &&str| {
        let flag = match *option {
            "noatime" => MsFlags::MS_NOATIME,
            "nodiratime" => MsFlags::MS_NODIRATIME,
            "relatime" => MsFlags::MS_RELATIME,
            "strictatime" => MsFlags::MS_STRICTATIME,
            "lazytime" => MsFlags::MS_LAZYTIME,
            "nosuid" => MsFlags::MS_NOSUID,
            "nodev" => MsFlags::MS_NODEV,
            "noexec" => MsFlags::MS_NOEXEC,
            "sync" => MsFlags::MS_SYNCHRONOUS,
            "dirsync" => MsFlags::MS_DIRSYNC,
            _ => return true,
        };
        flags |= flag;
        false
    };
    let rest: Vec<_> = options.split(',').filter(of_the_file_system).collect();
    (flags, rest.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_mount_are_flags() {
        let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV;
        assert_eq!(parse("noatime,discard,nodev,data=ordered"), (flags, "discard,data=ordered".to_owned()));
        assert_eq!(parse(""), (MsFlags::empty(), String::new()));
    }
}
