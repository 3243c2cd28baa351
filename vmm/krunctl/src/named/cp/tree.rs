//! Copies a tree from one directory to another, each reached by its descriptor. Either may change meanwhile.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
};

use anyhow::{Context, Result, bail};
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat},
    sys::stat::{Mode, fstatat, mkdirat},
    unistd::{UnlinkatFlags, symlinkat, unlinkat},
};
use shim::failpoint;

use crate::table::plain;

/// How deep directories may be in each other.
const MAX_DEPTH: u32 = 256;

const NO_FILE: &str = "neither a file, a directory nor a link";

/// All bits of a mode that can be set.
pub const ALL: u32 = 0o7777;

/// Those that give nobody another's rights.
pub const HARMLESS: u32 = 0o1777;

/// Where something is: a directory, and a name in it.
type At<'a> = (&'a File, &'a Path);

/// How many files and directories are copied at most.
const MAX_ENTRIES: u32 = 1_000_000;

/// Copies what is at `from` to `to`, with the bits of `modes` of each mode. A directory that is there is filled up; another file
/// is replaced.
pub fn copy(from: At<'_>, to: At<'_>, modes: u32) -> Result<()> {
    copy_at(from, to, (modes, 0), &mut 0)
}

fn copy_at(
    (from, name): At<'_>,
    (to, new): At<'_>,
    (modes, depth): (u32, u32),
    entries: &mut u32,
) -> Result<()> {
    let said = || name.display().to_string();
    *entries += 1;
    if *entries > MAX_ENTRIES {
        bail!("more than {MAX_ENTRIES} files and directories");
    }
    if depth > MAX_DEPTH {
        bail!("{}: more than {MAX_DEPTH} directories deep", said());
    }
    // Opening a device would do what its driver likes.
    let kind = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW).with_context(said)?.st_mode & libc::S_IFMT;
    if ![libc::S_IFREG, libc::S_IFDIR, libc::S_IFLNK].contains(&kind) {
        if depth == 0 {
            bail!("{}: {NO_FILE}", said());
        }
        eprintln!("krunctl: {}: not copied: {NO_FILE}", plain(&said()));
        return Ok(());
    }
    // It may be another by now: a FIFO is not waited for, and a link is not followed.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let opened = match openat(from, name, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        Err(Errno::ELOOP) => return link((from, name), (to, new)).with_context(said),
        Err(errno) => return Err(errno).with_context(said),
    };
    let found = opened.metadata().with_context(said)?;
    if found.is_dir() {
        let (copy, is_new) = make_directory((to, new)).with_context(said)?;
        let mut directory = Dir::from_fd(opened.try_clone()?.into()).with_context(said)?;
        for entry in directory.iter() {
            let entry = entry.with_context(said)?;
            if ![c".", c".."].contains(&entry.file_name()) {
                let entry = path_of(entry.file_name());
                copy_at((&opened, entry), (&copy, entry), (modes, depth + 1), entries).with_context(said)?;
            }
        }
        if is_new {
            // Nobody else had a way in until now.
            copy.set_permissions(PermissionsExt::from_mode(found.mode() & modes)).with_context(said)?;
        }
        return Ok(());
    }
    if !found.is_file() {
        bail!("{}: {NO_FILE}", said());
    }
    replace_file(opened, (to, new), found.mode() & modes).with_context(said)
}

fn path_of(name: &CStr) -> &Path {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

fn link((from, name): At<'_>, (to, new): At<'_>) -> Result<()> {
    let target = readlinkat(from, name)?;
    remove(to, new)?;
    Ok(symlinkat(Path::new(&target), to, new)?)
}

/// Makes a directory, unless it is there: then it keeps its mode.
fn make_directory((to, new): At<'_>) -> Result<(File, bool)> {
    let is_new = match mkdirat(to, new, Mode::S_IRWXU) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(errno) => return Err(errno.into()),
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok((File::from(openat(to, new, flags, Mode::empty())?), is_new))
}

/// Whether this is a link.
pub fn is_link((directory, name): At<'_>) -> Result<bool> {
    let found =
        fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).with_context(|| name.display().to_string())?;
    Ok(found.st_mode & libc::S_IFMT == libc::S_IFLNK)
}

/// Sets the mode of a file or directory, but not of what a link leads to.
pub fn set_mode((directory, name): At<'_>, mode: u32) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = File::from(openat(directory, name, flags, Mode::empty())?);
    Ok(opened.set_permissions(PermissionsExt::from_mode(mode))?)
}

/// The new file gets its name when it is whole.
fn replace_file(content: File, (to, new): At<'_>, mode: u32) -> Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
    let made = openat(to, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR);
    let mut made = match made {
        Ok(made) => File::from(made),
        // Not every file system makes files without a name.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR) => return replace_in_place(content, (to, new), mode),
        Err(errno) => return Err(errno.into()),
    };
    copy_content(content, &mut made)?;
    made.set_permissions(PermissionsExt::from_mode(mode))?;
    failpoint!(blocking "command.file-copied");
    remove(to, new)?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&made));
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    Ok(nix::unistd::linkat(AT_FDCWD, Path::new(&path), to, new, follow)?)
}

fn replace_in_place(content: File, (to, new): At<'_>, mode: u32) -> Result<()> {
    remove(to, new)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut made = File::from(openat(to, new, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    copy_content(content, &mut made)?;
    made.set_permissions(PermissionsExt::from_mode(mode))?;
    Ok(())
}

/// Copies as much as there is now: it may grow as fast as it is copied.
fn copy_content(content: File, made: &mut File) -> io::Result<()> {
    let length = content.metadata()?.len();
    io::copy(&mut content.take(length), made).map(drop)
}

/// Makes room for a new file.
fn remove(directory: impl AsFd, name: &Path) -> Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => bail!("there is a directory of that name already"),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_tree_is_copied_with_modes_and_links() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/file"), "text").unwrap();
        fs::set_permissions(from.join("a/file"), PermissionsExt::from_mode(0o4751)).unwrap();
        symlink("/etc/shadow", from.join("a/b/link")).unwrap();
        let (from, top) = (File::open(from).unwrap(), File::open(&to).unwrap());
        for _ in 0..2 {
            copy((&from, Path::new("a")), (&top, Path::new("new")), ALL).unwrap();
        }
        assert_eq!(fs::read_to_string(to.join("new/file")).unwrap(), "text");
        assert_eq!(fs::metadata(to.join("new/file")).unwrap().mode() & 0o7777, 0o4751);
        copy((&from, Path::new("a")), (&top, Path::new("safe")), HARMLESS).unwrap();
        assert_eq!(fs::metadata(to.join("safe/file")).unwrap().mode() & 0o7777, 0o751);
        assert_eq!(fs::read_link(to.join("new/b/link")).unwrap(), Path::new("/etc/shadow"));
    }

    #[test]
    fn a_link_in_the_place_of_the_copy_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        fs::write(dir.path().join("victim"), "kept").unwrap();
        fs::write(dir.path().join("file"), "new").unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::create_dir(dir.path().join("elsewhere")).unwrap();
        symlink("../victim", to.join("file")).unwrap();
        symlink("../elsewhere", to.join("tree")).unwrap();
        let (from, top) = (File::open(dir.path()).unwrap(), File::open(&to).unwrap());
        copy((&from, Path::new("file")), (&top, Path::new("file")), ALL).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("victim")).unwrap(), "kept");
        assert_eq!(fs::read_to_string(to.join("file")).unwrap(), "new");
        assert!(copy((&from, Path::new("tree")), (&top, Path::new("tree")), ALL).is_err());
    }

    #[test]
    fn what_is_no_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        let top = File::open(dir.path()).unwrap();
        let error =
            format!("{:#}", copy((&top, Path::new("fifo")), (&top, Path::new("x")), ALL).unwrap_err());
        assert!(error.contains("fifo: neither"), "{error}");
        assert!(copy((&top, Path::new("none")), (&top, Path::new("x")), ALL).is_err());
    }
}
