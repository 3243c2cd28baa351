//! The end of a cgroup that we made: its processes are killed, and it is removed with all that is below it.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::Instant,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Kills every process in the cgroup and below it, and waits for their end until `deadline`. One that is gone has none.
pub fn kill(cgroup: &Path, deadline: Instant) -> io::Result<()> {
    let mut events = match File::open(cgroup.join("cgroup.events")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    fs::write(cgroup.join("cgroup.kill"), "1")?;
    loop {
        let mut text = String::new();
        events.seek(SeekFrom::Start(0))?;
        events.read_to_string(&mut text)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if !text.lines().any(|line| line == "populated 1") || left.is_zero() {
            return Ok(());
        }
        // A change of the file is an exceptional condition. Source: the kernel's cgroup-v2.rst.
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left))?;
    }
}

/// Removes the cgroup, and those below it first. The kernel refuses while there is a process.
pub fn remove(cgroup: &Path) -> io::Result<()> {
    let below = match fs::read_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed?,
    };
    for entry in below {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_goes_first() {
        let root = tempfile::tempdir().unwrap();
        let cgroup = root.path().join("pod");
        fs::create_dir_all(cgroup.join("vm/deeper")).unwrap();
        fs::create_dir_all(cgroup.join("shim")).unwrap();
        remove(&cgroup).unwrap();
        assert!(!cgroup.exists() && root.path().exists());
        remove(&cgroup).unwrap();
        kill(&cgroup, Instant::now()).unwrap();
    }

    #[test]
    fn a_cgroup_that_is_in_use_stays() {
        let root = tempfile::tempdir().unwrap();
        // As a process keeps a cgroup, a file keeps this directory.
        fs::write(root.path().join("process"), "").unwrap();
        remove(root.path()).unwrap_err();
        assert!(root.path().exists());
    }
}
