//! The command in the guest: making it, starting it, its signals, its end.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use guest_protocol::{
    api::{CreateContainerRequest, ProcessRef, ResizeRequest, SignalRequest, Stdio},
    failure::CallError,
    mux::FIRST_STREAM,
};
use nix::sys::signal::Signal;
use tokio::{signal::unix, sync::mpsc};
use vm_launcher::Guest;

use super::{Arguments, share::CONTAINER, spec, stdio, terminal};

/// How long a call may take that does not wait for anything.
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
    guest.client.create_container(call(), &create).await.map_err(CallError::from)?;
    pumps.start_input();
    let mut process = ProcessRef::new();
    process.container_id = CONTAINER.to_owned();
    guest.client.start(call(), &process).await.map_err(CallError::from)?;

    let record = {
        let forward = forward(guest, arguments.tty, signals);
        let wait = guest.client.wait(ttrpc::context::Context::default(), &process);
        tokio::select! {
            record = wait => record.map_err(CallError::from)?,
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

/// Forwards signals and, with a terminal, its sizes, for as long as it is polled.
async fn forward(guest: &Guest, tty: bool, signals: &mut Signals) -> Result<()> {
    let mut resized = unix::signal(unix::SignalKind::window_change())?;
    loop {
        tokio::select! {
            signal = signals.next() => {
                let mut request = SignalRequest::new();
                request.container_id = CONTAINER.to_owned();
                request.signal = signal as u32;
                // A process that has ended meanwhile needs none.
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

/// The signals of [`FORWARDED`] that we get.
pub struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// From now on they do not end us.
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

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}
