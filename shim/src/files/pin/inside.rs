//! What a path leads to in a container that does not run yet: through its rootfs and its volumes, by their descriptors, name by
//! name. Links lead where they would lead inside.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
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

/// How many names all paths together may have that are looked at, links included: whoever made the image or the pod chose them.
const STEPS: usize = 16 << 10;

/// How deep a directory may be. Each above it is open meanwhile.
const DEPTH: usize = 128;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A file with this mode.
    File(u32),
    /// A directory with this mode.
    Directory(u32),
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
    mounts: HashMap<PathBuf, Mounted>,
    /// How many names may be looked at yet.
    steps: Cell<usize>,
}

impl Inside {
    /// The files of a container with this root and nothing mounted in it.
    pub fn new(root: Pinned) -> Inside {
        Inside { root, mounts: HashMap::new(), steps: Cell::new(STEPS) }
    }

    /// Has something mounted at `destination`, which is absolute.
    pub fn mount(&mut self, destination: &Path, mounted: Mounted) {
        let (place, _) = self.walk(destination);
        // It hides what was mounted below.
        self.mounts.retain(|other, _| !other.starts_with(&place));
        self.mounts.insert(place, mounted);
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
            let steps = self.steps.get().saturating_sub(1);
            self.steps.set(steps);
            if steps == 0 || way.len() == DEPTH {
                way.push((name, Place::Other(Found::Unknown)));
                break;
            }
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
            None => mode_of(&self.root),
            Some((_, Place::Directory(directory))) => mode_of(directory),
            Some((_, Place::Other(found))) => *found,
        };
        (path_of(&way), found)
    }

    /// What `name` is, at the end of `way`.
    fn step(&self, way: &[(OsString, Place)], name: &OsString) -> Seen {
        let path = path_of(way).join(name);
        let opened = match (self.mounts.get(&path), way.last()) {
            (Some(Mounted::Guests), _) => return Seen::Place(Place::Other(Found::Unknown)),
            (Some(Mounted::Hosts(source)), _) => source.as_fd().try_clone_to_owned(),
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

fn mode_of(directory: impl AsFd) -> Found {
    fstat(directory).map_or(Found::Unknown, |stat| Found::Directory(stat.st_mode))
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
        let mut inside = Inside::new(open("root"));
        for (destination, mounted) in [
            ("/proc", Mounted::Guests),
            ("/mnt", Mounted::Hosts(open("volume"))),
            ("/etc/hosts", Mounted::Hosts(open("outside/prize"))),
            // Below a link, and not there.
            ("/bin/new/deep", Mounted::Guests),
        ] {
            inside.mount(Path::new(destination), mounted);
        }
        fs::set_permissions(at("root/usr/bin"), fs::Permissions::from_mode(0o2751)).unwrap();
        for (path, found) in [
            ("/", Found::Directory(fs::metadata(at("root")).unwrap().permissions().mode())),
            ("/bin", Found::Directory(0o042_751)),
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

    #[test]
    fn nobody_can_keep_it_busy() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("d")).unwrap();
        let back = "d/../".repeat(800);
        for number in 0..39 {
            symlink(format!("{back}{}", number + 1), top.path().join(number.to_string())).unwrap();
        }
        let mut deep = PathBuf::from("/");
        for _ in 0..200 {
            deep.push("d");
            fs::create_dir_all(top.path().join(deep.strip_prefix("/").unwrap())).unwrap();
        }
        let inside = Inside::new(Pinned::open(top.path()).unwrap());
        assert_eq!(inside.look(&deep), Found::Unknown);
        assert_eq!(inside.look(Path::new("/0")), Found::Unknown);
        // Nothing is left for others.
        assert_eq!(inside.look(Path::new("/none")), Found::Unknown);
    }
}
