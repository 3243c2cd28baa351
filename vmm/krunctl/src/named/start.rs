//! `krunctl start`: starts the process that keeps a VM, and waits until the VM's command runs.

use std::{
    fs::File,
    io::Read,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Name,
    keeper::READY,
    state::{Condition, State},
};
use crate::{table::plain, vm};

/// Answers 0 once the command runs.
///
/// # Errors
/// When it does not, and why.
pub fn run(name: &Name) -> Result<u8> {
    vm::check_host()?;
    let state = State::open(&name.name)?;
    let _lock = state.lock()?;
    ensure!(state.condition()? != Condition::Running, "{} runs already", state.name());
    let log = state.path("keeper.log");
    let log = File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let mut keeper = Command::new("/proc/self/exe")
        .args(["keep", state.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("starting the VM's keeper")?;
    let mut answer = String::new();
    if let Some(mut stdout) = keeper.stdout.take() {
        stdout.read_to_string(&mut answer).context("waiting for the VM's keeper")?;
    }
    if answer == READY {
        return Ok(0);
    }
    let status = keeper.wait().context("waiting for the VM's keeper")?;
    // It could not run its command, as a shell says it.
    if let Some(code @ (126 | 127)) = status.code() {
        eprintln!("krunctl: {}", plain(answer.trim_end()));
        return Ok(code as u8);
    }
    match answer.trim_end() {
        "" => bail!("{}: its keeper ended: {status}; {}", state.name(), state.path("keeper.log").display()),
        why => bail!("{why}"),
    }
}
