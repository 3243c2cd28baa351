//! The cgroup of a service, where its manager leaves what is below it to the service (`Delegate=` of systemd).

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use super::{PROCS, ROOT, is_delegated, make::enable_controllers, seat::v2};

/// Moves this process from its cgroup into the child `name` of it, if the cgroup is delegated and no other process is in it.
/// Answers the cgroup's place below the hierarchy's root: cgroups can be made there, and limited.
///
/// # Errors
/// When it cannot be moved.
pub fn enter(name: &str) -> io::Result<Option<PathBuf>> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let Some(service) = v2(&text).map(Path::new) else { return Ok(None) };
    let directory = Path::new(ROOT).join(service);
    if !is_delegated(&directory) || !has_only(&directory, process::id())? {
        return Ok(None);
    }
    let child = directory.join(name);
    match fs::create_dir(&child) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => fs::write(child.join(PROCS), process::id().to_string())?,
    }
    enable_controllers(&directory)?;
    Ok(Some(Path::new("/").join(service)))
}

/// Whether a process is the only one in a cgroup: the kernel limits none below one that has processes.
fn has_only(cgroup: &Path, pid: u32) -> io::Result<bool> {
    let all = fs::read_to_string(cgroup.join(PROCS))?;
    Ok(all.lines().eq([pid.to_string()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_with_others_is_not_ours_to_divide() {
        let cgroup = tempfile::tempdir().unwrap();
        for (all, is_alone) in [("7\n", true), ("7\n8\n", false), ("77\n", false), ("", false)] {
            fs::write(cgroup.path().join(PROCS), all).unwrap();
            assert_eq!(has_only(cgroup.path(), 7).unwrap(), is_alone, "{all:?}");
        }
    }
}
