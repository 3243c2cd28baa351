//! An overlay of an image's files and a directory on the VM's disk.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use guest_protocol::boot::layer_path;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, move_mount,
};

use super::disk::Place;
use super::{errno, failed, loop_device};
use crate::container::run_dir;
use crate::process::fork::fork_quietly;
use crate::process::reaper::Reaper;

/// Where a container's layers are mounted, in the directory of its files.
const LAYERS: &str = "layers";

/// An overlay.
#[derive(Clone, Debug)]
pub struct Overlay {
    place: Place,
    /// Files with a layer each, and where they are mounted, the uppermost first. None where the share has the image's files.
    layers: Vec<(PathBuf, PathBuf)>,
}

impl Overlay {
    /// The overlay of container `id`, with so many layers.
    pub fn new(id: &str, place: Place, layers: u32) -> Overlay {
        let mounts = run_dir(id).join(LAYERS);
        let layer =
            |number: usize| (Path::new("/").join(layer_path(id, number)), mounts.join(number.to_string()));
        Overlay { place, layers: (0..layers as usize).map(layer).collect() }
    }

    /// In a fork: mounts it on `rootfs`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mount(&self, rootfs: &Path) -> io::Result<()> {
        for (file, place) in &self.layers {
            mount_layer(file, place).map_err(|err| failed("mount the layer", file, err))?;
        }
        let lower: Vec<&Path> = match &self.layers[..] {
            [] => vec![rootfs],
            layers => layers.iter().map(|(_, place)| place.as_path()).collect(),
        };
        let (upper, work) = (self.place.directory.join("upper"), self.place.directory.join("work"));
        if !work.try_exists()? {
            make_like(&upper, lower[0])?;
            // It is the last, so that one that is there is whole.
            fs::create_dir(&work)?;
        }
        // Not by mount(2), whose options may have a page: a hundred layers need more.
        let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&overlay, "source", "overlay")?;
        for layer in lower {
            fsconfig_set_string(&overlay, "lowerdir+", layer)?;
        }
        fsconfig_set_string(&overlay, "upperdir", &upper)?;
        fsconfig_set_string(&overlay, "workdir", &work)?;
        fsconfig_create(&overlay).map_err(|err| failed("make an overlay on", &self.place.directory, err))?;
        let mount = fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        Ok(move_mount(&mount, "", rustix::fs::CWD, rootfs, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    }

    /// Takes away what was written at once, and has it removed in a fork that nobody waits for.
    ///
    /// # Errors
    /// When it is still there.
    pub fn forget(&self, reaper: &Reaper) -> io::Result<()> {
        let trash = self.place.throw_away()?;
        let remove = |_| fs::remove_dir_all(&trash).map_or_else(|err| errno(&err), |()| 0);
        let removing = fork_quietly(reaper, &[], remove)?;
        tokio::spawn(async move {
            let status = removing.end().await;
            if status != 0 {
                log::warn!("remove what a container wrote: {}", Errno::from_raw(status as i32));
            }
        });
        Ok(())
    }
}

/// Mounts an erofs from its file. A kernel that wants a block device for it gets one.
fn mount_layer(file: &Path, place: &Path) -> io::Result<()> {
    fs::create_dir_all(place)?;
    let erofs = |source: &Path| mount(Some(source), place, Some("erofs"), MsFlags::MS_RDONLY, None::<&str>);
    match erofs(file) {
        Err(Errno::ENOTBLK) => Ok(erofs(&loop_device::of(file, true)?.path())?),
        mounted => Ok(mounted?),
    }
}

/// Makes the directory `new`, unless it is there, with the owner and the mode of `old`: it becomes the container's root.
fn make_like(new: &Path, old: &Path) -> io::Result<()> {
    match fs::create_dir(new) {
        Err(err) if err.kind() != ErrorKind::AlreadyExists => return Err(err),
        _ => {}
    }
    let like = fs::metadata(old)?;
    chown(new, Some(like.uid()), Some(like.gid()))?;
    fs::set_permissions(new, fs::Permissions::from_mode(like.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_has_the_mode_of_the_images() {
        let top = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| top.path().join(name));
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o1750)).unwrap();
        for _ in 0..2 {
            make_like(&new, &old).unwrap();
            assert_eq!(fs::metadata(&new).unwrap().mode() & 0o7777, 0o1750);
        }
    }

    #[test]
    fn layers_are_counted_from_the_uppermost() {
        let place = Place { directory: "/run/upper/scratch/c1".into(), is_kept: false };
        let overlay = Overlay::new("c1", place, 2);
        let (file, mounted) = &overlay.layers[1];
        assert_eq!(file, Path::new("/containers/c1/layers/1"));
        assert_eq!(mounted, Path::new("/run/krun/c1/layers/1"));
    }
}
