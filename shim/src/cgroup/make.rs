//! Makes a cgroup before its first process, so that processes start in it. libcgroups can only move a process into a
//! new one, and each move costs the kernel an RCU grace period: 11 virtual ms.
//!
//! A cgroup is ours when our mkdir made it. One that was there is somebody else's: it is neither limited, nor killed,
//! nor removed, and what we need is made below it.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use log::{debug, info};
use sha2::{Digest, Sha256};

use super::is_delegated;
use crate::{
    error::{Error, Result},
    record::{Cgroup, Entry, Record},
};

/// The controllers that a cgroup can enable for its children, and those that it has enabled. Source: the kernel's
/// cgroup-v2.rst.
const CONTROLLERS: &str = "cgroup.controllers";
pub const SUBTREE_CONTROL: &str = "cgroup.subtree_control";

/// Hexadecimal digits in the name of a cgroup below somebody else's.
const NAME_DIGITS: usize = 16;

/// Makes the cgroup `path` below `root`, or one below it when it is there already; whose it is is written to `record`.
/// `bundle` is its container's.
///
/// # Errors
/// When it cannot be made, naming it.
pub fn own(root: &Path, path: &Path, bundle: &Path, record: &Record) -> Result<PathBuf> {
    if path != root
        && let Some(parent) = path.parent()
    {
        with_parents(root, parent).and_then(|()| enable_controllers(parent)).map_err(|e| failed(path, e))?;
        if make(path, record)? {
            return Ok(path.to_owned());
        }
    }
    let child = path.join(child_name(bundle));
    info!("cgroup {} is there already, and not ours: {} is made", path.display(), child.display());
    enable_controllers(path).map_err(|e| failed(path, e))?;
    // A dead shim of this very container may have left it. The kernel removes none with a process.
    let _ = fs::remove_dir(&child);
    match make(&child, record)? {
        true => Ok(child),
        false => Err(failed(&child, io::ErrorKind::AlreadyExists.into())),
    }
}

/// Makes one cgroup; whether we did.
fn make(path: &Path, record: &Record) -> Result<bool> {
    // Before anything is written down: the record must never name a cgroup that was there.
    if path.exists() {
        return Ok(false);
    }
    let cgroup = Cgroup { path: path.to_owned(), unit: None };
    record.write(&Entry::MakingCgroup(cgroup.clone()))?;
    match fs::create_dir(path) {
        Ok(()) => record.write(&Entry::MadeCgroup(cgroup)).map(|()| true).inspect_err(|_| {
            let _ = fs::remove_dir(path);
        }),
        Err(error) => {
            record.write(&Entry::NoCgroup)?;
            match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(false),
                _ => Err(failed(path, error)),
            }
        }
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::internal(format!("make cgroup {}", path.display())).because(error)
}

/// The name of a container's cgroup below somebody else's; its bundle's path is the container's alone.
fn child_name(bundle: &Path) -> String {
    let mut name = String::from("krun-");
    for byte in &Sha256::digest(bundle.as_os_str().as_encoded_bytes())[..NAME_DIGITS / 2] {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Makes the cgroup `path`, and those above it up to `root`, each with all the controllers that the one above has. What is above a
/// cgroup that a service manager delegates is the manager's.
fn with_parents(root: &Path, path: &Path) -> io::Result<()> {
    let root =
        path.ancestors().take_while(|above| *above != root).find(|above| is_delegated(above)).unwrap_or(root);
    let below = path.strip_prefix(root).map_err(io::Error::other)?;
    let mut at = root.to_owned();
    for name in below.components() {
        enable_controllers(&at)?;
        at.push(name);
        match fs::create_dir(&at) {
            // Somebody else may make a parent at the same time.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Enables all controllers for the children of `cgroup`. One that cannot be enabled (a cgroup with processes enables
/// none) fails the limit that needs it, if any does.
pub fn enable_controllers(cgroup: &Path) -> io::Result<()> {
    let enabled = fs::read_to_string(cgroup.join(SUBTREE_CONTROL))?;
    for controller in fs::read_to_string(cgroup.join(CONTROLLERS))?.split_whitespace() {
        if !enabled.split_whitespace().any(|one| one == controller)
            && let Err(error) = fs::write(cgroup.join(SUBTREE_CONTROL), format!("+{controller}"))
        {
            debug!("enable {controller} below {}: {error}", cgroup.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hierarchy with a cgroup of somebody else's, and a bundle.
    fn hierarchy() -> (tempfile::TempDir, PathBuf, PathBuf, Record) {
        let dir = tempfile::tempdir().unwrap();
        let (root, bundle) = (dir.path().join("cgroups"), dir.path().join("bundle"));
        for cgroup in [root.clone(), root.join("theirs")] {
            fs::create_dir_all(&cgroup).unwrap();
            fs::write(cgroup.join(CONTROLLERS), "memory pids").unwrap();
            fs::write(cgroup.join(SUBTREE_CONTROL), "memory pids").unwrap();
        }
        fs::create_dir(&bundle).unwrap();
        let record = Record::of(&bundle);
        (dir, root, bundle, record)
    }

    #[test]
    fn a_cgroup_that_was_not_there_is_ours() {
        let (_dir, root, bundle, record) = hierarchy();
        let path = root.join("theirs/c1");
        assert_eq!(own(&root, &path, &bundle, &record).unwrap(), path);
        assert_eq!(record.read().unwrap().made, Some(Cgroup { path, unit: None }));
    }

    #[test]
    fn one_that_was_there_is_not_ours_but_what_is_made_below_it() {
        let (_dir, root, bundle, record) = hierarchy();
        for theirs in [root.join("theirs"), root.clone()] {
            let path = own(&root, &theirs, &bundle, &record).unwrap();
            assert_eq!(path.parent(), Some(theirs.as_path()));
            assert!(path.is_dir());
            assert_eq!(record.read().unwrap().made.unwrap().path, path);
        }
        // As after a shim that died; a process in it would keep it.
        let left = own(&root, &root.join("theirs"), &bundle, &record).unwrap();
        fs::write(left.join("process"), "").unwrap();
        own(&root, &root.join("theirs"), &bundle, &record).unwrap_err();
        assert!(left.exists());
    }

    #[test]
    fn nothing_is_made_that_cannot_be_written_down() {
        let (_dir, root, bundle, record) = hierarchy();
        fs::remove_dir(&bundle).unwrap();
        let path = root.join("theirs/c1");
        own(&root, &path, &bundle, &record).unwrap_err();
        assert!(!path.exists());
    }

    #[test]
    fn each_parent_enables_what_it_has() {
        let root = tempfile::tempdir().unwrap();
        let parent = root.path().join("a");
        fs::create_dir(&parent).unwrap();
        for (dir, given) in [(root.path(), "cpu memory"), (&parent, "memory")] {
            fs::write(dir.join(CONTROLLERS), "cpu memory\n").unwrap();
            fs::write(dir.join(SUBTREE_CONTROL), given).unwrap();
        }
        with_parents(root.path(), &parent.join("b")).unwrap();
        assert!(parent.join("b").is_dir());
        // The kernel would add it to the others.
        assert_eq!(fs::read_to_string(parent.join(SUBTREE_CONTROL)).unwrap(), "+cpu");
        assert_eq!(fs::read_to_string(root.path().join(SUBTREE_CONTROL)).unwrap(), "cpu memory");
        with_parents(root.path(), &parent.join("b")).unwrap();
        with_parents(root.path(), Path::new("/elsewhere")).unwrap_err();
    }
}
