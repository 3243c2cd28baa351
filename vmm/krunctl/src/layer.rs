//! A view of a directory that can be written without changing it: overlayfs, whose upper layer is thrown away.
//!
//! It is made on this host, not in the guest. So not even a vmm that its guest has taken over gets to write the directory.
//! An overlay does not show what is mounted below its lower layer: each of these mounts gets one of its own.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use linux::mountinfo;
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MsFlags, mount},
};

/// What a container has of its own: nothing below it is of use.
const OWN: [&str; 4] = ["proc", "sys", "dev", "run"];

/// Shows `rootfs`, with what is mounted below it, on `target`. What is written goes to `layers`, a directory of a tmpfs.
/// `hidden` is the parent of this process's own mounts.
///
/// Who can write in `rootfs` may put links there at any time. So mounts are reached from `rootfs`, and their places from
/// `target`, through no link.
pub fn cover(rootfs: &File, target: &Path, layers: &Path, hidden: &Path) -> Result<()> {
    let path = fs::read_link(path_of(rootfs)).context("reading the path of --root")?;
    let table = mountinfo::read().with_context(|| format!("reading {}", mountinfo::PATH))?;
    let mounts = below(&path, table.into_iter().map(|mount| mount.target), hidden);
    // Each time anew: what is mounted on it is another directory.
    let place = |below: &Path| {
        let directory =
            File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(target)?;
        beneath(&directory, below)
    };
    cover_one(rootfs, &place(Path::new("."))?, &layers.join("0"))
        .with_context(|| format!("a layer over {} (this host's kernel needs overlayfs)", path.display()))?;
    for (number, below) in mounts.enumerate().skip(1) {
        // Another mount hides it, or its file system is broken: the host cannot use it either.
        let Ok(source) = beneath(rootfs, &below) else { continue };
        // A mount point that the file system below does not have any more, or a link by now.
        let Ok(empty) = place(&below) else { continue };
        let layered = source.metadata().is_ok_and(|found| found.is_dir())
            && cover_one(&source, &empty, &layers.join(number.to_string())).is_ok();
        if !layered {
            // A single file, or a file system that cannot be below an overlay.
            read_only(&source, &empty, || place(&below))
                .with_context(|| format!("binding {}", path.join(&below).display()))?;
        }
    }
    Ok(())
}

/// The path that leads this process to what is open.
pub fn path_of(open: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

/// What is at `below` in the directory `top`, for naming it: through mounts, but through no link.
fn beneath(top: &File, below: &Path) -> io::Result<File> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    Ok(openat2(top, below, how)?.into())
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

fn cover_one(source: &File, place: &File, layer: &Path) -> Result<()> {
    fs::create_dir(layer).with_context(|| format!("making {}", layer.display()))?;
    make_upper(layer, source)?;
    overlay(&path_of(source).display().to_string(), &path_of(place), layer)
}

/// Makes the upper part of a layer, unless it is there: the top directory is the upper layer's, and is to be as that of the one
/// below it.
pub fn make_upper(layer: &Path, below: &File) -> Result<()> {
    let upper = layer.join(UPPER);
    let failed = || format!("making {}", upper.display());
    match DirBuilder::new().mode(0o700).create(&upper) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.with_context(failed)?,
    }
    let found = below.metadata()?;
    chown(&upper, Some(found.uid()), Some(found.gid())).with_context(failed)?;
    fs::set_permissions(&upper, Permissions::from_mode(found.mode() & 0o7777)).with_context(failed)
}

/// The parts of a layer. Source: the kernel's overlayfs.rst.
const UPPER: &str = "upper";
const WORK: &str = "work";

/// Shows the layers of `lower`, as overlayfs takes them, on `place`. What is written goes to `layer`.
pub fn overlay(lower: &str, place: &Path, layer: &Path) -> Result<()> {
    let (upper, work) = (layer.join(UPPER), layer.join(WORK));
    for directory in [&upper, &work] {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
        made.with_context(|| format!("making {}", directory.display()))?;
    }
    // With xino a file keeps its inode number when it is first written.
    let options = format!("lowerdir={lower},upperdir={},workdir={},xino=on", upper.display(), work.display());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("krun-layer"), place, Some("overlay"), flags, Some(options.as_str()))?;
    Ok(())
}

/// `place` stays what is below the mount; `mounted` opens what is on it by then.
fn read_only(source: &File, place: &File, mounted: impl FnOnce() -> io::Result<File>) -> Result<()> {
    mount(Some(&path_of(source)), &path_of(place), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let flags =
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(None::<&str>, &path_of(&mounted()?), None::<&str>, flags, None::<&str>)?;
    Ok(())
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

    #[test]
    fn no_link_leads_to_a_mount_or_its_place() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("inside")).unwrap();
        let top = File::open(dir.path()).unwrap();
        let found = |below: &str| beneath(&top, Path::new(below)).is_ok();
        assert!(found(".") && found("a/b"));
        for below in ["link", "link/ssl", "inside/b", "../x", "/etc"] {
            assert!(!found(below), "{below}");
        }
    }
}
