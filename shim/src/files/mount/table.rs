//! What is mounted where in a mount namespace, as the kernel lists it.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    io::Read,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use linux::mountinfo::{self, Mount, MountId};

use crate::files::pin;

/// What is mounted below a place, by its path below it.
pub type Mounts = BTreeMap<PathBuf, MountId>;

/// The mounts of a namespace.
#[derive(Debug)]
pub struct Table(Vec<Mount>);

impl Table {
    /// Reads a table like /proc/self/mountinfo.
    ///
    /// # Errors
    /// The file's.
    pub fn read(mut from: impl Read) -> io::Result<Table> {
        let mut text = Vec::new();
        from.read_to_end(&mut text)?;
        Ok(Table(mountinfo::parse(&text).collect()))
    }

    /// What is mounted below the root of `mount`.
    pub fn below_mount(&self, mount: MountId) -> Mounts {
        let point = self.0.iter().find(|entry| entry.id == mount).map(|entry| &entry.target);
        point.map(|point| self.below(mount, point)).unwrap_or_default()
    }

    /// What is mounted below the directory `top` of `mount`; of several at one path the one that the path leads to.
    pub fn below(&self, mount: MountId, top: &Path) -> Mounts {
        let mut children: HashMap<MountId, Vec<&Mount>> = HashMap::new();
        for entry in self.0.iter().filter(|entry| entry.id != entry.parent) {
            children.entry(entry.parent).or_default().push(entry);
        }
        let on = |mount: &MountId| children.get(mount).map(Vec::as_slice).unwrap_or_default();
        let mut found = Mounts::new();
        let mut pending = vec![(mount, top)];
        while let Some((mount, point)) = pending.pop() {
            let inside: Vec<_> = on(&mount)
                .iter()
                .filter(|entry| entry.target != point && entry.target.starts_with(point))
                .collect();
            for entry in &inside {
                let hides =
                    |other: &&&&Mount| other.id != entry.id && entry.target.starts_with(&other.target);
                if inside.iter().any(|other| hides(&other)) {
                    continue;
                }
                // What is mounted on its root hides it.
                let mut uppermost = entry.id;
                while let Some(upper) = on(&uppermost).iter().find(|upper| upper.target == entry.target) {
                    uppermost = upper.id;
                }
                if let Ok(path) = entry.target.strip_prefix(top) {
                    found.insert(path.to_owned(), uppermost);
                }
                pending.push((uppermost, &entry.target));
            }
        }
        found
    }
}

/// What is mounted below the directory that is open, in this process's namespace.
///
/// # Errors
/// When /proc cannot be read, or the directory was removed.
pub fn below(directory: impl AsFd) -> io::Result<Mounts> {
    let top = pin::current_path(&directory)?;
    Ok(Table(mountinfo::read()?).below(mount_of(&directory)?, &top))
}

/// The mount that something open is in. Source: proc_pid_fdinfo(5).
///
/// # Errors
/// When /proc cannot be read.
#[expect(clippy::disallowed_methods, reason = "a path of /proc, of a descriptor")]
pub fn mount_of(open: impl AsFd) -> io::Result<MountId> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", open.as_fd().as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("no mnt_id in fdinfo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(mounts: &[(MountId, MountId, &str)]) -> Table {
        Table(mounts.iter().map(|&(id, parent, point)| Mount { id, parent, target: point.into() }).collect())
    }

    fn mounts<const N: usize>(mounts: [(&str, MountId); N]) -> Mounts {
        mounts.map(|(path, id)| (PathBuf::from(path), id)).into()
    }

    #[test]
    fn only_what_is_mounted_below_is_found() {
        let table =
            table(&[(1, 0, "/"), (2, 1, "/srv/a"), (3, 2, "/srv/a/b"), (4, 1, "/srv2"), (5, 1, "/srv")]);
        assert_eq!(table.below_mount(5), mounts([]));
        assert_eq!(table.below(1, Path::new("/srv2")), mounts([]));
        assert_eq!(table.below_mount(2), mounts([("b", 3)]));
    }

    #[test]
    fn of_mounts_at_one_path_the_uppermost_is_found() {
        let table = table(&[(1, 0, "/"), (2, 1, "/a"), (3, 2, "/a"), (4, 3, "/a/b"), (5, 2, "/a/hidden")]);
        assert_eq!(table.below_mount(1), mounts([("a", 3), ("a/b", 4)]));
    }

    #[test]
    fn a_directory_bound_on_itself_has_each_mount_once() {
        let table = table(&[(1, 0, "/"), (3, 1, "/a/b"), (2, 1, "/a"), (4, 2, "/a/b")]);
        assert_eq!(table.below_mount(2), mounts([("b", 4)]));
        assert_eq!(table.below_mount(1), mounts([("a", 2), ("a/b", 4)]));
    }

    #[test]
    fn what_is_mounted_below_an_open_directory_is_found() {
        let root = fs::File::open("/").unwrap();
        assert!(below(&root).unwrap().contains_key(Path::new("proc")));
        assert!(below(fs::File::open("/proc/self/task").unwrap()).unwrap().is_empty());
    }
}
