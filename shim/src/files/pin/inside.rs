//! What a path leads to in a container that does not run yet: through its rootfs and its volumes, by their descriptors, name by
//! name. Links lead where they would lead inside.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat, readlinkat},
    sys::stat::{Mode, SFlag, fstat},
};

use super::{Pinned, kind};

/// How many links a path may lead through, as the kernel has it (path_resolution(7)).
const LINKS: usize = 40;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A file with this mode.
    File(u32),
    /// A directory.
    Directory,
    /// Nothing.
    Nothing,
    /// What only the guest knows, as a file system of its own, or what cannot be looked at.
    Unknown,
}

/// What a container has mounted somewhere.
#[derive(Debug, Clone)]
pub enum Mounted {
    /// A file or directory of the host's.
    Hosts(Pinned),
    /// Something of the guest's own.
    Guests,
}

/// A container's files.
#[derive(Debug)]
pub struct Inside {
    root: Pinned,
    /// By the paths that their destinations lead to.
    mounts: Vec<(PathBuf, Mounted)>,
}

impl Inside {
    /// The files of a container with this root and these mounts, in their order.
    pub fn new(root: Pinned, mounts: impl IntoIterator<Item = (PathBuf, Mounted)>) -> Inside {
        let mut inside = Inside { root, mounts: Vec::new() };
        for (destination, mounted) in mounts {
            let (place, _) = inside.walk(&destination);
            // It hides what was mounted below.
            inside.mounts.retain(|(other, _)| !other.starts_with(&place));
            inside.mounts.push((place, mounted));
        }
        inside
    }

    /// What `path`, which is absolute, leads to.
    pub fn look(&self, path: &Path) -> Found {
        self.walk(path).1
    }

    /// What `path` leads to, and its path without links. Names that are not there are kept.
    fn walk(&self, path: &Path) -> (PathBuf, Found) {
        let mut left = names(path);
        let mut way: Vec<(OsString, Place)> = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                way.pop();
                continue;
            }
            let target = match self.step(&way, &name) {
                Seen::Place(place) => {
                    way.push((name, place));
                    continue;
                }
                Seen::Link(target) => target,
            };
            links += 1;
            if links > LINKS {
                way.push((name, Place::Other(Found::Unknown)));
                break;
            }
            if target.has_root() {
                way.clear();
            }
            names(&target).into_iter().rev().for_each(|name| left.push_front(name));
        }
        let found = match way.last() {
            None | Some((_, Place::Directory(_))) => Found::Directory,
            Some((_, Place::Other(found))) => *found,
        };
        (path_of(&way), found)
    }

    /// What `name` is, at the end of `way`.
    fn step(&self, way: &[(OsString, Place)], name: &OsString) -> Seen {
        let path = path_of(way).join(name);
        let opened = match (self.mounts.iter().find(|(place, _)| *place == path), way.last()) {
            (Some((_, Mounted::Guests)), _) => return Seen::Place(Place::Other(Found::Unknown)),
            (Some((_, Mounted::Hosts(source))), _) => source.as_fd().try_clone_to_owned(),
            (None, Some((_, Place::Other(Found::Nothing)))) => {
                return Seen::Place(Place::Other(Found::Nothing));
            }
            // Below a file is another error than nothing.
            (None, Some((_, Place::Other(_)))) => return Seen::Place(Place::Other(Found::Unknown)),
            (None, Some((_, Place::Directory(directory)))) => open(directory, name),
            (None, None) => open(&self.root, name),
        };
        opened.map_or_else(|error| unseen(&error), seen)
    }
}

/// Where a walk is.
enum Place {
    Directory(OwnedFd),
    Other(Found),
}

/// What a name is.
enum Seen {
    Place(Place),
    Link(PathBuf),
}

fn path_of(way: &[(OsString, Place)]) -> PathBuf {
    Path::new("/").join(way.iter().map(|(name, _)| name).collect::<PathBuf>())
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

fn open(directory: impl AsFd, name: &OsString) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(directory, name.as_os_str(), flags, Mode::empty())?)
}

fn seen(file: OwnedFd) -> Seen {
    let mode = fstat(&file).map(|stat| (kind(&stat), stat.st_mode));
    Seen::Place(match mode {
        Ok((SFlag::S_IFDIR, _)) => Place::Directory(file),
        Ok((SFlag::S_IFREG, mode)) => Place::Other(Found::File(mode)),
        Ok((SFlag::S_IFLNK, _)) => match readlinkat(&file, "") {
            Ok(target) => return Seen::Link(target.into()),
            Err(_) => Place::Other(Found::Unknown),
        },
        _ => Place::Other(Found::Unknown),
    })
}

fn unseen(error: &io::Error) -> Seen {
    let is_missing = error.raw_os_error() == Some(Errno::ENOENT as i32);
    Seen::Place(Place::Other(if is_missing { Found::Nothing } else { Found::Unknown }))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn a_path_leads_where_it_would_lead_inside() {
        let top = tempfile::tempdir().unwrap();
        let at = |path: &str| top.path().join(path);
        for directory in ["root/usr/bin", "root/etc", "root/mnt", "volume/tools", "outside"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for (file, mode) in [
            ("root/usr/bin/sh", 0o755),
            ("root/etc/passwd", 0o644),
            ("volume/tools/run", 0o711),
            ("outside/prize", 0o755),
        ] {
            fs::write(at(file), "").unwrap();
            fs::set_permissions(at(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink("usr/bin", at("root/bin")).unwrap();
        symlink("/usr/bin/sh", at("root/usr/bin/absolute")).unwrap();
        symlink("../../../../../outside/prize", at("root/usr/bin/out")).unwrap();
        symlink("loop", at("root/loop")).unwrap();
        symlink("/mnt/tools/run", at("root/into")).unwrap();
        let open = |path: &str| Pinned::open(&at(path)).unwrap();
        let inside = Inside::new(
            open("root"),
            [
                ("/proc".into(), Mounted::Guests),
                ("/mnt".into(), Mounted::Hosts(open("volume"))),
                ("/etc/hosts".into(), Mounted::Hosts(open("outside/prize"))),
                // Below a link, and not there.
                ("/bin/new/deep".into(), Mounted::Guests),
            ],
        );
        for (path, found) in [
            ("/", Found::Directory),
            ("/bin", Found::Directory),
            ("/bin/sh", Found::File(0o100_755)),
            ("/bin/absolute", Found::File(0o100_755)),
            ("/etc/../usr/./bin/sh", Found::File(0o100_755)),
            // Up from where the link leads.
            ("/bin/../usr", Found::Nothing),
            ("/../../bin/sh", Found::File(0o100_755)),
            ("/etc/passwd", Found::File(0o100_644)),
            ("/etc/passwd/x", Found::Unknown),
            ("/bin/none", Found::Nothing),
            ("/none/sh", Found::Nothing),
            ("/bin/out", Found::Nothing),
            ("/loop", Found::Unknown),
            ("/proc/1/exe", Found::Unknown),
            ("/mnt/tools/run", Found::File(0o100_711)),
            ("/into", Found::File(0o100_711)),
            ("/mnt/none", Found::Nothing),
            ("/mnt/../bin/sh", Found::File(0o100_755)),
            ("/etc/hosts", Found::File(0o100_755)),
            ("/usr/bin/new", Found::Nothing),
            ("/usr/bin/new/deep/x", Found::Unknown),
        ] {
            assert_eq!(inside.look(Path::new(path)), found, "{path}");
        }
    }
}
