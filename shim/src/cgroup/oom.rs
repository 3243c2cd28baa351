//! Whether the kernel OOM-killed a process of a cgroup.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use linux::cgroup::{MEMORY_EVENTS, oom_kills};

/// The OOM kills in a cgroup since this was made.
#[derive(Debug)]
pub struct OomKills {
    events: File,
    before: u64,
}

impl OomKills {
    /// Those from now on in the cgroup at `path`; none where the kernel does not count them.
    pub fn watch(path: &Path) -> Option<OomKills> {
        let events = File::open(path.join(MEMORY_EVENTS)).ok()?;
        let before = count(&events).ok()?;
        Some(OomKills { events, before })
    }

    /// Whether there were any. A cgroup that is gone has none.
    pub fn more(&self) -> bool {
        count(&self.events).is_ok_and(|now| now > self.before)
    }
}

fn count(events: &File) -> io::Result<u64> {
    let mut text = [0; 256];
    let length = events.read_at(&mut text, 0)?;
    Ok(oom_kills(&String::from_utf8_lossy(&text[..length])))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_new_kills_count() {
        let dir = tempfile::tempdir().unwrap();
        assert!(OomKills::watch(dir.path()).is_none());
        let path = dir.path().join(MEMORY_EVENTS);
        fs::write(&path, "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n").unwrap();
        let kills = OomKills::watch(dir.path()).unwrap();
        assert!(!kills.more());
        fs::write(&path, "low 0\nhigh 0\nmax 9\noom 3\noom_kill 3\noom_group_kill 0\n").unwrap();
        assert!(kills.more());
    }
}
