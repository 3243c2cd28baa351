//! The command while it runs: its input, its signals, its end.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use tokio::{
    signal::unix,
    time::{Instant, sleep_until},
};

use super::{Arguments, terminal};
use crate::{duration, exit, session::Session, signals::Signals, stdio::Fifos};

/// How long a command that was sent SIGTERM may take to end. Source: `docker stop`.
const GRACE: Duration = Duration::from_secs(10);

/// Attends to the command to its end, and returns its exit status.
pub async fn attend(
    session: &Session,
    signals: &mut Signals,
    fifos: Fifos,
    arguments: &Arguments,
) -> Result<u8> {
    let raw = arguments.tty.then(terminal::Raw::enter).transpose()?;
    let process = session.process("");
    fifos.start_input(session.close_stdin(process.clone()));
    let status = tokio::select! {
        status = session.wait(&process) => status,
        unheeded = forward(session, arguments.tty, signals) => return Ok(exit::of_signal(unheeded?)),
        () = duration::passed(arguments.timeout) => return Ok(exit::TIMEOUT),
    };
    fifos.drained().await;
    drop(raw);
    Ok(status)
}

/// Forwards signals and, with a terminal, its sizes, for as long as it is polled. Answers SIGTERM when the command did not heed
/// that: a first process of a container has to handle it, or it is not ended by it.
async fn forward(session: &Session, tty: bool, signals: &mut Signals) -> Result<Signal> {
    let mut resized = unix::signal(unix::SignalKind::window_change())?;
    let mut limit = None;
    loop {
        tokio::select! {
            signal = signals.next() => {
                session.signal(signal, false).await;
                if signal == Signal::SIGTERM {
                    limit.get_or_insert_with(|| Instant::now() + GRACE);
                }
            }
            () = sleep_until(limit.unwrap_or_else(Instant::now)), if limit.is_some() => {
                return Ok(Signal::SIGTERM);
            }
            _ = resized.recv(), if tty => {
                let (columns, rows) = terminal::size()?;
                let process = session.process("");
                let _ = session.sandbox.resize(&process, columns.into(), rows.into()).await;
            }
        }
    }
}
