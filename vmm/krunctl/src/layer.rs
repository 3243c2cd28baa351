//! A view of a directory that can be written without changing it: overlayfs, whose upper layer is thrown away.
//!
//! It is made on this host, not in the guest. So not even a vmm that its guest has taken over gets to write the directory.
//! An overlay does not show what is mounted below its lower layer: each of these mounts gets one of its own.

use std::{
    fs::{self, File, Permissions},
    io::ErrorKind,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use linux::mountinfo;
use nix::mount::{MsFlags, mount};

/// What a container has of its own: nothing below it is of use.
const OWN: [&str; 4] = ["proc", "sys", "dev", "run"];

/// Shows `rootfs`, with what is mounted below it, on `target`. What is written goes to `layers`, a directory of a tmpfs.
/// `hidden` is the parent of this process's own mounts.
pub fn cover(rootfs: &Path, target: &Path, layers: &Path, hidden: &Path) -> Result<()> {
    let table = mountinfo::read().with_context(|| format!("reading {}", mountinfo::PATH))?;
    for (number, below) in below(rootfs, table.into_iter().map(|mount| mount.target), hidden).enumerate() {
        let (source, place) = (rootfs.join(&below), target.join(&below));
        let found = match fs::metadata(&source) {
            Ok(found) => found,
            // Another mount hides it, or its file system is broken: the host cannot use it either.
            Err(_) if number > 0 => continue,
            Err(error) => return Err(error).with_context(|| source.display().to_string()),
        };
        let done = match found.is_dir() {
            true => overlay(&source, &place, &layers.join(number.to_string())),
            false => read_only(&source, &place),
        };
        match done {
            // A file system that cannot be below an overlay.
            Err(_) if number > 0 => read_only(&source, &place)?,
            done => done?,
        }
    }
    Ok(())
}

/// `rootfs` and the mount points below it, relative to it, each after those that it is in.
fn below(
    rootfs: &Path,
    targets: impl Iterator<Item = PathBuf>,
    hidden: &Path,
) -> impl Iterator<Item = PathBuf> {
    let relative = |target: PathBuf| {
        let below = target.strip_prefix(rootfs).ok()?;
        let own = OWN.iter().any(|own| below.starts_with(own)) || target.starts_with(hidden);
        (!own).then(|| below.to_owned())
    };
    // Sorted, a path comes after its parents.
    let mut found: Vec<_> = targets.filter_map(relative).chain([PathBuf::new()]).collect();
    found.sort();
    found.dedup();
    found.into_iter()
}

fn overlay(source: &Path, place: &Path, layer: &Path) -> Result<()> {
    let context = || format!("a layer over {} (this host's kernel needs overlayfs)", source.display());
    // By its descriptor: a path can have characters that mean something in the options.
    let lower = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(source)
        .with_context(context)?;
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    for directory in [layer, &upper, &work] {
        fs::create_dir(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    // The top directory is the upper layer's.
    let found = lower.metadata().with_context(context)?;
    chown(&upper, Some(found.uid()), Some(found.gid())).with_context(context)?;
    fs::set_permissions(&upper, Permissions::from_mode(found.mode() & 0o7777)).with_context(context)?;
    // With xino a file keeps its inode number when it is first written.
    let options = format!(
        "lowerdir=/proc/self/fd/{},upperdir={},workdir={},xino=on",
        lower.as_raw_fd(),
        upper.display(),
        work.display()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("krun-layer"), place, Some("overlay"), flags, Some(options.as_str())).with_context(context)
}

fn read_only(source: &Path, place: &Path) -> Result<()> {
    let context = || format!("binding {}", source.display());
    // A mount point that the file system below does not have any more.
    if fs::symlink_metadata(place).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(());
    }
    mount(Some(source), place, None::<&str>, MsFlags::MS_BIND, None::<&str>).with_context(context)?;
    let flags =
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(None::<&str>, place, None::<&str>, flags, None::<&str>).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rootfs: &str, targets: &[&str]) -> Vec<String> {
        let targets = targets.iter().map(PathBuf::from);
        let found = below(Path::new(rootfs), targets, Path::new("/x/krun/run"));
        found.map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn the_hosts_mounts_are_shown_but_for_those_that_a_container_has_itself() {
        let table = [
            "/",
            "/proc",
            "/sys/fs/cgroup",
            "/home",
            "/dev/shm",
            "/run/user/0",
            "/usr",
            "/home/a/b",
            "/procs",
        ];
        assert_eq!(of("/", &table), ["", "home", "home/a/b", "procs", "usr"]);
    }

    #[test]
    fn a_directory_has_what_is_mounted_below_it_once_and_in_order() {
        let table = ["/", "/srv/r/b/c", "/srv/r/b", "/srv/r/b", "/srv/root", "/srv/r/proc", "/srv"];
        assert_eq!(of("/srv/r", &table), ["", "b", "b/c"]);
    }

    #[test]
    fn our_own_mounts_are_not_shown() {
        assert_eq!(of("/x", &["/x", "/x/krun/run/7-0", "/x/krun/run/7-0/share", "/x/krun"]), ["", "krun"]);
    }
}
