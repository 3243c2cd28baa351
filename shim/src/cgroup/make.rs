//! Makes a cgroup before its first process, so that processes start in it. libcgroups can only move a process into a
//! new one, and each move costs the kernel an RCU grace period: 11 virtual ms.

use std::{fs, io, path::Path};

use log::debug;

/// The controllers that a cgroup can enable for its children, and those that it has enabled. Source: the kernel's
/// cgroup-v2.rst.
const CONTROLLERS: &str = "cgroup.controllers";
const SUBTREE_CONTROL: &str = "cgroup.subtree_control";

/// Makes the cgroup `path`, and those above it up to `root`, each with all the controllers that the one above has.
pub fn with_parents(root: &Path, path: &Path) -> io::Result<()> {
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
fn enable_controllers(cgroup: &Path) -> io::Result<()> {
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
