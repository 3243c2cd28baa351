//! File systems in memory that begin with what the directory has on which they are mounted (`tmpcopyup`). libcontainer knows no
//! such option; runc copies directories, files, links, devices and pipes with their owners and modes, and no extended attributes.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use linux::mount_tree::{self, Attributes};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat, fstatat, mkdirat, mknodat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use super::hook::Task;
use crate::rpc::fault::Refusal;

/// How deep the directories may be: each costs three descriptors.
const DEPTH: usize = 64;

/// Where such a file system is mounted in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The mount's destination.
    pub path: PathBuf,
    /// Whether it becomes read-only when it is filled.
    pub read_only: bool,
}

/// Takes the option out of the spec, and says what is to be done for it.
pub fn take(spec: &mut Spec) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mounts = spec.mounts_mut().iter_mut().flatten();
    for mount in mounts.filter(|mount| mount.typ().as_deref() == Some("tmpfs")) {
        let mut options = mount.options().clone().unwrap_or_default();
        let count = options.len();
        options.retain(|option| option != "tmpcopyup");
        if options.len() == count {
            continue;
        }
        // The last word holds. Source: runc's parseMountOptions.
        let access = options.iter().rev().find(|option| ["ro", "rw"].contains(&option.as_str()));
        let place =
            Place { path: mount.destination().clone(), read_only: access.is_some_and(|it| it == "ro") };
        options.retain(|option| option != "ro");
        tasks.push(Task::CopyUp(place));
        mount.set_options(Some(options));
    }
    tasks
}

/// The refusal, said better if it is that of a hook among `tasks` that copies.
pub fn explain(refusal: Refusal, tasks: &[Task]) -> Refusal {
    if !tasks.iter().any(|task| matches!(task, Task::CopyUp(_))) {
        return refusal;
    }
    // Source: libcontainer's HookError, as its log has it.
    let Some((_, code)) = refusal.text().split_once("NonZeroExitCode(") else { return refusal };
    let digits: String = code.chars().take_while(char::is_ascii_digit).collect();
    let why = Errno::from_raw(digits.parse().unwrap_or(0)).desc();
    Refusal::other(format!("a tmpfs with tmpcopyup: copy what its directory has: {why}"))
}

/// In the container's mount namespace, whose root is still mounted at `rootfs`: copies what is under the mount into it.
pub fn fill(rootfs: &Path, place: &Place) -> io::Result<()> {
    let root = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(rootfs)?;
    let within = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let to = open_directory(&root, &place.path, within)?;
    if fstatfs(&to)?.filesystem_type() != TMPFS_MAGIC {
        return Err(Errno::EINVAL.into());
    }
    // What is mounted below it already, on places that libcontainer has made in it, is left alone.
    let bare = open_directory(mount_tree::clone(&to, false)?, Path::new("."), ResolveFlag::empty())?;
    copy(&covered(&to)?, &bare, DEPTH)?;
    if place.read_only {
        let read_only = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
        mount_tree::set_attributes(&to, false, read_only)?;
    }
    Ok(())
}

fn open_directory(from: impl AsFd, path: &Path, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat2(from, path, OpenHow::new().flags(flags).resolve(resolve))
}

/// The directory on which a file system is mounted whose root is open.
fn covered(mounted: &OwnedFd) -> io::Result<OwnedFd> {
    let path = PathBuf::from(readlinkat(
        nix::fcntl::AT_FDCWD,
        format!("/proc/self/fd/{}", mounted.as_raw_fd()).as_str(),
    )?);
    let name = path.file_name().ok_or(Errno::EINVAL)?;
    let parent = openat(mounted, "..", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    // Without what is mounted below it.
    let bare = mount_tree::clone(&parent, false)?;
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    Ok(open_directory(&bare, Path::new(name), beneath)?)
}

/// Copies what is in a directory, `depth` directories deep at most.
fn copy(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
    let depth = depth.checked_sub(1).ok_or(Errno::ENAMETOOLONG)?;
    for entry in Dir::from_fd(from.try_clone()?)?.iter() {
        let entry = entry?;
        if [c".", c".."].contains(&entry.file_name()) {
            continue;
        }
        copy_entry(from, to, entry.file_name(), depth)?;
    }
    Ok(())
}

/// What is there already is the place of a mount.
fn or_there(made: nix::Result<()>) -> nix::Result<()> {
    match made {
        Err(Errno::EEXIST) => Ok(()),
        made => made,
    }
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> io::Result<()> {
    let found = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mine = Mode::S_IRWXU;
    match kind {
        SFlag::S_IFDIR => {
            or_there(mkdirat(to, name, mine))?;
            let flags = flags | OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            let from = openat(from, name, flags, Mode::empty())?;
            let into = openat(to, name, flags, Mode::empty())?;
            copy(&from, &into, depth)?;
        }
        SFlag::S_IFREG => {
            // Who shares a volume may have put another kind of file there meanwhile, which must not be waited for.
            let from = openat(from, name, flags | OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())?;
            if fstat(&from)?.st_mode & libc::S_IFMT != libc::S_IFREG {
                return Err(Errno::ESTALE.into());
            }
            let into = openat(to, name, flags | OFlag::O_WRONLY | OFlag::O_CREAT, mine)?;
            io::copy(&mut File::from(from), &mut File::from(into))?;
        }
        SFlag::S_IFLNK => or_there(symlinkat(readlinkat(from, name)?.as_os_str(), to, name))?,
        _ => or_there(mknodat(to, name, kind, mine, found.st_rdev))?,
    }
    let owner = (Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)));
    fchownat(to, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind != SFlag::S_IFLNK {
        // Not through a link: nobody else can write there yet.
        fchmodat(to, name, Mode::from_bits_truncate(found.st_mode), FchmodatFlags::FollowSymlink)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

    use nix::unistd::mkfifo;

    use super::*;

    fn spec(options: &[&str], typ: &str) -> Spec {
        let mounts =
            serde_json::json!([{"destination": "/var", "type": typ, "source": "x", "options": options}]);
        serde_json::from_value(serde_json::json!({"ociVersion": "1.1.0", "mounts": mounts})).unwrap()
    }

    #[test]
    fn the_option_of_a_tmpfs_becomes_a_task() {
        for (options, read_only, left) in [
            (&["tmpcopyup", "size=1m"][..], false, &["size=1m"][..]),
            (&["ro", "tmpcopyup"], true, &[]),
            (&["ro", "tmpcopyup", "rw"], false, &["rw"]),
        ] {
            let mut spec = spec(options, "tmpfs");
            let tasks = take(&mut spec);
            assert_eq!(tasks, [Task::CopyUp(Place { path: "/var".into(), read_only })], "{options:?}");
            assert_eq!(spec.mounts().as_ref().unwrap()[0].options().as_deref().unwrap(), left);
        }
        assert_eq!(take(&mut spec(&["ro", "size=1m"], "tmpfs")), []);
        assert_eq!(take(&mut spec(&["tmpcopyup"], "bind")), []);
    }

    #[test]
    fn a_hooks_errno_is_said() {
        let chain = "failed to run hooks: failed to run create container hooks err=NonZeroExitCode(28)";
        let tasks = [Task::CopyUp(Place { path: "/var".into(), read_only: false })];
        let text = explain(Refusal::other(chain), &tasks).text().to_owned();
        assert_eq!(explain(Refusal::other(chain), &[]).text(), chain);
        assert_eq!(text, "a tmpfs with tmpcopyup: copy what its directory has: No space left on device");
        let other = Refusal::other("something else");
        assert_eq!(explain(other.clone(), &tasks), other);
    }

    #[test]
    fn all_kinds_are_copied_with_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/file"), "text").unwrap();
        symlink("/nowhere", from.join("a/link")).unwrap();
        mkfifo(&from.join("pipe"), Mode::from_bits_truncate(0o622)).unwrap();
        let modes = [("a", 0o1770), ("a/b", 0o555), ("a/file", 0o640), ("pipe", 0o622)];
        for (path, mode) in modes {
            fchmodat(
                nix::fcntl::AT_FDCWD,
                &from.join(path),
                Mode::from_bits_truncate(mode),
                FchmodatFlags::FollowSymlink,
            )
            .unwrap();
        }
        let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
        copy(&open(&from), &open(&to), DEPTH).unwrap();
        for (path, mode) in modes {
            assert_eq!(fs::metadata(to.join(path)).unwrap().mode() & 0o7777, mode, "{path}");
        }
        assert_eq!(fs::read_to_string(to.join("a/file")).unwrap(), "text");
        assert_eq!(fs::read_link(to.join("a/link")).unwrap(), Path::new("/nowhere"));
        assert!(fs::metadata(to.join("pipe")).unwrap().file_type().is_fifo());
        // Once more, over what is there.
        copy(&open(&from), &open(&to), DEPTH).unwrap();
        assert!(copy(&open(&from), &open(&to), 1).is_err());
    }
}
