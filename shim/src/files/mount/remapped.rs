//! A snapshot whose files belong to others: containerd gives it the options `uidmap=` and `gidmap=`, which no file system
//! knows. An overlay's layers get other owners, and anything else as a whole. Source: containerd `core/mount/mount_linux.go`.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use containerd_shim_protos::types::mount::Mount;
use linux::user_namespace::{self, IdMaps, Range};
use log::warn;

use super::{tree, unmount};
use crate::{
    bundle::check_ranges,
    error::{Error, Result},
    files::pin::{self, Pinned},
};

/// Where a bundle has the layers for as long as they are mounted.
pub const LAYERS: &str = "layers";

/// To whom a mount's files are to belong.
#[derive(Debug, PartialEq, Eq)]
pub struct Remapped(IdMaps);

impl Remapped {
    /// Takes these options out of a mount's.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for options that are no maps.
    pub fn part(mount: &mut Mount) -> Result<Option<Remapped>> {
        let mut maps = IdMaps::default();
        for option in &mount.options {
            match option.split_once('=') {
                Some(("uidmap", text)) => maps.users = parse(option, text)?,
                Some(("gidmap", text)) => maps.groups = parse(option, text)?,
                _ => {}
            }
        }
        mount.options.retain(|option| !option.starts_with("uidmap=") && !option.starts_with("gidmap="));
        match (maps.users.is_empty(), maps.groups.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Ok(Some(Remapped(maps))),
            _ => Err(Error::invalid("a rootfs's mount has one of uidmap= and gidmap=, and needs both")),
        }
    }

    /// The user namespace whose ids the files are to belong to.
    ///
    /// # Errors
    /// The kernel's.
    pub fn users(&self) -> io::Result<OwnedFd> {
        Ok(user_namespace::make(&self.0, false)?.user)
    }
}

/// Like `0:100000:65536,…`: inside, outside, length.
fn parse(option: &str, text: &str) -> Result<Vec<Range>> {
    let range = |text: &str| {
        let mut numbers = text.split(':').map(|number| number.parse().ok());
        let (Some(Some(inside)), Some(Some(outside)), Some(Some(length)), None) =
            (numbers.next(), numbers.next(), numbers.next(), numbers.next())
        else {
            return Err(Error::invalid(format!("{option}: {text:?} is not INSIDE:OUTSIDE:LENGTH")));
        };
        Ok(Range { inside, outside, length })
    };
    let ranges = text.split(',').map(range).collect::<Result<Vec<_>>>()?;
    check_ranges(option, &ranges)?;
    Ok(ranges)
}

/// Copies of an overlay's layers with other owners, which are mounted for as long as this lives. The overlay keeps them.
pub struct Layers {
    tree: OwnedFd,
    bundle: Pinned,
}

impl Layers {
    /// Mounts them in `bundle`, and has `overlay` use them.
    ///
    /// # Errors
    /// When it has none, and the mount's.
    pub fn mount(overlay: &mut Mount, users: &OwnedFd, bundle: &Pinned) -> io::Result<Layers> {
        let option = overlay.options.iter_mut().find(|option| option.starts_with("lowerdir="));
        let option = option.ok_or_else(|| io::Error::other("it has no lowerdir="))?;
        let dirs: Vec<_> = option["lowerdir=".len()..].split(':').map(Path::new).collect();
        let common =
            above_all(&dirs).ok_or_else(|| io::Error::other("its layers have no directory in common"))?;
        let copy = tree::clone(&Pinned::open(&common)?, false)?;
        tree::isolate(&copy)?;
        tree::set_attributes(&copy, false, libc::MOUNT_ATTR_RDONLY, 0)?;
        tree::map_owners(&copy, false, users)?;
        let place = pin::make_directory(bundle, Path::new(LAYERS), 0o700)?;
        tree::attach(&copy, &place)?;
        failpoint!(blocking "create.layers");
        let layers = Layers { tree: copy, bundle: bundle.clone() };
        let top = pin::path_of(&layers.tree);
        let mapped = dirs.iter().filter_map(|dir| Some(top.join(dir.strip_prefix(&common).ok()?)));
        let mapped: Vec<_> = mapped.map(|dir| dir.display().to_string()).collect();
        *option = format!("lowerdir={}", mapped.join(":"));
        Ok(layers)
    }
}

/// The directory that all of these are below.
fn above_all(dirs: &[&Path]) -> Option<PathBuf> {
    let mut above = dirs.first()?.parent()?;
    while !dirs.iter().all(|dir| dir.starts_with(above) && *dir != above) {
        above = above.parent()?;
    }
    above.parent().map(|_| above.to_owned())
}

impl Drop for Layers {
    fn drop(&mut self) {
        let undone = unmount(self.tree.as_fd()).and_then(|()| pin::remove(&self.bundle, Path::new(LAYERS)));
        if let Err(error) = undone {
            warn!("unmount the layers of {}: {error}", self.bundle.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(options: &[&str]) -> Mount {
        Mount { options: options.iter().map(|option| (*option).to_owned()).collect(), ..Mount::default() }
    }

    #[test]
    fn maps_are_taken_out_of_the_options() {
        let mut mount = options(&["ro", "uidmap=0:100000:10,20:7:1", "gidmap=0:5:10", "lowerdir=/a:/b"]);
        let Remapped(maps) = Remapped::part(&mut mount).unwrap().unwrap();
        assert_eq!(mount.options, ["ro", "lowerdir=/a:/b"]);
        assert_eq!(maps.users[1], Range { inside: 20, outside: 7, length: 1 });
        assert_eq!(maps.groups, [Range { inside: 0, outside: 5, length: 10 }]);
        assert_eq!(Remapped::part(&mut options(&["ro"])).unwrap(), None);
        let good = "gidmap=0:1:1";
        for bad in
            ["uidmap=0:1", "uidmap=", "uidmap=0:1:0", "uidmap=0:1:1:1", "uidmap=0:x:1", "uidmap=0:1:1,0:9:1"]
        {
            assert!(Remapped::part(&mut options(&[bad, good])).is_err(), "{bad}");
        }
        Remapped::part(&mut options(&[good])).unwrap_err();
    }

    #[test]
    fn layers_are_below_one_directory() {
        let above = |dirs: &[&str]| above_all(&dirs.iter().map(Path::new).collect::<Vec<_>>());
        assert_eq!(above(&["/a/s/12/fs", "/a/s/1/fs"]), Some("/a/s".into()));
        assert_eq!(above(&["/a/s/12/fs"]), Some("/a/s/12".into()));
        assert_eq!(above(&["/a/s", "/a/s/1"]), Some("/a".into()));
        assert_eq!(above(&["/a/s", "/b/s"]), None);
        assert_eq!(above(&[]), None);
    }

    #[test]
    fn an_overlays_layers_get_other_owners() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: what is mounted in a bundle");
            return;
        }
        // On a disk: in memory, files have had other owners only since Linux 6.3.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        for made in ["bundle/rootfs", "layers/1/fs", "layers/2/fs", "layers/3/fs", "layers/3/work"] {
            std::fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        std::fs::write(dir.path().join("layers/1/fs/of"), "one").unwrap();
        let bundle = Pinned::open(&dir.path().join("bundle")).unwrap();
        let at = |path: &str| dir.path().join("layers").join(path).display().to_string();
        let overlay = Mount {
            type_: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![
                "uidmap=0:100000:65536".to_owned(),
                "gidmap=0:200000:65536".to_owned(),
                format!("workdir={}", at("3/work")),
                format!("upperdir={}", at("3/fs")),
                format!("lowerdir={}:{}", at("2/fs"), at("1/fs")),
            ],
            ..Mount::default()
        };
        let shown = || {
            let metadata = std::fs::metadata(dir.path().join("bundle/rootfs/of"));
            metadata.map(|metadata| {
                use std::os::unix::fs::MetadataExt;
                (metadata.uid(), metadata.gid())
            })
        };
        {
            let mounted = super::super::Mounted::rootfs(&[overlay], &bundle, Path::new("rootfs"));
            match mounted {
                // Where the tests are in a container with an overlay below.
                Err(error)
                    if error.to_string().contains("overlay") && !error.to_string().contains("lowerdir") =>
                {
                    println!("skipped: {error}");
                    return;
                }
                mounted => {
                    let _mounted = mounted.unwrap();
                    assert_eq!(shown().unwrap(), (100_000, 200_000));
                    assert!(!dir.path().join("bundle/layers").exists());
                }
            }
        }
        shown().unwrap_err();
    }
}
