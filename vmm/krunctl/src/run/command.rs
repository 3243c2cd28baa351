//! The command while it runs: its input, its signals, its end.

use anyhow::{Result, anyhow};
use tokio::signal::unix;

use super::{Arguments, terminal};
use crate::{duration, exit, session::Session, signals::Signals, stdio::Fifos};

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
        error = forward(session, arguments.tty, signals) => {
            return Err(error.err().unwrap_or_else(|| anyhow!("no more signals")));
        }
        () = duration::passed(arguments.timeout) => return Ok(exit::TIMEOUT),
    };
    fifos.drained().await;
    drop(raw);
    Ok(status)
}

/// Forwards signals and, with a terminal, its sizes, for as long as it is polled.
async fn forward(session: &Session, tty: bool, signals: &mut Signals) -> Result<()> {
    let mut resized = unix::signal(unix::SignalKind::window_change())?;
    loop {
        tokio::select! {
            signal = signals.next() => session.signal(signal, false).await,
            _ = resized.recv(), if tty => {
                let (columns, rows) = terminal::size()?;
                let process = session.process("");
                let _ = session.sandbox.resize(&process, columns.into(), rows.into()).await;
            }
        }
    }
}
