//! A pool beside which krun is measured.

use crate::procs;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SIGTERM, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const CONFIG: &str = "/run/krun-bench-pool.toml";
const STATE: &str = "/run/krun";
const PATIENCE: Duration = Duration::from_secs(120);

/// How far apart two looks are at a VM that is to have nothing to do any more, and the hundredths of a second that it may work between
/// them: its kernel's timers.
const APART: Duration = Duration::from_secs(1);
const IDLE: u64 = 2;

/// A pool with one VM.
pub struct Pool(Child);

impl Pool {
    pub fn start() -> Result<Pool> {
        fs::write(CONFIG, "[[pool]]\ncount = 1\n").context("write the pool's configuration")?;
        let mut command = Command::new("krunctl");
        command.args(["pool", "--config", CONFIG]).stdin(Stdio::null());
        Ok(Pool(command.spawn().context("start krunctl pool")?))
    }

    /// Waits until a VM waits: its guest has dialled, so that the socket for that is gone.
    pub fn has_one(&self) -> Result<()> {
        until_true("a VM of the pool", PATIENCE, || {
            let ready =
                |socket: &Path| fs::read_dir(socket).is_ok_and(|mut sockets| sockets.next().is_none());
            let entries = fs::read_dir(STATE).into_iter().flatten().flatten();
            let mut waiting =
                entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("waiting-"));
            Ok(waiting.any(|entry| ready(&entry.path().join("sock"))))
        })?;
        let mut before = u64::MAX;
        until_true("it to have nothing to do", PATIENCE, || {
            std::thread::sleep(APART);
            let worked = worked_by_vmms()?;
            let is_idle = worked.saturating_sub(before) <= IDLE && before != u64::MAX;
            before = worked;
            Ok(is_idle)
        })
    }

    pub fn end(mut self) -> Result<()> {
        kill(Pid::from_raw(self.0.id() as i32), SIGTERM).context("end the pool")?;
        let status = self.0.wait().context("wait for the pool")?;
        ensure!(status.success(), "krunctl pool: {status}");
        fs::remove_file(CONFIG).context(CONFIG)
    }
}

/// The CPU time of all vmms, in hundredths of a second: utime and stime, fields 14 and 15 of proc_pid_stat(5).
fn worked_by_vmms() -> Result<u64> {
    let vmms = procs::all()?.into_iter().filter(|process| process.is_called("krun-vmm"));
    let ticks = |pid: i32| -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<u64> =
            stat.rsplit_once(") ")?.1.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        Some(fields.get(14 - 3)? + fields.get(15 - 3)?)
    };
    Ok(vmms.filter_map(|process| ticks(process.pid)).sum())
}
