//! The box's processes, as /proc shows them.

use anyhow::{Context, Result};
use std::fs;

/// The program that becomes a microVM.
const VMM: &str = "krun-vmm";

#[derive(Clone, Debug)]
pub struct Proc {
    pub pid: i32,
    pub ppid: i32,
    /// Ticks since boot at its start: with the pid, its identity.
    pub started: u64,
    pub argv: Vec<String>,
    /// The name that the kernel has for it, at most 15 bytes.
    comm: String,
}

impl Proc {
    /// The last component of argv[0].
    pub fn name(&self) -> &str {
        let first = self.argv.first().map_or("", String::as_str);
        first.rsplit('/').next().unwrap_or_default()
    }

    /// By its command line or by what it called itself.
    pub fn is_called(&self, name: &str) -> bool {
        self.name() == name || self.comm == name
    }

    pub fn is_alive(&self) -> bool {
        read(self.pid).is_some_and(|now| now.started == self.started)
    }
}

/// A process's cgroup, from the hierarchy's root.
pub fn cgroup_of(pid: i32) -> Result<String> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/cgroup")).with_context(|| format!("cgroup of {pid}"))?;
    Ok(text.trim().rsplit(':').next().unwrap_or_default().to_owned())
}

/// All processes but kernel threads and zombies.
pub fn all() -> Result<Vec<Proc>> {
    let entries = fs::read_dir("/proc").context("list /proc")?;
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(read).collect())
}

/// None when there is no such process, or when it is a kernel thread or a zombie, which have no command line.
fn read(pid: i32) -> Option<Proc> {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let argv: Vec<String> =
        String::from_utf8_lossy(&cmdline).split_terminator('\0').map(str::to_owned).collect();
    // After the last ')' of the name: state, ppid, …; the start time is field 22 of the whole (proc_pid_stat(5)).
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, fields) = stat.rsplit_once(')')?;
    let comm = name.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let (ppid, started) = (fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?);
    (!argv.is_empty()).then_some(Proc { pid, ppid, started, argv, comm })
}

/// The shim that serves this container.
pub fn shim_of(id: &str) -> Result<Option<Proc>> {
    let names_id = |p: &Proc| p.argv.windows(2).any(|w| w[0] == "-id" && w[1] == id);
    Ok(all()?.into_iter().find(|p| p.name().starts_with("containerd-shim-") && names_id(p)))
}

/// The process of this name that the container's shim started.
pub fn child_of_shim(id: &str, name: &str) -> Result<Option<Proc>> {
    let Some(shim) = shim_of(id)? else { return Ok(None) };
    Ok(all()?.into_iter().find(|p| p.ppid == shim.pid && p.is_called(name)))
}

/// The container's microVM.
pub fn vmm_of(id: &str) -> Result<Proc> {
    let none = || format!("no krun-vmm of the shim of {id}");
    vmm_of_shim(shim_of(id)?.with_context(none)?.pid)?.with_context(none)
}

/// The microVM of a shim, which has started it, or has its pidfd.
pub fn vmm_of_shim(shim: i32) -> Result<Option<Proc>> {
    let held = pidfds_of(shim)?;
    let is_its = |process: &Proc| process.ppid == shim || held.contains(&process.pid);
    Ok(all()?.into_iter().find(|process| process.is_called(VMM) && is_its(process)))
}

/// The processes that a process has pidfds of. Source: proc_pid_fdinfo(5).
fn pidfds_of(pid: i32) -> Result<Vec<i32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).context("list descriptors")?;
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let pid = |text: String| text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    Ok(texts.filter_map(pid).collect())
}

/// Whether a process is the pool.
pub fn is_pool(process: &Proc) -> bool {
    process.name() == "krunctl" && process.argv.get(1).is_some_and(|command| command == "pool")
}

/// The container's pid on the host.
pub fn anchor_of(id: &str) -> Result<Proc> {
    child_of_shim(id, "krun-anchor")?.with_context(|| format!("no krun-anchor below the shim of {id}"))
}
