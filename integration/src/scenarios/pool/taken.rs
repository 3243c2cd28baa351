//! A container in a VM of the pool is as any other, and so is what the host has of it.

use super::{PATIENCE, Pool, SOCKET, STATE, TWO, policies, taken_since, vmms, waiting};
use crate::command::Cmd;
use crate::containerd_log;
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::scenario::Outcome;
use crate::spec;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What confines a vmm. Source: proc_pid_status(5).
const CONFINEMENT: [&str; 6] = ["NoNewPrivs", "Seccomp", "Seccomp_filters", "CapEff", "CapBnd", "CapAmb"];

/// The namespaces that a vmm shares with nobody.
const NAMESPACES: [&str; 6] = ["mnt", "net", "pid", "ipc", "uts", "user"];

pub fn taken(ctx: &Ctx) -> Result<Outcome> {
    let cold = Vmm::of_new(ctx, "cold")?;
    let mut pool = Pool::start(ctx, TWO, 2)?;
    for vmm in vmms(&pool)? {
        let policies = policies(vmm.pid)?;
        ensure!(policies.iter().all(|policy| policy == "5"), "a VM that waits has the policies {policies:?}");
    }
    for (path, mode) in [(STATE, 0o700), (SOCKET, 0o600)] {
        let found = fs::metadata(path).with_context(|| path.to_owned())?.permissions().mode() & 0o777;
        ensure!(found == mode, "the mode of {path} is {found:o}");
    }
    let mark = containerd_log::mark();
    let script = "hostname; date +%s; cat /proc/sys/kernel/random/boot_id; ls /sys/class/net; ls -A /tmp";
    let said: Vec<String> = (0..2)
        .map(|number| {
            let output =
                ctx.sh(&["--hostname", "named"], &ctx.id(&number.to_string()), script).run()?.ok()?;
            Ok(output.stdout_text())
        })
        .collect::<Result<_>>()?;
    ensure!(taken_since(mark)? == 2 && pool.given() == 2, "the VMs were not the pool's: {}", pool.log());
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut boots = Vec::new();
    for text in &said {
        let [name, date, boot, network] = text.lines().collect::<Vec<_>>()[..] else {
            anyhow::bail!("a container of the pool says {text:?}")
        };
        ensure!(name == "named" && network == "lo", "a container of the pool says {text:?}");
        ensure!(date.parse::<u64>()?.abs_diff(now) < 60, "its clock says {date}, the box's {now}");
        boots.push(boot);
    }
    ensure!(boots[0] != boots[1], "two containers had one VM");

    pool.has_booted(4)?;
    let warm = Vmm::of_new(ctx, "warm")?;
    ensure!(pool.given() == 3, "the third VM was not the pool's");
    ensure!(
        warm.confinement == cold.confinement,
        "a pool's vmm has {:?}, another one {:?}",
        warm.confinement,
        cold.confinement
    );
    ensure!(warm.cgroup.ends_with(&ctx.id("warm")), "its cgroup is {}", warm.cgroup);
    ensure!(
        warm.policies.iter().all(|policy| policy == "0"),
        "its threads have the policies {:?}",
        warm.policies
    );
    ensure!(warm.oom_score_adj == cold.oom_score_adj, "its oom_score_adj is {}", warm.oom_score_adj);
    ensure!(warm.memory_max == cold.memory_max, "its cgroup's memory.max is {}", warm.memory_max);
    println!("tried: a pool's vmm beside another one: {}", warm.confinement.join(", "));
    pool.end()?;

    direct(ctx)?;
    Ok(Outcome::Passed)
}

/// Direct runs take them as well: theirs are of another size, and log less.
fn direct(ctx: &Ctx) -> Result<()> {
    let file = ctx.work("direct.toml").display().to_string();
    fs::write(&file, "[[pool]]\ncount = 1\nmemory_mib = 512\n").context("write the pool's configuration")?;
    let pool = Cmd::new(&["krunctl", "pool", "--config", &file]).timeout(300).spawn()?;
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let run = ["krunctl", "run", "--network", "none", "--root", &root, "--", "/bin/cat", "/proc/uptime"];
    until_true("a direct run with a VM of the pool's", PATIENCE, || {
        // One that waits is another one once it was taken, and older than the run.
        let (before, begun) = (waiting()?, Instant::now());
        let uptime = Cmd::new(&run).run()?.ok()?.stdout_text();
        let age: f64 = uptime.split(' ').next().context("an uptime")?.parse().context("an uptime")?;
        Ok(before.len() == 1 && waiting()? != before && age > begun.elapsed().as_secs_f64())
    })?;
    println!("tried: krunctl run: it took a VM of the pool's");
    pool.signal(Signal::SIGTERM)?;
    pool.finish()?.ok()?;
    ensure!(waiting()?.is_empty(), "the pool left {:?}", waiting()?);
    Ok(())
}

/// What the host has of a VM.
struct Vmm {
    confinement: Vec<String>,
    cgroup: String,
    policies: Vec<String>,
    oom_score_adj: String,
    memory_max: String,
}

impl Vmm {
    /// That of a new container, which ends.
    fn of_new(ctx: &Ctx, name: &str) -> Result<Vmm> {
        let id = ctx.id(name);
        ctx.run(&["--detach"], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
        ctx.wait_for_status(&id, "RUNNING")?;
        let vmm = procs::vmm_of(&id)?;
        let read = |name: &str| {
            fs::read_to_string(format!("/proc/{}/{name}", vmm.pid))
                .with_context(|| format!("{name} of the vmm"))
        };
        let status = read("status")?;
        let mut confinement: Vec<String> = status
            .lines()
            .filter(|line| CONFINEMENT.iter().any(|name| line.split(':').next() == Some(name)))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        for namespace in NAMESPACES {
            let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}"));
            let (its, ours) = (of(&vmm.pid.to_string())?, of("self")?);
            confinement.push(format!("{namespace} {}", if its == ours { "the host's" } else { "its own" }));
        }
        let cgroup = procs::cgroup_of(vmm.pid)?;
        let memory_max =
            fs::read_to_string(format!("/sys/fs/cgroup{cgroup}/memory.max")).context("memory.max")?;
        let (oom_score_adj, policies) = (read("oom_score_adj")?, policies(vmm.pid)?);
        ctx.end(&id)?;
        Ok(Vmm { confinement, cgroup, policies, oom_score_adj, memory_max })
    }
}
