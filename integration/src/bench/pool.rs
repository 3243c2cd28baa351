//! A pool beside which krun is measured.

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

/// How long nothing has happened in a VM that waits for good: its guest's last work, at idle priority.
const CALM: Duration = Duration::from_secs(2);

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
        std::thread::sleep(CALM);
        Ok(())
    }

    pub fn end(mut self) -> Result<()> {
        kill(Pid::from_raw(self.0.id() as i32), SIGTERM).context("end the pool")?;
        let status = self.0.wait().context("wait for the pool")?;
        ensure!(status.success(), "krunctl pool: {status}");
        fs::remove_file(CONFIG).context(CONFIG)
    }
}
