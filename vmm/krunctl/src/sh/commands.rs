//! Runs the commands, one after the other.

use std::{io::Write, pin::pin};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use shim::direct::NewProcess;
use tokio::{sync::mpsc, time::timeout};

use super::Arguments;
use crate::{
    bundle::Bundle,
    exit,
    session::Session,
    signals::{ENDING, GRACE, Signals},
    stdio::Fifos,
};

/// Runs the commands, each as `process`, and answers what the exit status is.
pub async fn run(
    session: &Session,
    bundle: &Bundle,
    arguments: &Arguments,
    process: &Value,
    mut lines: mpsc::Receiver<Result<Vec<u8>>>,
    signals: &mut Signals,
) -> Result<u8> {
    let process = serde_json::to_vec(process)?;
    let first = session.process("");
    let mut statuses = Statuses { keep_going: arguments.keep_going, failed: 0 };
    for number in 1.. {
        let line = tokio::select! {
            line = lines.recv() => line,
            signal = ending(signals) => return Ok(exit::of_signal(signal)),
            status = session.wait(&first) => bail!("the VM, or the first process in it, has ended: status {status}"),
        };
        let Some(line) = line.transpose()? else { break };
        let command = Command { session, bundle, process: &process, number, verbose: arguments.verbose };
        match interruptible(session, signals, command.run(line)).await? {
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

/// A command to be run.
struct Command<'a> {
    session: &'a Session,
    bundle: &'a Bundle,
    /// The shell that runs it, as an OCI process.
    process: &'a [u8],
    /// Which one it is.
    number: u64,
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
        let name = self.number.to_string();
        let (sandbox, id) = (&self.session.sandbox, self.session.process(&name));
        let mut fifos = Fifos::make(self.bundle.path(), &name, true, false)?;
        fifos.start_output();
        let new = NewProcess { process: self.process.to_vec(), is_operators: false };
        sandbox.exec(&id, new, fifos.paths()).await?;
        fifos.send([line, b"\n".to_vec()].concat(), self.session.close_stdin(id.clone()));
        let status = self.session.wait(&id).await;
        fifos.drained().await;
        sandbox.delete_exec(&id).await;
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
    session: &Session,
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
        session.signal(signal, true).await;
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
