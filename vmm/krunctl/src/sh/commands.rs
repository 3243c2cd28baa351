//! Runs the commands, one after the other.

use std::{io::Write, pin::pin, time::Duration};

use anyhow::{Context, Result, anyhow};
use guest_protocol::{
    api::{ExecRequest, Stdio},
    failure::CallError,
    mux::FIRST_STREAM,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};
use vm_launcher::Guest;

use super::Arguments;
use crate::{container, exit, signals::Signals, spec, stdio::Pumps, vm::call};

/// How long a command that was sent a signal to end it may take to end. Source: `docker stop`.
const GRACE: Duration = Duration::from_secs(10);

/// The signals that end the whole run.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The input of the container's first process, which never comes.
const NEVER: u32 = FIRST_STREAM;

/// How many commands have streams of their own, before numbers are used again.
const MANY: u32 = 1 << 24;

/// Runs the commands, and answers what the exit status is.
pub async fn run(
    guest: &Guest,
    arguments: &Arguments,
    env: &[String],
    mut lines: mpsc::Receiver<Result<Vec<u8>>>,
    signals: &mut Signals,
) -> Result<u8> {
    let spec = spec::make(std::slice::from_ref(&arguments.shell), env, None);
    let _held = start(guest, &spec).await.map_err(|error| match exit::of_command(&error) {
        // Not a command's: it would pass for that of the first line.
        Some(_) => {
            anyhow!("--shell {}, below --root {}: {error:#}", arguments.shell, arguments.root.display())
        }
        None => error,
    })?;
    let mut statuses = Statuses { keep_going: arguments.keep_going, failed: 0 };
    for number in 1.. {
        let line = tokio::select! {
            line = lines.recv() => line,
            signal = ending(signals) => return Ok(exit::of_signal(signal)),
        };
        let Some(line) = line.transpose()? else { break };
        let command = Command { guest, process: &spec["process"], number, verbose: arguments.verbose };
        match interruptible(guest, signals, command.run(line)).await? {
            End::Signal(signal) => return Ok(exit::of_signal(signal)),
            End::Status(status) if statuses.stop_after(status) => break,
            End::Status(_) => {}
        }
    }
    Ok(statuses.failed)
}

/// What the commands' statuses make of the whole.
struct Statuses {
    keep_going: bool,
    /// The last that is not 0.
    failed: u8,
}

impl Statuses {
    /// Takes a command's status; answers whether it was the last command.
    fn stop_after(&mut self, status: u8) -> bool {
        if status == 0 {
            return false;
        }
        self.failed = status;
        !self.keep_going
    }
}

/// Starts the container's first process, which waits for as long as what this answers lives.
async fn start(guest: &Guest, spec: &Value) -> Result<Pumps> {
    let numbers = Stdio { stdin: NEVER, ..Default::default() };
    let held = Pumps::open(&guest.streams, &numbers)?;
    container::create(guest, spec, numbers).await?;
    container::start(guest).await?;
    Ok(held)
}

/// A command to be run.
struct Command<'a> {
    guest: &'a Guest,
    /// The shell that runs it, as an OCI process.
    process: &'a Value,
    /// Which one it is.
    number: u32,
    verbose: bool,
}

impl Command<'_> {
    /// Runs it to its end; answers its status.
    async fn run(&self, line: Vec<u8>) -> Result<u8> {
        if self.verbose {
            announce(&line).await;
        }
        let error = match self.execute(line).await {
            Ok(status) => return Ok(status),
            Err(error) => error,
        };
        // A shell that is not there fails as a command of a shell does: an earlier command may have removed it.
        let status = exit::of_command(&error);
        if status.is_some() {
            eprintln!("krunctl: {error:#}");
        }
        status.ok_or(error)
    }

    async fn execute(&self, line: Vec<u8>) -> Result<u8> {
        let first = NEVER + 1 + 3 * (self.number % MANY);
        let numbers = Stdio { stdin: first, stdout: first + 1, stderr: first + 2, ..Default::default() };
        let mut pumps = Pumps::open(&self.guest.streams, &numbers)?;
        let process = container::process(&self.number.to_string());
        let mut request = ExecRequest::new();
        request.container_id.clone_from(&process.container_id);
        request.exec_id.clone_from(&process.exec_id);
        request.process = serde_json::to_vec(self.process)?;
        request.stdio = Some(numbers).into();
        self.guest
            .client
            .exec(call(), &request)
            .await
            .map_err(CallError::from)
            .context("starting the shell")?;
        pumps.send([line, b"\n".to_vec()].concat());
        let status = container::wait(self.guest, &process).await?;
        pumps.drained().await;
        self.guest.client.delete_exec(call(), &process).await.map_err(CallError::from)?;
        Ok(status)
    }
}

/// Prints a command on stderr. Whoever does not read that stalls the commands, but not us.
async fn announce(line: &[u8]) {
    let text = [b"+ ", line, b"\n"].concat();
    // A stderr that cannot be written is no reason to stop.
    let _ = tokio::task::spawn_blocking(move || std::io::stderr().write_all(&text)).await;
}

/// How a command ended.
enum End {
    Status(u8),
    Signal(Signal),
}

/// Runs `command`, and passes signals on to all that runs in the guest. A signal that ends the run leaves the command [`GRACE`],
/// and a second one nothing.
async fn interruptible(
    guest: &Guest,
    signals: &mut Signals,
    command: impl Future<Output = Result<u8>>,
) -> Result<End> {
    let mut command = pin!(command);
    loop {
        let signal = tokio::select! {
            biased;
            status = &mut command => return Ok(End::Status(status?)),
            signal = signals.next() => signal,
        };
        container::signal(guest, signal, true).await;
        if ENDING.contains(&signal) {
            tokio::select! {
                _ = timeout(GRACE, &mut command) => {}
                _ = ending(signals) => {}
            }
            return Ok(End::Signal(signal));
        }
    }
}

/// The next signal that ends the run.
async fn ending(signals: &mut Signals) -> Signal {
    loop {
        let signal = signals.next().await;
        if ENDING.contains(&signal) {
            return signal;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(keep_going: bool, statuses: &[u8]) -> (usize, u8) {
        let mut all = Statuses { keep_going, failed: 0 };
        let run = statuses
            .iter()
            .position(|status| all.stop_after(*status))
            .map_or(statuses.len(), |last| last + 1);
        (run, all.failed)
    }

    #[test]
    fn the_first_failure_is_the_last_command() {
        assert_eq!(over(false, &[]), (0, 0));
        assert_eq!(over(false, &[0, 0]), (2, 0));
        assert_eq!(over(false, &[0, 7, 0, 9]), (2, 7));
    }

    #[test]
    fn with_keep_going_the_last_failure_counts() {
        assert_eq!(over(true, &[0, 7, 0, 9, 0]), (5, 9));
        assert_eq!(over(true, &[0, 0]), (2, 0));
    }
}
