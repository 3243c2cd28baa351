//! A hostile vmm that takes what it can get: the host, and what is asked about the container, go on.

use super::launch::{Launch, sandbox};
use crate::command::Running;
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::Outcome;
use crate::wait::until;
use crate::{containerd_log, procs, undo};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Patience with a launch, or with what many threads do, in an emulated box.
const PATIENCE: Duration = Duration::from_secs(120);

/// What root has of the kernel's objects is root's, whatever a vmm takes of them.
pub fn quotas(ctx: &Ctx) -> Result<Outcome> {
    let launch = Launch::new(ctx, "", "holds")?;
    let running = launch.run(ctx, &[]).spawn()?;
    let holds = report(&launch, "holds ")?;
    ensure!(
        holds.contains("signals Some(EAGAIN)") && holds.contains("watches Some(ENOSPC)"),
        "it could not take all: {holds}"
    );
    println!("tried: take all that the kernel counts for a user: {holds}");
    let watched = watch();
    println!("tried: a watch of epoll of root's meanwhile: {watched:?}");
    let timed = timer();
    println!("tried: a timer of root's meanwhile: {timed:?}");
    ctx.kill(&launch.id, "SIGKILL")?.ok()?;
    ensure!(running.finish()?.status != 0, "a vmm without a guest has succeeded");
    watched.context("no watches of epoll are left for root")?;
    timed.context("no pending signals are left for root")?;
    Ok(Outcome::Passed)
}

/// More memory than its cgroup has ends it, and nothing else.
pub fn memory(ctx: &Ctx) -> Result<Outcome> {
    let (launch, mark) = (Launch::new(ctx, "", "eats")?, containerd_log::mark());
    let before = oom_kills()?;
    let running = launch.run(ctx, &[]).spawn()?;
    report(&launch, "eats")?;
    let output = running.finish()?;
    ensure!(output.status != 0, "a vmm that ran out of memory has succeeded");
    let line = mark.line_with(&["the memory that its cgroup may use on the host was not enough"])?;
    ensure!(line.is_some(), "the log does not say that memory ran out: {output}");
    let kills = oom_kills()? - before;
    println!("tried: take all memory: {kills} processes killed");
    ensure!(kills == 1, "{kills} processes were killed for memory");
    Ok(Outcome::Passed)
}

/// A vmm with all the threads that it can have, and a guest, spin on a tenth of a CPU: State, Kill and Delete are answered.
pub fn spinning(ctx: &Ctx) -> Result<Outcome> {
    const POD: &str = "/sys/fs/cgroup/krun-scenario-pod";
    undo::remember(&["sh", "-c", &format!("rmdir {POD} 2>/dev/null; true")])?;
    fs::create_dir(POD).with_context(|| format!("make {POD}"))?;
    for in_pod in [false, true] {
        let name = |what: &str| format!("{what}-{}", if in_pod { "pod" } else { "lone" });
        for what in ["threads", "guest"] {
            let launch = Launch::new(ctx, &name(what), "spins")?;
            let mut flags = Vec::new();
            if in_pod {
                flags.extend(sandbox(&launch.id));
                flags.push(format!("--cgroup=/krun-scenario-pod/{}", launch.id));
            }
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let script = match what {
                "threads" => "echo up; read line; touch /go; sleep 1000",
                _ => "echo up; read line; echo spins; while :; do :; done",
            };
            let mut running = match what {
                "threads" => launch.container(ctx, &flags, &["sh", "-c", script]),
                _ => ctx.run(&[&["--rm"], &flags[..]].concat(), BUSYBOX, &launch.id, &["sh", "-c", script]),
            };
            running = running.hold_stdin().timeout(400);
            let mut running = running.spawn()?;
            running.wait_for_stdout("up")?;
            let vmm = vmm_of(&launch.id)?;
            running.say("begin\n")?;
            let count = match what {
                "threads" => report(&launch, "spins in ")?,
                _ => {
                    running.wait_for_stdout("spins")?;
                    "spins in its vCPU".to_owned()
                }
            };
            let cgroup =
                if in_pod { POD.to_owned() } else { format!("/sys/fs/cgroup{}", procs::cgroup_of(vmm)?) };
            fs::write(format!("{cgroup}/cpu.max"), "10000 100000")
                .with_context(|| format!("limit {cgroup}"))?;
            let took = answers(ctx, &launch.id, running)?;
            println!("tried: {}: {count}; {took}", name(what));
        }
    }
    fs::remove_dir(POD).with_context(|| format!("remove {POD}"))?;
    Ok(Outcome::Passed)
}

/// Asks for the state, kills, and waits for the removal; each in bounded time.
fn answers(ctx: &Ctx, id: &str, running: Running) -> Result<String> {
    /// Seconds in an emulated box, which is ten times slower than a machine.
    const STATE: u64 = 20;
    const KILL: u64 = 30;
    const END: u64 = 90;
    let begun = Instant::now();
    let task = ctx.ctr(&["task", "ls"]).timeout(STATE).run()?.ok()?.stdout_text();
    ensure!(
        task.lines().any(|line| line.starts_with(id) && line.contains("RUNNING")),
        "no task {id}: {task}"
    );
    let state = begun.elapsed();
    let begun = Instant::now();
    ctx.ctr(&["task", "kill", "--signal", "SIGKILL", id]).timeout(KILL).run()?.ok()?;
    let kill = begun.elapsed();
    let begun = Instant::now();
    let mut running = running;
    running.allow(Duration::from_secs(END));
    running.finish()?.expect_status(137)?;
    let seconds = [state, kill, begun.elapsed()].map(|time| format!("{:.1} s", time.as_secs_f64()));
    Ok(format!("State {}, Kill {}, exit and Delete {}", seconds[0], seconds[1], seconds[2]))
}

/// The vmm's pid: it is the shim's child, whatever its program.
fn vmm_of(id: &str) -> Result<i32> {
    let shim = procs::shim_of(id)?.context("no shim")?;
    let children = procs::all()?;
    let vmm = children
        .iter()
        .find(|process| process.ppid == shim.pid && process.argv.iter().any(|word| word == "vm"));
    Ok(vmm.with_context(|| format!("no vmm below the shim of {id}"))?.pid)
}

/// Waits until the vmm reports a line that begins so.
fn report(launch: &Launch, begin: &str) -> Result<String> {
    until(&format!("the vmm to report {begin:?}"), PATIENCE, || {
        Ok(launch.reports()?.into_iter().find(|line| line.starts_with(begin)))
    })
}

/// Adds a descriptor to an epoll, which counts among all of root's.
fn watch() -> Result<()> {
    let owned = |number: i32| {
        ensure!(number >= 0, io::Error::last_os_error());
        // SAFETY: a new descriptor, which nobody else knows.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    };
    // SAFETY: numbers.
    let epoll = owned(unsafe { libc::epoll_create1(0) })?;
    // SAFETY: numbers.
    let event = owned(unsafe { libc::eventfd(0, 0) })?;
    let mut wanted = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    let (epoll, event) = (epoll.as_raw_fd(), event.as_raw_fd());
    // SAFETY: two descriptors, and a structure.
    let added = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, event, &raw mut wanted) };
    ensure!(added == 0, io::Error::last_os_error());
    Ok(())
}

/// Makes a timer, for which the kernel sets a signal aside.
fn timer() -> Result<()> {
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: without a structure, the default signal is meant; the timer is never armed.
    let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, std::ptr::null_mut(), &raw mut timer) };
    ensure!(made == 0, io::Error::last_os_error());
    // SAFETY: made above.
    unsafe { libc::timer_delete(timer) };
    Ok(())
}

/// How many processes the kernel has killed for memory.
fn oom_kills() -> Result<u64> {
    let text = fs::read_to_string("/proc/vmstat").context("read /proc/vmstat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).context("no oom_kill")?;
    Ok(line.trim().parse()?)
}
