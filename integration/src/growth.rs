//! What piles up on the host when something is done many times.

use crate::containerd_log::{self, Mark};
use crate::procs;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// How many times, if the scenario's own number is not enough.
const COUNT: &str = "KRUN_CYCLES";

/// Until what is made once and kept has been made.
const SETTLED: u64 = 5;

/// Where containerd keeps its images and snapshots.
pub const STORE: &str = "/var/lib/containerd";
const RUN: &str = "/run";

/// What may be more at the end, however often it was done: caches of the kernel and of containerd grow a while.
const MAX: Held = Held {
    mounts: 0,
    namespaces: 0,
    cgroups: 0,
    files: 200,
    run: 64 << 10,
    store: 8 << 20,
    memory: 192 << 20,
};

/// After how many cycles one more look is printed, so that a run that is ended by hand has shown something.
const LOOK: u64 = 50;

/// Bytes that may be logged each time: a box's containerd and its shims log everything, some 70 KiB for a pod.
const MAX_LOG: u64 = 128 << 10;

/// What the host holds: numbers of things, and bytes.
#[derive(Debug)]
struct Held {
    mounts: u64,
    namespaces: u64,
    cgroups: u64,
    files: u64,
    run: u64,
    store: u64,
    memory: u64,
}

/// Does something `usual` times, or as often as [`COUNT`] says, and compares what the host holds.
pub fn repeat(usual: u64, mut once: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let count = match std::env::var(COUNT) {
        Ok(text) => text.parse().with_context(|| format!("{COUNT}={text}"))?,
        Err(_) => usual,
    };
    ensure!(count > SETTLED, "{COUNT}={count}: more than {SETTLED} are needed");
    let mut settled = None;
    for round in 1..=count {
        once(round).with_context(|| format!("cycle {round} of {count}"))?;
        if round == SETTLED {
            settled = Some((Held::now()?, containerd_log::mark()));
        } else if round.is_multiple_of(LOOK) {
            println!("tried: {round} of {count} cycles: {:?}", Held::now()?);
        }
    }
    let (before, log) = settled.context("a first look")?;
    compare(&before, &Held::now()?, &log, count)
}

fn compare(before: &Held, after: &Held, log: &Mark, count: u64) -> Result<()> {
    let logged = log.grown() / (count - SETTLED);
    println!(
        "tried: {count} cycles: after {SETTLED} {before:?}, at the end {after:?}; {logged} bytes logged for each"
    );
    for (what, before, after, most) in [
        ("mounts", before.mounts, after.mounts, MAX.mounts),
        ("namespaces of processes", before.namespaces, after.namespaces, MAX.namespaces),
        ("cgroups", before.cgroups, after.cgroups, MAX.cgroups),
        ("open files", before.files, after.files, MAX.files),
        ("bytes in /run", before.run, after.run, MAX.run),
        ("bytes in containerd's store", before.store, after.store, MAX.store),
        ("bytes of memory", before.memory, after.memory, MAX.memory),
    ] {
        ensure!(after <= before + most, "{what}: {before} after {SETTLED} cycles, {after} after {count}");
    }
    ensure!(logged < MAX_LOG, "{logged} bytes were logged for each");
    Ok(())
}

impl Held {
    fn now() -> Result<Held> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
        let meminfo = read("/proc/meminfo")?;
        let bytes = |name: &str| -> Result<u64> {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|line| line.split_whitespace().next()).context(name.to_owned())?;
            Ok(kib.parse::<u64>().context(name.to_owned())? << 10)
        };
        // file-nr: those that are open, zero, and the most. Source: the kernel's sysctl/fs.rst.
        let files = read("/proc/sys/fs/file-nr")?;
        let mut namespaces: Vec<_> = Vec::new();
        for process in procs::all()? {
            for kind in ["net", "mnt", "pid", "user"] {
                namespaces.extend(fs::read_link(format!("/proc/{}/ns/{kind}", process.pid)));
            }
        }
        namespaces.sort();
        namespaces.dedup();
        Ok(Held {
            mounts: read("/proc/self/mountinfo")?.lines().count() as u64,
            namespaces: namespaces.len() as u64,
            cgroups: directories(Path::new("/sys/fs/cgroup")),
            files: files.split_whitespace().next().unwrap_or_default().parse().context("file-nr")?,
            run: size(Path::new(RUN))?,
            store: size(Path::new(STORE))?,
            memory: bytes("MemTotal")?.saturating_sub(bytes("MemAvailable")?),
        })
    }
}

/// How many directories are below this one.
fn directories(path: &Path) -> u64 {
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    let dirs = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| 1 + directories(&entry.path())).sum()
}

/// Bytes in the files below a directory. What goes away meanwhile counts as nothing.
pub fn size(path: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(path).into_iter().flatten() {
        let entry = entry.with_context(|| format!("list {}", path.display()))?;
        match entry.metadata() {
            Ok(found) if found.is_dir() => sum += size(&entry.path())?,
            Ok(found) => sum += found.len(),
            Err(_) => {}
        }
    }
    Ok(sum)
}
