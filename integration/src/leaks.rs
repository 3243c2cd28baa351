//! What the box holds at one moment, and what two moments differ in.
//!
//! Every scenario must leave the box as it was: a process, mount, network namespace, cgroup, socket, state directory,
//! container, task or snapshot more (or less) afterwards is a failure.

use crate::procs;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Directories whose entries are listed all the way down.
const TREES: [&str; 4] = ["/run/krun", "/run/containerd/s", "/run/containerd/fifo", "/run/netns"];
/// containerd's bundles: <namespace>/<id>.
const BUNDLES: [&str; 2] =
    ["/run/containerd/io.containerd.runtime.v2.task", "/var/lib/containerd/io.containerd.runtime.v2.task"];
const CGROUPS: &str = "/sys/fs/cgroup";
const DAEMON: &str = "containerd";
/// What the pool has for VMs that wait, which come and go.
const WAITING: &str = "/run/krun/waiting-";
/// What other people's visits to the box start.
const VISITORS: [&str; 2] = ["sshd", "sshd-session"];

/// Kind of thing → the things.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, BTreeSet<String>>);

impl Snapshot {
    /// Looks at everything that costs nothing to look at, and asks containerd for the rest.
    pub fn take() -> Result<Self> {
        let mut kinds = cheap()?;
        kinds.insert("containerd's", containerds()?);
        Ok(Self(kinds))
    }

    /// One line for each thing that `later` has more or less than this.
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (kind, now) in &later.0 {
            let then = &self.0[kind];
            lines.extend(now.difference(then).map(|thing| format!("left behind: {kind} {thing}")));
            lines.extend(then.difference(now).map(|thing| format!("gone: {kind} {thing}")));
        }
        lines
    }

    /// The things of one kind that `later` has more.
    pub fn added<'a>(&'a self, later: &'a Self, kind: &str) -> Vec<&'a str> {
        later.0[kind].difference(&self.0[kind]).map(String::as_str).collect()
    }
}

fn cheap() -> Result<BTreeMap<&'static str, BTreeSet<String>>> {
    Ok(BTreeMap::from([
        ("process", processes()?),
        ("mount", mounts()?),
        ("network namespace", network_namespaces()?),
        ("cgroup", tree(Path::new(CGROUPS), usize::MAX, &|p| p.is_dir() && !is_namespace_cgroup(p))),
        ("socket", bound_sockets()?),
        ("file", TREES.iter().flat_map(|t| tree(Path::new(t), usize::MAX, &|p| !is_waiting(p))).collect()),
        (
            "bundle",
            BUNDLES.iter().flat_map(|t| tree(Path::new(t), 2, &|p| depth_below(p, BUNDLES) == 2)).collect(),
        ),
        ("device", tree(Path::new("/dev"), 1, &|path| !is_spare(path))),
    ]))
}

fn is_waiting(path: &Path) -> bool {
    path.to_string_lossy().starts_with(WAITING)
}

/// What the modules of loop and mapped devices have in /dev without any: nodes stay once they are made.
fn is_spare(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_bound = || Path::new("/sys/block").join(&*name).join("loop").exists();
    name == "mapper" || name == "loop-control" || name.starts_with("loop") && !is_bound()
}

/// The parent of all cgroups of a containerd namespace, which belongs to no container and which runc leaves too.
fn is_namespace_cgroup(path: &Path) -> bool {
    path.parent() == Some(Path::new(CGROUPS))
        && path.file_name().is_some_and(|name| namespaces().contains(&*name.to_string_lossy()))
}

/// Everything that runs, but for the pool's VMs.
fn all_processes() -> Result<Vec<procs::Proc>> {
    let mut all = procs::all()?;
    let pools: Vec<i32> = all.iter().filter(|p| procs::is_pool(p)).map(|p| p.pid).collect();
    // One that was taken is in another cgroup.
    let waits = |p: &procs::Proc| {
        let (its, pools_own) = (procs::cgroup_of(p.pid), procs::cgroup_of(p.ppid));
        pools.contains(&p.ppid)
            && its.is_ok_and(|its| its.ends_with("/krun-waiting") || pools_own.is_ok_and(|own| own == its))
    };
    all.retain(|p| !waits(p));
    Ok(all)
}

/// Everything that runs, but for this process, its own children and visitors.
fn processes() -> Result<BTreeSet<String>> {
    let all = all_processes()?;
    let parents: BTreeMap<i32, i32> = all.iter().map(|p| (p.pid, p.ppid)).collect();
    let visitors: BTreeSet<i32> =
        all.iter().filter(|p| VISITORS.contains(&p.name())).map(|p| p.pid).collect();
    let own = std::process::id() as i32;
    let foreign = |mut pid: i32| {
        while pid > 1 {
            if pid == own || visitors.contains(&pid) {
                return false;
            }
            pid = parents.get(&pid).copied().unwrap_or(0);
        }
        true
    };
    // The daemon is the same whatever its pid: a scenario may restart it.
    let line = |p: &procs::Proc| match p.name() {
        DAEMON => DAEMON.to_owned(),
        _ => format!("{} {}", p.pid, p.argv.join(" ")),
    };
    Ok(all.iter().filter(|p| foreign(p.pid)).map(line).collect())
}

/// What whoever makes the first named namespace leaves for all later ones. Source: ip-netns(8).
const NETNS_DIR: &str = "/run/netns (tmpfs)";

fn mounts() -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    // proc_pid_mountinfo(5): field 5 is the mount point; after the lone dash come file system type and source.
    let line = |l: &str| {
        let (left, right) = l.split_once(" - ")?;
        Some(format!("{} ({})", left.split(' ').nth(4)?, right.split(' ').next()?))
    };
    Ok(table.lines().filter_map(line).filter(|line| line != NETNS_DIR).collect())
}

fn network_namespaces() -> Result<BTreeSet<String>> {
    let of = |p: procs::Proc| fs::read_link(format!("/proc/{}/ns/net", p.pid)).ok();
    Ok(all_processes()?.into_iter().filter_map(of).map(|l| l.display().to_string()).collect())
}

/// Paths and abstract names that some unix socket is bound to.
fn bound_sockets() -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/net/unix").context("read /proc/net/unix")?;
    let paths = table.lines().skip(1).filter_map(|l| l.split_whitespace().nth(7));
    Ok(paths.filter(|path| !is_waiting(Path::new(path))).map(str::to_owned).collect())
}

/// Interfaces and addresses of the box, and rules of its packet filter. Not for every scenario: CNI's bridge and chains stay
/// once they are made.
pub fn network() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (kind, argv) in [
        ("interface", &["ip", "-oneline", "link", "show"][..]),
        ("address", &["ip", "-oneline", "address", "show"]),
        ("rule", &["iptables-save"]),
        ("rule", &["ip6tables-save"]),
    ] {
        let output = Command::new(argv[0]).args(&argv[1..]).output().with_context(|| argv[0].to_owned())?;
        anyhow::ensure!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            // An interface's number and name, an address's with it: what follows changes with time. Comments tell the time.
            let words = match kind {
                "interface" => 2,
                "address" => 4,
                _ => usize::MAX,
            };
            let words: Vec<_> = line.split_whitespace().take(words).collect();
            // A chain's line ends with its counters.
            if let Some(first) = words.first().filter(|first| !first.starts_with('#')) {
                let whole = if first.starts_with(':') { words[..2].join(" ") } else { words.join(" ") };
                found.insert(format!("{kind} {whole}"));
            }
        }
    }
    Ok(found)
}

/// Containers, tasks, snapshots and leases of every namespace that ever had a task.
fn containerds() -> Result<BTreeSet<String>> {
    let mut questions = Vec::new();
    for namespace in namespaces() {
        for what in [
            &["container", "ls", "-q"][..],
            &["task", "ls", "-q"],
            &["snapshot", "ls"],
            &["leases", "ls", "-q"],
        ] {
            let args = [&["--namespace", namespace.as_str()], what].concat();
            let child = Command::new("ctr")
                .args(&args)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .context("ctr")?;
            questions.push((format!("{namespace} {}", what[0]), child));
        }
    }
    let mut answers = BTreeSet::new();
    for (title, child) in questions {
        let output = child.wait_with_output().context("ctr")?;
        anyhow::ensure!(output.status.success(), "ctr cannot list: {title}");
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let names =
            listed.lines().filter(|l| !l.starts_with("KEY")).filter_map(|l| l.split_whitespace().next());
        answers.extend(names.map(|name| format!("{title} {name}")));
    }
    Ok(answers)
}

/// The namespaces in which containers have run.
pub fn namespaces() -> BTreeSet<String> {
    let names = fs::read_dir(BUNDLES[1]).into_iter().flatten();
    let mut names: BTreeSet<String> =
        names.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.insert("default".to_owned());
    names
}

/// Paths below `root`, at most `levels` down, that pass.
fn tree(root: &Path, levels: usize, pass: &dyn Fn(&Path) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if pass(&path) {
            found.insert(path.display().to_string());
        }
        if levels > 1 && entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(tree(&path, levels - 1, pass));
        }
    }
    found
}

fn depth_below<const N: usize>(path: &Path, roots: [&str; N]) -> usize {
    roots
        .iter()
        .filter_map(|r| path.strip_prefix(r).ok())
        .map(|rest| rest.components().count())
        .max()
        .unwrap_or(0)
}
