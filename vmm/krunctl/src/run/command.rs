//! The command while it runs: its input, its signals, its end.

use anyhow::Result;
use nix::sys::signal::Signal;
use tokio::{
    signal::unix,
    time::{Instant, sleep_until},
};

use super::{Arguments, terminal};
use crate::{
    duration, exit,
    session::Session,
    signals::{ENDING, GRACE, MANY, Signals},
    stdio::Fifos,
};

/// Attends to the command to its end, and returns its exit status.
pub async fn attend(
    session: &Session,
    signals: &mut Signals,
    mut fifos: Fifos,
    arguments: &Arguments,
) -> Result<u8> {
    // Without our input, nobody would read the terminal's Ctrl-C.
    let is_raw = arguments.tty && arguments.interactive;
    let raw = is_raw.then(terminal::Raw::enter).transpose()?;
    let process = session.process("");
    fifos.start_input(session.close_stdin(process.clone()));
    let finished = async {
        let status = session.wait(&process).await;
        fifos.drained().await;
        status
    };
    let status = tokio::select! {
        status = finished => status,
        unheeded = forward(session, arguments.tty, signals) => {
            let signal = unheeded?;
            session.kill().await;
            exit::of_signal(signal)
        }
        () = duration::passed(arguments.timeout) => {
            session.kill().await;
            exit::TIMEOUT
        }
    };
    // What was written before.
    fifos.idle().await;
    drop(raw);
    Ok(status)
}

/// Forwards signals and, with a terminal, its sizes, for as long as it is polled. Answers a signal that was to end the command and
/// did not: the first process of a container is ended only by signals that it handles.
async fn forward(session: &Session, tty: bool, signals: &mut Signals) -> Result<Signal> {
    let mut resized = unix::signal(unix::SignalKind::window_change())?;
    let mut limit = None;
    let mut ending = 0;
    loop {
        tokio::select! {
            signal = signals.next() => {
                session.send(signal);
                ending += u32::from(ENDING.contains(&signal));
                if ending == MANY {
                    return Ok(signal);
                }
                if matches!(signal, Signal::SIGTERM | Signal::SIGHUP) {
                    limit.get_or_insert_with(|| (signal, Instant::now() + GRACE));
                }
            }
            signal = passed(limit) => return Ok(signal),
            _ = resized.recv(), if tty => {
                let (columns, rows) = terminal::size()?;
                let process = session.process("");
                let _ = session.sandbox.resize(&process, columns.into(), rows.into()).await;
            }
        }
    }
}

/// Waits until the time for a signal has passed, and answers the signal; for ever when there is none.
async fn passed(limit: Option<(Signal, Instant)>) -> Signal {
    match limit {
        Some((signal, at)) => {
            sleep_until(at).await;
            signal
        }
        None => std::future::pending().await,
    }
}
