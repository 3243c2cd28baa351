//! A container's rootfs, as containerd wants it mounted in the bundle. The place is a descriptor, and so is what is mounted
//! there: a name that becomes a link meanwhile leads no mount elsewhere.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
};

use containerd_shim_protos::types::mount::Mount;
use log::warn;

use super::{
    mount_of,
    remapped::{Layers, Remapped},
    tree, unmount,
};
use crate::{
    error::{Error, Result},
    files::pin::{self, Pinned},
};

/// A mount that is undone when it is dropped, wherever it may be by then.
#[derive(Debug)]
pub struct Mounted(Pinned);

impl Mounted {
    /// Mounts what containerd wants as a rootfs on `path` below `bundle`, which is made. Gives the mounts, the uppermost
    /// first, and the rootfs.
    ///
    /// # Errors
    /// The mount's, with its type, source and target. Nothing stays mounted, unless the place was moved meanwhile.
    pub fn rootfs(mounts: &[Mount], bundle: &Pinned, path: &Path) -> Result<(Vec<Mounted>, Pinned)> {
        let shown = bundle.path().join(path);
        let failed =
            |what: &str, e: io::Error| Error::internal(format!("{what} {}", shown.display())).because(e);
        let place = pin::make_directory(bundle, path, 0o711).map_err(|e| failed("make directory", e))?;
        let mut rootfs = bundle.beneath(path).map_err(|e| failed("open", e))?;
        let mut mounted = Vec::new();
        for mount in mounts {
            let what = format!("mount {} from {} on", mount.type_, mount.source);
            let (mut mount, late) = Late::part(mount);
            let users = match Remapped::part(&mut mount)? {
                Some(remapped) => Some(remapped.users().map_err(|e| failed(&what, e))?),
                None => None,
            };
            let layers = users.as_ref().filter(|_| mount.type_ == "overlay");
            let layers = layers.map(|users| Layers::mount(&mut mount, users, bundle)).transpose();
            let layers = layers.map_err(|e| failed(&what, e))?;
            attach(mount, pin::path_of(&place)).map_err(|e| failed(&what, e))?;
            let uppermost = bundle.beneath(path).map_err(|e| failed(&what, e))?;
            let mount_of = |root| mount_of(root).map_err(|e| failed(&what, e));
            if mount_of(&rootfs)? == mount_of(&uppermost)? {
                return Err(failed(&what, io::Error::other("it is not there")));
            }
            mounted.insert(0, Mounted(uppermost.clone()));
            late.apply(&uppermost).map_err(|e| failed(&what, e))?;
            rootfs = uppermost;
            if let Some(users) = users.filter(|_| layers.is_none()) {
                remap(&rootfs, users).map_err(|e| failed(&what, e))?;
                rootfs = bundle.beneath(path).map_err(|e| failed(&what, e))?;
                mounted.insert(0, Mounted(rootfs.clone()));
            }
        }
        Ok((mounted, rootfs))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0) {
            warn!("unmount {}: {error}", self.0.path().display());
        }
    }
}

/// What of a mount's options is set once it is there. The library would use the target's path a second time. Ours is that of a
/// descriptor, which stays the directory below the mount.
#[derive(Debug, Default, PartialEq, Eq)]
struct Late {
    attributes: u64,
    propagation: u64,
    recursive: bool,
}

impl Late {
    /// Takes these options out of a mount's.
    fn part(mount: &Mount) -> (Mount, Late) {
        let mut mount = mount.clone();
        let mut late = Late::default();
        let is_bind = mount.options.iter().any(|option| option == "bind" || option == "rbind");
        mount.options.retain(|option| {
            let (attribute, propagation) = match option.as_str() {
                // Of another mount they are its file system's.
                "ro" if is_bind => (libc::MOUNT_ATTR_RDONLY, 0),
                "nosuid" if is_bind => (libc::MOUNT_ATTR_NOSUID, 0),
                "nodev" if is_bind => (libc::MOUNT_ATTR_NODEV, 0),
                "noexec" if is_bind => (libc::MOUNT_ATTR_NOEXEC, 0),
                "private" | "rprivate" => (0, libc::MS_PRIVATE),
                "slave" | "rslave" => (0, libc::MS_SLAVE),
                "shared" | "rshared" => (0, libc::MS_SHARED),
                "unbindable" | "runbindable" => (0, libc::MS_UNBINDABLE),
                "rw" | "suid" | "dev" | "exec" if is_bind => {
                    // The last one holds, as for mount(8).
                    late.attributes &= !match option.as_str() {
                        "rw" => libc::MOUNT_ATTR_RDONLY,
                        "suid" => libc::MOUNT_ATTR_NOSUID,
                        "dev" => libc::MOUNT_ATTR_NODEV,
                        _ => libc::MOUNT_ATTR_NOEXEC,
                    };
                    return false;
                }
                _ => return true,
            };
            late.attributes |= attribute;
            if propagation != 0 {
                late.propagation = propagation;
                late.recursive = option.starts_with('r');
            }
            false
        });
        (mount, late)
    }

    fn apply(&self, mount: impl AsFd) -> io::Result<()> {
        if self.attributes != 0 {
            tree::set_attributes(&mount, false, self.attributes, 0)?;
        }
        if self.propagation != 0 {
            tree::set_attributes(&mount, self.recursive, 0, self.propagation)?;
        }
        Ok(())
    }
}

/// Mounts a copy of `mounted` on itself whose files belong to the ids of `users`: a mount that is somewhere keeps its owners.
fn remap(mounted: &Pinned, users: impl AsFd) -> io::Result<()> {
    let copy = tree::clone(mounted, false)?;
    tree::map_owners(&copy, false, users)?;
    tree::attach(&copy, mounted)
}

/// Mounts one of a rootfs's mounts on `place`, the path of a descriptor, on a thread of its own: for a long list of overlay
/// layers the library changes the calling thread's working directory.
#[expect(
    clippy::disallowed_methods,
    reason = "the path of a descriptor; the sources are containerd's snapshots"
)]
fn attach(mount: Mount, place: PathBuf) -> io::Result<()> {
    let mounting = thread::Builder::new().name("mount".to_owned()).spawn(move || {
        containerd_shim::mount::mount_rootfs(Some(&mount.type_), Some(&mount.source), &mount.options, &place)
    });
    match mounting?.join() {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("the mounting thread panicked")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake::mount, *};

    #[test]
    fn flags_of_a_bind_and_propagation_are_set_later() {
        let (rest, late) = Late::part(&mount("bind", Path::new("/a"), &["rbind", "ro", "rprivate"]));
        assert_eq!(rest.options, ["rbind"]);
        let (attributes, propagation) = (libc::MOUNT_ATTR_RDONLY, libc::MS_PRIVATE);
        assert_eq!(late, Late { attributes, propagation, recursive: true });
        let (rest, late) = Late::part(&mount("bind", Path::new("/a"), &["bind", "ro", "nosuid", "rw"]));
        assert_eq!(rest.options, ["bind"]);
        assert_eq!(late, Late { attributes: libc::MOUNT_ATTR_NOSUID, ..Late::default() });
        let (rest, late) = Late::part(&mount("overlay", Path::new("overlay"), &["ro", "lowerdir=/a:/b"]));
        assert_eq!(rest.options, ["ro", "lowerdir=/a:/b"]);
        assert_eq!(late, Late::default());
    }

    /// A bundle, and a directory with a file to be mounted; none without root.
    fn bundle() -> Option<(tempfile::TempDir, Pinned)> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: what is mounted in a bundle");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for made in ["bundle", "source", "prize"] {
            std::fs::create_dir(dir.path().join(made)).unwrap();
            std::fs::write(dir.path().join(made).join("of"), made).unwrap();
        }
        let bundle = Pinned::open(&dir.path().join("bundle")).unwrap();
        Some((dir, bundle))
    }

    #[test]
    fn a_rootfs_is_mounted_with_its_flags_and_unmounted() {
        let Some((dir, bundle)) = bundle() else { return };
        let bind = mount("bind", &dir.path().join("source"), &["rbind", "ro"]);
        let over = mount("tmpfs", Path::new("tmpfs"), &["size=1m"]);
        let place = dir.path().join("bundle/rootfs");
        {
            let (mounted, _) =
                Mounted::rootfs(std::slice::from_ref(&bind), &bundle, Path::new("rootfs")).unwrap();
            assert_eq!(
                (mounted.len(), std::fs::read_to_string(place.join("of")).unwrap().as_str()),
                (1, "source")
            );
            let refused = std::fs::write(place.join("new"), "").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
        {
            let (mounted, rootfs) = Mounted::rootfs(&[bind, over], &bundle, Path::new("rootfs")).unwrap();
            assert_eq!(mounted.len(), 2);
            assert!(pin::beneath(&rootfs, Path::new("of")).is_err(), "the uppermost is the rootfs");
            // It is undone where it is by now.
            std::fs::rename(dir.path().join("bundle"), dir.path().join("moved")).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path().join("moved/rootfs")).unwrap().count(), 0);
    }

    #[test]
    fn a_link_takes_no_mount() {
        let Some((dir, bundle)) = bundle() else { return };
        std::os::unix::fs::symlink("../prize", dir.path().join("bundle/rootfs")).unwrap();
        let bind = mount("bind", &dir.path().join("source"), &["rbind", "rw"]);
        Mounted::rootfs(&[bind], &bundle, Path::new("rootfs")).unwrap_err();
        assert_eq!(std::fs::read_to_string(dir.path().join("prize/of")).unwrap(), "prize");
    }

    #[test]
    fn what_is_left_is_unmounted_and_nothing_that_a_link_leads_to() {
        let Some((dir, _)) = bundle() else { return };
        let tmpfs = |below: &str| {
            let path = dir.path().join(below);
            std::fs::create_dir_all(&path).unwrap();
            attach(mount("tmpfs", Path::new("tmpfs"), &[]), path).unwrap();
        };
        for below in ["bundle/rootfs", "bundle/rootfs", "bundle/rootfs/a/b", "prize/b"] {
            tmpfs(below);
        }
        let mounted = || {
            let all = linux::mountinfo::read().unwrap();
            all.iter().filter(|mount| mount.target.starts_with(dir.path())).count()
        };
        assert_eq!(mounted(), 4);
        std::os::unix::fs::symlink("../prize", dir.path().join("bundle/link")).unwrap();
        super::super::detach_all(&dir.path().join("bundle/link"));
        assert_eq!(mounted(), 4);
        // What is listed at a path that has become a link.
        let listed = linux::mountinfo::read().unwrap();
        std::fs::rename(dir.path().join("bundle/rootfs/a"), dir.path().join("bundle/rootfs/c")).unwrap();
        std::os::unix::fs::symlink("../../prize", dir.path().join("bundle/rootfs/a")).unwrap();
        super::super::detach(&dir.path().join("bundle/rootfs/a/b"), &listed).unwrap_err();
        assert_eq!(mounted(), 4);
        super::super::detach_all(&dir.path().join("bundle"));
        assert_eq!(mounted(), 1);
        super::super::detach_all(dir.path());
        assert_eq!(mounted(), 0);
    }
}
