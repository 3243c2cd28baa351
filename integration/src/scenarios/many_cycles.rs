//! One container after the other, as many as `KRUN_CYCLES` says: nothing of the host may pile up.

use super::pod_many::size;
use crate::containerd_log;
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("many-cycles", many_cycles).long().timeout(6 * 3600)];

/// How many, and how many without being told. A thousand take more than an hour in an emulated box.
const COUNT: &str = "KRUN_CYCLES";
const USUAL: u64 = 40;

/// Until what is made once and kept has been made.
const SETTLED: u64 = 5;

const STORE: &str = "/var/lib/containerd";
const RUN: &str = "/run";

/// What may be more after all cycles, whatever their number: caches of the kernel and of containerd grow a while.
const MAX: Held = Held {
    mounts: 0,
    namespaces: 0,
    cgroups: 0,
    files: 200,
    run: 256 << 10,
    store: 8 << 20,
    memory: 192 << 20,
};

/// What may be logged for one of them.
const MAX_LOG: u64 = 64 << 10;

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

fn many_cycles(ctx: &Ctx) -> Result<Outcome> {
    let count = match std::env::var(COUNT) {
        Ok(text) => text.parse().with_context(|| format!("{COUNT}={text}"))?,
        Err(_) => USUAL,
    };
    ensure!(count > SETTLED, "{COUNT}={count}: more than {SETTLED} are needed");
    let volume = ctx.work("volume");
    fs::create_dir(&volume).context("make a volume")?;
    let mount = format!("type=bind,src={},dst=/out,options=rbind:rw", volume.display());
    let id = ctx.id("");
    let mut settled = None;
    for round in 1..=count {
        let script = format!("head -c 1000000 /dev/zero >/file; echo {round} >/out/round; echo up");
        let run = ctx.run(&["--rm", "--mount", &mount], BUSYBOX, &id, &["sh", "-c", &script]);
        run.run()?.ok()?.printed("up\n").with_context(|| format!("cycle {round} of {count}"))?;
        ensure!(fs::read_to_string(volume.join("round"))?.trim() == round.to_string(), "cycle {round}");
        if round == SETTLED {
            settled = Some((Held::now()?, containerd_log::mark()));
        }
    }
    let ((before, log), after) = (settled.context("a first look")?, Held::now()?);
    println!("tried: {count} cycles: after {SETTLED} {before:?}, at the end {after:?}");
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
    let logged = log.grown() / (count - SETTLED);
    ensure!(logged < MAX_LOG, "{logged} bytes were logged for each container");
    Ok(Outcome::Passed)
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
        for process in crate::procs::all()? {
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
