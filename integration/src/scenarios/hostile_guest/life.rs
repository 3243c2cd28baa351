//! One container's life with a hostile PID 1, and what may not come of it.

use super::Attack;
use crate::containerd_log;
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const HOSTILE_INIT: &str = "/usr/local/libexec/krun/krun-hostile-init";

/// The largest resident memory of the shim. It has 8 to 10 MiB for a guest without a fault.
const MAX_SHIM_KIB: u64 = 24 << 10;

/// How much a VM may add to the host's log, at the level of debugging.
const MAX_LOG: u64 = 512 << 10;

/// Seconds in which containerd answers what concerns no VM, in an emulated, busy box.
const PROMPT: u64 = 20;

/// What is done with the container.
pub enum Life {
    /// It runs until it ends by itself.
    Run,
    /// It runs, these commands are tried, and then it is killed.
    Killed(&'static [&'static str]),
}

/// What `ctr run` reports at its end.
pub enum Status {
    Is(i32),
    /// Anything but success.
    Failed,
}

/// What an attack came to.
pub struct Got {
    status: i32,
    took: Duration,
    commands: Vec<String>,
    shim_kib: u64,
    logged: u64,
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        write!(f, "status {} after {seconds:.1} s", self.status)?;
        self.commands.iter().try_for_each(|command| write!(f, ", {command}"))?;
        write!(f, "; shim {:.1} MiB, log {} KiB", self.shim_kib as f64 / 1024.0, self.logged >> 10)
    }
}

/// Lives it, and fails when the attack came to more than it may.
pub fn live(ctx: &Ctx, attack: &Attack) -> Result<Got> {
    let id = ctx.id(attack.name);
    let config = configuration(ctx, attack.name)?;
    let (log, begun) = (containerd_log::mark(), Instant::now());
    let memory = Memory::watch(&id);
    let flags = ["--rm", "--runtime-config-path", config.to_str().context("a path in UTF-8")?];
    let mut running = ctx.run(&flags, BUSYBOX, &id, &["sh"]).hold_stdin().timeout(attack.within);
    if matches!(attack.life, Life::Run) {
        // Nobody reads what it sends.
        running = running.hold_stdout();
    }
    let mut running = running.spawn()?;
    let mut commands = Vec::new();
    if let Life::Killed(tried) = attack.life {
        running.wait_for_stdout("started")?;
        for command in tried {
            commands.push(attempt(ctx, attack, &id, command)?);
        }
        let killed = ctx.ctr(&["task", "kill", "--signal", "SIGKILL", &id]).timeout(attack.within).run()?;
        commands.push(format!("kill {}", killed.status));
        running.allow(Duration::from_secs(attack.within));
    }
    let output = running.finish()?;
    let got = Got {
        status: output.status,
        took: begun.elapsed(),
        commands,
        shim_kib: memory.peak()?,
        logged: log.grown(),
    };
    match attack.status {
        Status::Is(status) => ensure!(got.status == status, "{got}; not status {status}: {output}"),
        Status::Failed => ensure!(got.status != 0, "{got}: {output}"),
    }
    let length = output.stderr.len();
    ensure!(length < 16 << 10, "{got}; ctr has {length} bytes to say");
    ensure!(got.shim_kib < MAX_SHIM_KIB, "{got}; too much memory");
    ensure!(got.logged < MAX_LOG, "{got}; too much in the log");
    ensure!(log.line_with(&["\u{1b}"])?.is_none(), "{got}; the log has escape codes");
    ensure!(
        !log.since()?.lines().any(|line| line.starts_with("level=fatal")),
        "{got}; the log has forged lines"
    );
    Ok(got)
}

/// Does one more thing while the guest misbehaves. It may fail, but not last.
fn attempt(ctx: &Ctx, attack: &Attack, id: &str, command: &str) -> Result<String> {
    let exec =
        |number: u32| ["task", "exec", "--exec-id", &format!("e{number}"), id, "true"].map(str::to_owned);
    let run = |args: &[String], seconds| {
        ctx.ctr(&args.iter().map(String::as_str).collect::<Vec<_>>()).timeout(seconds)
    };
    let output = match command {
        "version" => ctx.ctr(&["version"]).timeout(PROMPT).run()?.ok()?,
        "neighbour" => {
            ctx.sh(&[], &ctx.id("neighbour"), "echo fine").timeout(300).run()?.ok()?.printed("fine\n")?
        }
        "metrics" => ctx.ctr(&["task", "metrics", id]).timeout(attack.within).run()?,
        "exec" => run(&exec(0), attack.within).run()?,
        // They never end, as nobody says so: all at once, each with its streams.
        "execs" => {
            let started = (1..10).map(|number| run(&exec(number), attack.within).hold_stdin().spawn());
            let mut running = started.collect::<Result<Vec<_>>>()?;
            for exec in &mut running {
                exec.say(&"x".repeat(16 << 10))?;
            }
            run(&exec(0), attack.within).spawn()?;
            return Ok("execs hold".to_owned());
        }
        other => bail!("no command {other}"),
    };
    Ok(format!("{command} {}", output.status))
}

/// A configuration with a PID 1 that knows its attack.
fn configuration(ctx: &Ctx, attack: &str) -> Result<PathBuf> {
    let (program, file) = (ctx.work(attack), ctx.work(&format!("{attack}.toml")));
    let mut bytes = fs::read(HOSTILE_INIT).with_context(|| format!("read {HOSTILE_INIT}"))?;
    bytes.extend_from_slice(format!("\nHOSTILE={attack}\n").as_bytes());
    fs::write(&program, bytes).with_context(|| format!("write {}", program.display()))?;
    let text = format!("guest_init = {:?}\ndefault_memory_mib = 192\n", program.display().to_string());
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

/// Watches the resident memory of a shim.
struct Memory {
    peak: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Memory {
    fn watch(id: &str) -> Memory {
        let (peak, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let watcher = std::thread::spawn({
            let (id, peak, done) = (id.to_owned(), peak.clone(), done.clone());
            move || {
                let mut shim = None;
                while !done.load(Ordering::Relaxed) {
                    // At first it is the one that starts the shim, which soon ends.
                    shim = shim.or_else(|| procs::shim_of(&id).ok().flatten().map(|found| found.pid));
                    let kib = shim.and_then(|pid| peak_kib(Path::new(&format!("/proc/{pid}/status"))));
                    if kib.is_none() {
                        shim = None;
                    }
                    peak.fetch_max(kib.unwrap_or(0), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        });
        Memory { peak, done, watcher: Some(watcher) }
    }

    /// The most that there was.
    fn peak(mut self) -> Result<u64> {
        self.done.store(true, Ordering::Relaxed);
        self.watcher.take().map(JoinHandle::join);
        let peak = self.peak.load(Ordering::Relaxed);
        ensure!(peak > 0, "no shim was seen");
        Ok(peak)
    }
}

/// `VmHWM` of proc_pid_status(5).
fn peak_kib(status: &Path) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
