//! A container's cgroup (v2). RPCs: Pause, Resume, and in the modules below Update and Stats.

pub mod resources;
pub mod stats;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use linux::cgroup::{MEMORY_EVENTS, oom_kills};
use tokio::io::Interest;

use crate::boot::mounts::CGROUP_ROOT;
use crate::io::poll;

/// How long a cgroup may take to freeze or to empty before that is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// What reading the processes of a cgroup gives that was removed, or is threaded. Source: cgroups(7), the kernel's cgroup-v2.rst.
const GONE: [i32; 3] = [libc::ENOENT, libc::ENODEV, libc::EOPNOTSUPP];

/// The directory of a container's cgroup, and that of the cgroup that its first process is in.
pub type Places = [PathBuf; 2];

/// Moves this process there. A container that manages cgroups itself has moved its first process into a child of its cgroup, and
/// the kernel then takes no process in the parent: join the first process.
pub fn join(places: &Places) -> Result<()> {
    let join = |cgroup: &PathBuf| fs::write(cgroup.join("cgroup.procs"), "0");
    match join(&places[0]) {
        Err(err) if err.raw_os_error() == Some(libc::EBUSY) => join(&places[1]),
        done => done,
    }
    .with_context(|| format!("join the cgroup {}", places[0].display()))
}

/// The cgroup of one container.
#[derive(Debug, Clone)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// `path` is the spec's cgroupsPath: absolute, without `..`.
    pub fn new(path: &Path) -> Cgroup {
        Cgroup(Path::new(CGROUP_ROOT).join(path.strip_prefix("/").unwrap_or(path)))
    }

    pub fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.0.join(file)).ok()
    }

    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, value).with_context(|| format!("write {value:?} to {}", path.display()))
    }

    /// Where to [`join`] it. `first` is the container's first process, which has not been reaped.
    pub fn places(&self, first: i32) -> Result<Places> {
        let path = format!("/proc/{first}/cgroup");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let current = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        Ok([self.0.clone(), Path::new(CGROUP_ROOT).join(current)])
    }

    /// Every process in it and in the cgroups below it.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        each(&self.0, &mut |cgroup| {
            let path = cgroup.join("cgroup.procs");
            let text = match fs::read_to_string(&path) {
                // One that went meanwhile, or whose threads are told by the cgroup above it.
                Err(err) if GONE.contains(&err.raw_os_error().unwrap_or(0)) && cgroup != self.0 => {
                    return Ok(());
                }
                text => text.with_context(|| format!("read {}", path.display()))?,
            };
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
            Ok(())
        })?;
        pids.sort_unstable();
        Ok(pids)
    }

    /// Sends SIGKILL to everything in it at once.
    pub fn kill(&self) -> Result<()> {
        match fs::write(self.0.join("cgroup.kill"), "1") {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.with_context(|| format!("kill the processes of {}", self.0.display())),
        }
    }

    pub fn frozen(&self) -> bool {
        self.read("cgroup.freeze").is_some_and(|text| text.trim() == "1")
    }

    /// Freezes or thaws it, and waits until the kernel has done that.
    pub async fn freeze(&self, freeze: bool) -> Result<()> {
        let wanted = if freeze { "1" } else { "0" };
        self.write("cgroup.freeze", wanted)?;
        self.event("frozen", wanted).await
    }

    /// The number of processes in it that the OOM killer killed.
    pub fn oom_kills(&self) -> u64 {
        oom_kills(&self.read(MEMORY_EVENTS).unwrap_or_default())
    }

    /// As [`Cgroup::oom_kills`], once they are more than `known`.
    pub async fn oom_kills_beyond(&self, known: u64) -> Result<u64> {
        self.poll(MEMORY_EVENTS, |text| Some(oom_kills(text)).filter(|count| *count > known)).await
    }

    /// Kills what is left, and removes it and the cgroups below it.
    pub async fn remove(&self) -> Result<()> {
        if !self.0.exists() {
            return Ok(());
        }
        self.clear().await?;
        remove_tree(&self.0)
    }

    /// Kills everything in it, and waits until it is empty.
    pub async fn clear(&self) -> Result<()> {
        self.kill()?;
        self.event("populated", "0").await
    }

    /// Waits until cgroup.events says `key` is `wanted`.
    async fn event(&self, key: &str, wanted: &str) -> Result<()> {
        let is_wanted = |text: &str| text.lines().any(|line| line.split_once(' ') == Some((key, wanted)));
        let wait = self.poll("cgroup.events", |text| is_wanted(text).then_some(()));
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(done) => done,
            Err(_) => {
                let name = self.0.join("cgroup.events");
                bail!("{} does not say \"{key} {wanted}\" after {PATIENCE:?}", name.display())
            }
        }
    }

    /// Waits until `found` finds something in one of its files that tell of changes.
    async fn poll<T>(&self, file: &str, found: impl Fn(&str) -> Option<T>) -> Result<T> {
        let path = self.0.join(file);
        let name = path.display();
        let file = fs::File::open(&path).with_context(|| format!("open {name}"))?;
        let file = poll::register(file, Interest::PRIORITY).with_context(|| format!("poll {name}"))?;
        loop {
            let text = fs::read_to_string(&path).with_context(|| format!("read {name}"))?;
            if let Some(found) = found(&text) {
                return Ok(found);
            }
            file.ready(Interest::PRIORITY).await?.clear_ready();
        }
    }
}

fn each(cgroup: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    visit(cgroup)?;
    for child in children(cgroup)? {
        each(&child, visit)?;
    }
    Ok(())
}

fn remove_tree(cgroup: &Path) -> Result<()> {
    for child in children(cgroup)? {
        remove_tree(&child)?;
    }
    match fs::remove_dir(cgroup) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("remove {}", cgroup.display())),
    }
}

fn children(cgroup: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(cgroup)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        Ok(found)
    };
    list().with_context(|| format!("list {}", cgroup.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(Cgroup::new(Path::new("/krun/c1")).0, Path::new("/sys/fs/cgroup/krun/c1"));
    }
}
