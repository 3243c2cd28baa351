//! The command in the guest: making it, starting it, its signals, its end.

use anyhow::{Result, anyhow};
use guest_protocol::{
    api::{ResizeRequest, Stdio},
    mux::FIRST_STREAM,
};
use tokio::signal::unix;
use vm_launcher::Guest;

use super::{Arguments, terminal};
use crate::{
    container::{self, CONTAINER},
    env,
    signals::Signals,
    spec, stdio,
    vm::call,
};

/// Runs the command and returns its exit status.
pub async fn run(guest: &Guest, arguments: &Arguments, signals: &mut Signals) -> Result<u8> {
    let size = if arguments.tty { Some(terminal::size()?) } else { None };
    let mut env = env::with(&[])?;
    if arguments.tty {
        env.extend(std::env::var("TERM").ok().map(|term| format!("TERM={term}")));
    }
    let spec = spec::make(&arguments.command, &env, size);
    let numbers = Stdio {
        stdin: FIRST_STREAM,
        stdout: FIRST_STREAM + 1,
        stderr: if arguments.tty { 0 } else { FIRST_STREAM + 2 },
        terminal: arguments.tty,
        ..Default::default()
    };
    let mut pumps = stdio::Pumps::open(&guest.streams, &numbers)?;
    let raw = if arguments.tty { Some(terminal::Raw::enter()?) } else { None };
    container::create(guest, &spec, numbers).await?;
    pumps.start_input();
    container::start(guest).await?;

    let process = container::process("");
    let status = {
        let forward = forward(guest, arguments.tty, signals);
        tokio::select! {
            status = container::wait(guest, &process) => status?,
            error = forward => return Err(error.err().unwrap_or_else(|| anyhow!("no more signals"))),
        }
    };
    pumps.drained().await;
    drop(raw);
    Ok(status)
}

/// Forwards signals and, with a terminal, its sizes, for as long as it is polled.
async fn forward(guest: &Guest, tty: bool, signals: &mut Signals) -> Result<()> {
    let mut resized = unix::signal(unix::SignalKind::window_change())?;
    loop {
        tokio::select! {
            signal = signals.next() => container::signal(guest, signal, false).await,
            _ = resized.recv(), if tty => {
                let (columns, rows) = terminal::size()?;
                let mut request = ResizeRequest::new();
                request.container_id = CONTAINER.to_owned();
                (request.width, request.height) = (columns.into(), rows.into());
                let _ = guest.client.resize(call(), &request).await;
            }
        }
    }
}
