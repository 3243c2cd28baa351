//! The cgroup of a fork that looks again for a container: beside the container's, so that a container at its limits, or one that is
//! paused, is not in its way, nor it in the container's. What it may take is bounded all the same.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::boot::mounts::CGROUP_ROOT;

/// The directory of all of them. Containers have theirs in another.
const ALL: &str = "krun-look";

/// Bytes of memory, processes, and weight of CPU time (of 1 to 10,000, usually 100).
const LIMITS: [(&str, &str); 3] = [("memory.max", "67108864"), ("pids.max", "2"), ("cpu.weight", "25")];

/// Removed when it is dropped.
pub struct LookCgroup(PathBuf);

impl LookCgroup {
    /// Makes that of container `id`.
    pub fn make(id: &str) -> io::Result<LookCgroup> {
        let all = Path::new(CGROUP_ROOT).join(ALL);
        fs::create_dir_all(all.join(id))?;
        let own = LookCgroup(all.join(id));
        // A kernel of the administrator's may lack a controller: then that limit does not hold.
        for controller in ["+memory", "+pids", "+cpu"] {
            let _ = fs::write(all.join("cgroup.subtree_control"), controller);
        }
        for (file, value) in LIMITS {
            let _ = fs::write(own.0.join(file), value);
        }
        Ok(own)
    }

    /// Moves this process there.
    pub fn join(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), "0")
    }
}

impl Drop for LookCgroup {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_dir(&self.0) {
            log::warn!("remove {}: {err}", self.0.display());
        }
    }
}
