//! Making, reading and removing files below a directory that is open: nothing here follows a link or leaves the directory.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, renameat2},
    sys::stat::{Mode, SFlag, fstat, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::{BENEATH, NAMED, beneath, kind, open_at, path_of, reopen};

/// Makes the directory `path` below `top` with the directories on its way, unless they are there, and opens it for naming it.
///
/// # Errors
/// When something on the way is no directory, or is a link; and the file system's.
pub fn make_directory(top: impl AsFd, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let mut at = beneath(top, Path::new("."))?;
    for part in path.components() {
        let name = match part {
            Component::Normal(name) => Path::new(name),
            Component::CurDir => continue,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no path below a directory")),
        };
        match mkdirat(&at, name, Mode::from_bits_truncate(mode)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = open_at(&at, name, OFlag::O_DIRECTORY, BENEATH)?;
    }
    Ok(at)
}

/// Makes the empty file `path` below `top`, whose directory is there.
///
/// # Errors
/// When something has that name; and the file system's.
pub fn make_file(top: impl AsFd, path: &Path, mode: u32) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    openat2(top, path, OpenHow::new().flags(flags).mode(Mode::from_bits_truncate(mode)).resolve(BENEATH))?;
    Ok(())
}

/// Opens the file `path` below `top` for reading. What is no regular file is not opened.
///
/// # Errors
/// When it is something else; and the file system's.
pub fn open_regular(top: impl AsFd, path: &Path) -> io::Result<File> {
    open_regular_for(top, path, OFlag::O_RDONLY)
}

/// As [`open_regular`], for writing as well.
///
/// # Errors
/// As there.
pub fn open_regular_to_write(top: impl AsFd, path: &Path) -> io::Result<File> {
    open_regular_for(top, path, OFlag::O_RDWR)
}

fn open_regular_for(top: impl AsFd, path: &Path, access: OFlag) -> io::Result<File> {
    let file = beneath(top, path)?;
    match kind(&fstat(&file)?) {
        SFlag::S_IFREG => reopen(file, access),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
    }
}

/// Gives the file `from` in the directory `top` the name `to`, which nothing has.
///
/// # Errors
/// When something has that name; and the file system's.
pub fn rename(top: impl AsFd, from: &str, to: &str) -> io::Result<()> {
    Ok(renameat2(&top, from, &top, to, RenameFlags::RENAME_NOREPLACE)?)
}

/// Whether a directory has anything in it.
///
/// # Errors
/// The file system's.
pub fn has_entries(directory: &impl AsFd) -> io::Result<bool> {
    Ok(fs::read_dir(path_of(directory))?.next().transpose()?.is_some())
}

/// Removes `path` below `top` with all that is below it, but nothing that is mounted there, which may be somebody's data: it
/// stays then with the directories on its way.
///
/// # Errors
/// When something is mounted there; and the file system's. What is not there is no error.
pub fn remove(top: impl AsFd, path: &Path) -> io::Result<()> {
    let parent = match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => beneath(top, parent),
        None => beneath(top, Path::new(".")),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    match parent.and_then(|parent| remove_from(&parent, name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn remove_from(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => {}
        done => return done.map_err(io::Error::from),
    }
    let in_its_mount = BENEATH | ResolveFlag::RESOLVE_NO_XDEV;
    let directory = open_at(parent, Path::new(name), OFlag::O_DIRECTORY, in_its_mount).map_err(|error| {
        let is_mounted = error.raw_os_error() == Some(Errno::EXDEV as i32);
        if is_mounted { io::Error::other(format!("{} is still mounted", name.display())) } else { error }
    })?;
    for entry in fs::read_dir(path_of(&directory))? {
        remove_from(&directory, &entry?.file_name())?;
    }
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

/// Opens the directory `path` that the host's root named, for naming it; it is made with those on its way unless they are
/// there. Of what is there, links are followed.
///
/// # Errors
/// The file system's.
pub fn directory_for(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    match open_at(AT_FDCWD, path, OFlag::O_DIRECTORY, NAMED) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
            make_directory(directory_for(parent, mode)?, Path::new(name), mode)
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::{
        super::{Pinned, socket::split},
        *,
    };

    fn directory() -> (tempfile::TempDir, Pinned) {
        let dir = tempfile::tempdir().unwrap();
        let top = Pinned::open(dir.path()).unwrap();
        (dir, top)
    }

    #[test]
    fn directories_are_made_below_and_not_through_links() {
        let (dir, top) = directory();
        let prize = tempfile::tempdir().unwrap();
        symlink(prize.path(), dir.path().join("link")).unwrap();
        symlink("real", dir.path().join("inside")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        make_directory(&top, Path::new("real/a/b"), 0o755).unwrap();
        make_directory(&top, Path::new("./real/a/b"), 0o755).unwrap();
        assert!(dir.path().join("real/a/b").is_dir());
        for path in ["link", "link/x", "inside/x", "../x", "/x", "real/../../x", "file", "file/x"] {
            make_directory(&top, Path::new(path), 0o755).unwrap_err();
        }
        assert_eq!(fs::read_dir(prize.path()).unwrap().count(), 0);
        assert!(!dir.path().join("real/x").exists());
    }

    #[test]
    fn a_file_is_made_where_nothing_is() {
        let (dir, top) = directory();
        symlink("prize", dir.path().join("link")).unwrap();
        make_file(&top, Path::new("new"), 0o644).unwrap();
        for path in ["new", "link", "../x", "/x"] {
            make_file(&top, Path::new(path), 0o644).unwrap_err();
        }
        assert!(!dir.path().join("prize").exists());
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let (dir, top) = directory();
        fs::write(dir.path().join("file"), "text").unwrap();
        symlink("file", dir.path().join("link")).unwrap();
        mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        let read = |path: &str| open_regular(&top, Path::new(path)).and_then(io::read_to_string);
        assert_eq!(read("file").unwrap(), "text");
        for path in ["link", "fifo", ".", "../file", "absent"] {
            read(path).unwrap_err();
        }
    }

    #[test]
    fn a_tree_is_removed_and_what_its_links_lead_to_is_not() {
        let (dir, top) = directory();
        let prize = tempfile::tempdir().unwrap();
        fs::write(prize.path().join("file"), "").unwrap();
        fs::create_dir_all(dir.path().join("tree/a/b")).unwrap();
        fs::write(dir.path().join("tree/a/file"), "").unwrap();
        for name in ["tree/link", "tree/a/b/link", "outside"] {
            symlink(prize.path(), dir.path().join(name)).unwrap();
        }
        remove(&top, Path::new("outside/file")).unwrap_err();
        remove(&top, Path::new("tree")).unwrap();
        remove(&top, Path::new("tree")).unwrap();
        remove(&top, Path::new("outside")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(prize.path().join("file").exists());
    }

    #[test]
    fn a_log_directory_is_made_and_found_through_links() {
        let (dir, _) = directory();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        symlink("nowhere", dir.path().join("dangling")).unwrap();
        directory_for(&dir.path().join("link/a/b"), 0o755).unwrap();
        assert!(dir.path().join("real/a/b").is_dir());
        directory_for(&dir.path().join("dangling/a"), 0o755).unwrap_err();
        assert!(!dir.path().join("nowhere").exists());
        assert!(split(AT_FDCWD, Path::new("/")).is_err());
    }
}
