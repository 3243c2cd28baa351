//! What is known of a sandbox's VM, in a file of the sandbox's directory as long as that is there: `krunctl ps` reads it.
//!
//! The directory lets in root alone, and neither the vmm nor the guest sees it.

#![expect(clippy::disallowed_methods, reason = "directories that let in root alone")]

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::state_dir;

/// The file's name in a sandbox's directory, and while it is written.
const NAME: &str = "status.json";
const NEW: &str = "status.new";

/// The largest file that is read, in bytes. The longest strings in it have 255 bytes, of which JSON makes six each at most.
const MAX_LENGTH: u64 = 64 << 10;

/// A sandbox and its VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// containerd's namespace; `krunctl` for VMs of krunctl's.
    pub namespace: String,
    /// The sandbox's id, which is that of its first container.
    pub sandbox: String,
    /// The pod, if it is one of Kubernetes.
    pub pod: Option<PodName>,
    /// When its VM was wanted, in milliseconds since 1970.
    pub created_ms: u64,
    /// CPUs of the VM.
    pub cpus: u8,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// How it reaches the network: `tap`, `tsi` or `none`.
    pub network: String,
    /// Whether it was booted before it was wanted.
    pub warm: bool,
    /// The process that serves the sandbox: a shim, or a krunctl.
    pub shim: Process,
    /// The process that is the VM, once it is launched.
    pub vmm: Option<Process>,
    /// A process in the task's network namespace.
    pub anchor: Option<Process>,
    /// The directory of the VM's cgroup, if it has one of its own.
    pub cgroup: Option<PathBuf>,
    /// How long its boot took, once that is done.
    pub boot: Option<BootTimes>,
    /// What the guest says of its kernel's version. Who has taken over the guest chooses it.
    pub kernel: Option<String>,
}

/// What Kubernetes calls a pod. Its author chooses these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// Its name.
    pub name: String,
    /// Its namespace of Kubernetes.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
}

/// A process, which is told from a later one with the same pid by when it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// When it began, in clock ticks since the host's boot.
    pub started: u64,
}

/// The parts of a boot, in microseconds. Of a VM of the pool's, each is what was left to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTimes {
    /// From the wish for a VM to its process.
    pub launch_us: u64,
    /// From there until its guest calls.
    pub guest_us: u64,
    /// From there until the guest is configured.
    pub configure_us: u64,
}

impl Process {
    /// The process with this pid, if it is there and has not ended.
    pub fn of(pid: u32) -> Option<Process> {
        let stat = Stat::of(pid)?;
        (!stat.has_ended).then_some(Process { pid, started: stat.started })
    }

    /// Whether it is there still.
    pub fn is_there(&self) -> bool {
        Process::of(self.pid).as_ref() == Some(self)
    }
}

/// What /proc/PID/stat says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// When it began, in clock ticks since the host's boot.
    pub started: u64,
    /// Its CPU time, user's and kernel's, in clock ticks.
    pub cpu: u64,
    /// Whether only its parent has not heard of its end.
    pub has_ended: bool,
}

impl Stat {
    /// That of the process with this pid, if it is there.
    pub fn of(pid: u32) -> Option<Stat> {
        Stat::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Source: proc_pid_stat(5), fields 3, 14, 15 and 22. Field 2, the name, may have any byte.
    fn parse(stat: &[u8]) -> Option<Stat> {
        let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let fields: Vec<_> =
            std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            started: number(22)?,
            cpu: number(14)? + number(15)?,
            has_ended: matches!(*fields.first()?, "Z" | "X"),
        })
    }
}

/// The time now, as in [`Status::created_ms`].
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Writes it into the sandbox's directory.
///
/// # Errors
/// The file system's.
pub fn write(directory: &Path, status: &Status) -> io::Result<()> {
    let new = directory.join(NEW);
    fs::write(&new, serde_json::to_vec(status)?)?;
    fs::rename(new, directory.join(NAME))
}

/// All sandboxes of this host whose VM was wanted, with their directories. One that goes meanwhile, or whose file is broken, is left
/// out.
///
/// # Errors
/// The file system's.
pub fn all() -> io::Result<Vec<(PathBuf, Status)>> {
    all_in(Path::new(state_dir::ROOT))
}

fn all_in(root: &Path) -> io::Result<Vec<(PathBuf, Status)>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let directory = entry.ok()?.path();
            Some((read(&directory.join(NAME)).ok()?, directory))
        })
        .map(|(status, directory)| (directory, status))
        .collect();
    found.sort_by(|(_, a), (_, b)| (&a.namespace, &a.sandbox).cmp(&(&b.namespace, &b.sandbox)));
    Ok(found)
}

fn read(file: &Path) -> io::Result<Status> {
    let mut text = Vec::new();
    File::open(file)?.take(MAX_LENGTH).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(sandbox: &str) -> Status {
        Status {
            namespace: "default".to_owned(),
            sandbox: sandbox.to_owned(),
            pod: None,
            created_ms: now_ms(),
            cpus: 1,
            memory_mib: 1024,
            network: "tap".to_owned(),
            warm: false,
            shim: Process::of(std::process::id()).unwrap(),
            vmm: None,
            anchor: None,
            cgroup: None,
            boot: None,
            kernel: None,
        }
    }

    #[test]
    fn what_is_written_is_found_in_order_and_the_rest_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        for (directory, sandbox) in [("1", "b"), ("2", "a")] {
            fs::create_dir(root.path().join(directory)).unwrap();
            write(&root.path().join(directory), &status(sandbox)).unwrap();
        }
        for other in ["ctl", "waiting-x", "broken"] {
            fs::create_dir(root.path().join(other)).unwrap();
        }
        fs::write(root.path().join("broken").join(NAME), "{").unwrap();
        let found = all_in(root.path()).unwrap();
        let found: Vec<_> = found.iter().map(|(_, status)| status.sandbox.as_str()).collect();
        assert_eq!(found, ["a", "b"]);
        assert!(all_in(&root.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn a_process_is_told_from_a_later_one() {
        let us = Process::of(std::process::id()).unwrap();
        assert!(us.is_there());
        assert!(!Process { started: us.started + 1, ..us }.is_there());
        let stat = Stat::parse(b"7 (a\xff) b) S 1 1 1 0 -1 4 0 0 0 0 150 50 0 0 20 0 1 0 4242 99").unwrap();
        assert_eq!(stat, Stat { started: 4242, cpu: 200, has_ended: false });
        assert!(Stat::parse(b"7 (a) Z 1 1 1 0 -1 4 0 0 0 0 1 1 0 0 20 0 1 0 4242 99").unwrap().has_ended);
        assert_eq!(Stat::parse(b"7 (a"), None);
    }

    #[test]
    fn a_process_that_nobody_has_reaped_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        while Stat::of(pid).is_some_and(|stat| !stat.has_ended) {
            std::thread::yield_now();
        }
        assert_eq!(Process::of(pid), None);
        child.wait().unwrap();
    }
}
