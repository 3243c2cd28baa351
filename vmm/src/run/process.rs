//! The command in the guest: creates and starts it, forwards signals to it, and waits for its end.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use guest_protocol::{
    api::{CreateContainerRequest, ProcessRef, ResizeRequest, SignalRequest, Stdio},
    mux::FIRST_STREAM,
};
use nix::sys::signal::Signal;
use tokio::{signal::unix, sync::mpsc};
use vm_launcher::Guest;

use super::{Arguments, share::CONTAINER, spec, stdio, terminal};

/// Limit for a call that does not wait for the command.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The signals that are forwarded to the command.
const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Runs the command and returns its exit status.
pub async fn run(guest: &Guest, arguments: &Arguments, signals: &mut Signals) -> Result<u8> {
    let size = if arguments.tty { Some(terminal::size()?) } else { None };
    let term = std::env::var("TERM").ok();
    let spec = spec::make(&arguments.command, term.as_deref().filter(|_| arguments.tty), size);
    let numbers = Stdio {
        stdin: FIRST_STREAM,
        stdout: FIRST_STREAM + 1,
        stderr: if arguments.tty { 0 } else { FIRST_STREAM + 2 },
        terminal: arguments.tty,
        ..Default::default()
    };
    let mut pumps = stdio::Pumps::open(&guest.streams, &numbers)?;
    let raw = if arguments.tty { Some(terminal::Raw::enter()?) } else { None };

    let mut create = CreateContainerRequest::new();
    create.container_id = CONTAINER.to_owned();
    create.spec = serde_json::to_vec(&spec)?;
    create.stdio = Some(numbers).into();
    guest.client.create_container(call(), &create).await.map_err(guest_error)?;
    pumps.start_input();
    let mut process = ProcessRef::new();
    process.container_id = CONTAINER.to_owned();
    guest.client.start(call(), &process).await.map_err(guest_error)?;

    let record = {
        let forward = forward(guest, arguments.tty, signals);
        let wait = guest.client.wait(ttrpc::context::Context::default(), &process);
        tokio::select! {
            record = wait => record.map_err(guest_error)?,
            error = forward => return Err(error.err().unwrap_or_else(|| anyhow!("no more signals"))),
        }
    };
    pumps.drained().await;
    drop(raw);
    Ok(u8::try_from(record.status).unwrap_or(u8::MAX))
}

fn call() -> ttrpc::context::Context {
    ttrpc::context::with_duration(CALL_TIMEOUT)
}

/// The guest's message, without ttrpc's prefix.
fn guest_error(error: ttrpc::Error) -> anyhow::Error {
    match error {
        ttrpc::Error::RpcStatus(status) => anyhow!("{}", status.message),
        other => anyhow::Error::new(other).context("calling the guest"),
    }
}

/// Forwards signals, and the sizes of the terminal if there is one. Never returns without an error.
async fn forward(guest: &Guest, tty: bool, signals: &mut Signals) -> Result<()> {
    let mut resized = unix::signal(unix::SignalKind::window_change())?;
    loop {
        tokio::select! {
            signal = signals.next() => {
                let mut request = SignalRequest::new();
                request.container_id = CONTAINER.to_owned();
                request.signal = signal as u32;
                // The process may have ended by now.
                let _ = guest.client.signal(call(), &request).await;
            }
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

/// The signals of [`FORWARDED`] that this process receives.
pub struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// From now on they do not end this process.
    pub fn listen() -> Result<Self> {
        let (send, receive) = mpsc::unbounded_channel();
        for signal in FORWARDED {
            let mut stream =
                unix::signal(unix::SignalKind::from_raw(signal as i32)).context("listening for signals")?;
            let send = send.clone();
            tokio::spawn(async move { while stream.recv().await.is_some() && send.send(signal).is_ok() {} });
        }
        Ok(Signals(receive))
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}
