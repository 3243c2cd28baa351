//! Limits, small and absurdly large, and where a container's processes live on the host.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::{containerd_log, host, procs, undo};
use anyhow::{Context, Result, ensure};
use std::{fs, path::Path};

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("small-memory-limit", small_memory_limit).long(),
    Scenario::new("limits-beyond-host", limits_beyond_host).long(),
    Scenario::new("limits-of-the-host", limits_of_the_host).long(),
    Scenario::new("no-memory-on-the-host", no_memory_on_the_host).long(),
    Scenario::new("pid-on-the-host", pid_on_the_host).long(),
    Scenario::new("cgroup-of-systemds", cgroup_of_systemds)
        .long()
        .krun_only("runc has no such name without systemd"),
    Scenario::new("vmm-jail", vmm_jail).krun_only("there is no krun-vmm"),
];

/// A limit of 64 MiB is the container's, not the VM's.
fn small_memory_limit(ctx: &Ctx) -> Result<Outcome> {
    let limit = (64 << 20).to_string();
    let script = "cat /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/memory.max; awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo";
    let cgroups = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro";
    let output = ctx
        .sh(&["--memory-limit", &limit, "--mount", cgroups], &ctx.id(""), script)
        .run()?
        .ok()?
        .has_line(&limit)?;
    let total: u64 = output.stdout_text().lines().last().context("two lines")?.parse().context("MemTotal")?;
    ensure!(total > 128, "the whole machine has {total} MiB for a container that may have 64");
    Ok(Outcome::Passed)
}

/// More than the host has is clamped, not refused.
fn limits_beyond_host(ctx: &Ctx) -> Result<Outcome> {
    let flags = ["--memory-limit", "4398046511104", "--cpus", "64"];
    let output =
        ctx.sh(&flags, &ctx.id(""), "awk '/MemTotal/ { print $2 }' /proc/meminfo; nproc").run()?.ok()?;
    let text = output.stdout_text();
    let [memory, cpus] = text.lines().collect::<Vec<_>>()[..] else { anyhow::bail!("two lines, not {text}") };
    let (memory, cpus): (u64, u32) = (memory.parse()?, cpus.parse()?);
    let host = host::memory_kib()?;
    ensure!(memory <= host, "{memory} KiB in the container, {host} on the host");
    ensure!((1..=16).contains(&cpus), "{cpus} processors, where libkrun has at most 16");
    Ok(Outcome::Passed)
}

/// CPU time and the set of CPUs are the host's to enforce, on the VM whatever its guest does.
fn limits_of_the_host(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let flags = ["--detach", "--null-io", "--cpus", "0.9", "--cpu-shares", "512", "--cpuset-cpus", "1"];
    ctx.run(&flags, BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    let seen = |file: &str| {
        let path = format!("/sys/fs/cgroup/default/{id}/{file}");
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    };
    for (file, wanted) in [("cpu.max", "90000 100000"), ("cpuset.cpus", "1")] {
        ensure!(seen(file)?.trim() == wanted, "{file} holds {:?}, not {wanted}", seen(file)?);
    }
    if ctx.krun() {
        let threads: u32 = seen("pids.max")?.trim().parse().context("a limit on threads")?;
        ensure!(threads > 100, "{threads} threads are few for a VM");
    }
    // There are two ways to turn shares into a weight, whose middle is 100.
    let weight: u32 = seen("cpu.weight")?.trim().parse().context("a weight")?;
    ensure!(weight < 100, "half of the usual shares is a weight of {weight}");
    ctx.end(&id)?;
    let absent = ["--rm", "--cpuset-cpus", "900"];
    ctx.run(&absent, BUSYBOX, &ctx.id("absent"), &["true"]).run()?.refused(&["cpuset.cpus"])?;
    Ok(Outcome::Passed)
}

/// What the host's kernel ends because a cgroup above has no memory left ran out of memory.
fn no_memory_on_the_host(ctx: &Ctx) -> Result<Outcome> {
    const ABOVE: &str = "/sys/fs/cgroup/krun-scenario";
    undo::remember(&["rmdir", ABOVE])?;
    fs::create_dir(ABOVE).with_context(|| format!("make {ABOVE}"))?;
    fs::write(format!("{ABOVE}/memory.max"), (200 << 20).to_string()).context("limit it")?;
    let (id, mark) = (ctx.id(""), containerd_log::mark());
    let hungry = "x = bytearray(); \nwhile True: x += b'x' * (4 << 20)";
    let flags = ["--rm", "--cgroup", &format!("/krun-scenario/{id}")];
    ctx.run(&flags, DEBIAN, &id, &["python3", "-c", hungry]).timeout(200).run()?.expect_status(137)?;
    ensure!(mark.line_with(&["oom"])?.is_some(), "the log does not say that memory ran out");
    Ok(Outcome::Passed)
}

/// The task's pid is a real process, in a network namespace of its own, in the container's cgroup, and sees the
/// container's root.
fn pid_on_the_host(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    ctx.run(&["--detach", "--null-io"], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    let pid = ctx.wait_for_status(&id, "RUNNING")?.pid;
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).context("read ns/net");
    ensure!(
        namespace(&pid.to_string())? != namespace("self")?,
        "pid {pid} is in the box's network namespace"
    );
    in_cgroup_of(pid, &id)?;
    let busybox = format!("/proc/{pid}/root/bin/busybox");
    ensure!(fs::metadata(&busybox).is_ok_and(|m| m.is_file()), "no {busybox}: is its root the container's?");
    if ctx.krun() {
        let anchor = procs::anchor_of(&id)?;
        ensure!(anchor.pid == pid, "the task's pid is {pid}, the anchor's {}", anchor.pid);
        let vmm = procs::vmm_of(&id)?;
        in_cgroup_of(vmm.pid, &id)?;
        let score =
            fs::read_to_string(format!("/proc/{}/oom_score_adj", vmm.pid)).context("oom_score_adj")?;
        ensure!(score.trim() == "0", "the vmm's oom_score_adj is {score}: as protected as its shim?");
        ensure!(
            namespace(&vmm.pid.to_string())? == namespace(&pid.to_string())?,
            "vmm and anchor are in different network namespaces"
        );
    }
    ctx.kill(&id, "SIGKILL")?.ok()?;
    ctx.wait_for_status(&id, "STOPPED")?;
    ctx.remove(&id)?;
    Ok(Outcome::Passed)
}

/// A name of systemd's (`slice:prefix:name`) is a scope of its, where it is the init (`hack/box up --init systemd`), and
/// else the cgroup where that would be.
fn cgroup_of_systemds(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let slice = "/krun.slice/krun-scenario.slice";
    // systemd makes what it has started anew when it reads its units again.
    let stop = "systemctl stop krun-scenario.slice krun.slice";
    let remove =
        format!("{stop} 2>/dev/null; cd /sys/fs/cgroup && rmdir .{slice} ./krun.slice 2>/dev/null; true");
    undo::remember(&["sh", "-c", &remove])?;
    let name = format!("krun-scenario.slice:ctr:{id}");
    ctx.run(&["--detach", "--null-io", "--cgroup", &name], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    let scope = format!("ctr-{id}.scope");
    for pid in [procs::anchor_of(&id)?.pid, procs::vmm_of(&id)?.pid] {
        in_cgroup(pid, &format!("{slice}/{scope}"))?;
    }
    let is_active = || Cmd::new(&["systemctl", "is-active", &scope]).run();
    let systemd = Path::new("/run/systemd/system").exists();
    if systemd {
        is_active()?.ok()?.printed("active\n")?;
    }
    ctx.kill(&id, "SIGKILL")?.ok()?;
    ctx.wait_for_status(&id, "STOPPED")?;
    ctx.remove(&id)?;
    if systemd {
        ensure!(is_active()?.status != 0, "{scope} is still there");
    }
    Ok(Outcome::Passed)
}

fn in_cgroup_of(pid: i32, id: &str) -> Result<()> {
    in_cgroup(pid, &format!("/default/{id}"))
}

fn in_cgroup(pid: i32, wanted: &str) -> Result<()> {
    let path = procs::cgroup_of(pid)?;
    ensure!(
        path == wanted || path.starts_with(&format!("{wanted}/")),
        "pid {pid} is in cgroup {path}, not {wanted}"
    );
    Ok(())
}

/// The vmm sees nothing of the host but what it needs, and cannot get more.
fn vmm_jail(ctx: &Ctx) -> Result<Outcome> {
    const NEEDED: [&str; 4] = ["dev", "proc", "share", "sock"];
    let id = ctx.id("");
    ctx.run(&["--detach", "--null-io"], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    let vmm = procs::vmm_of(&id)?;
    let root = format!("/proc/{}/root", vmm.pid);
    let seen = names(&root)?;
    ensure!(seen.iter().all(|n| NEEDED.contains(&n.as_str())), "the vmm's root holds {seen:?}");
    let devices = names(&format!("{root}/dev"))?;
    ensure!(devices.iter().all(|n| n == "kvm" || n == "net"), "the vmm's /dev holds {devices:?}");
    let status = fs::read_to_string(format!("/proc/{}/status", vmm.pid)).context("read the vmm's status")?;
    ensure!(status.lines().any(|l| l == "NoNewPrivs:\t1"), "the vmm may gain privileges");
    for namespace in ["mnt", "net", "ipc"] {
        let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        ensure!(
            link(&vmm.pid.to_string())? != link("self")?,
            "the vmm is in the box's {namespace} namespace"
        );
    }
    ctx.kill(&id, "SIGKILL")?.ok()?;
    ctx.wait_for_status(&id, "STOPPED")?;
    ctx.remove(&id)?;
    Ok(Outcome::Passed)
}

fn names(dir: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {dir}"))?;
    Ok(entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
}
