//! The signals that are meant for the command.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::{signal::unix, sync::mpsc};

/// The signals that are forwarded to the command.
const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// The signal of this name or number, as an image has it: SIGQUIT, QUIT or 3.
///
/// # Errors
/// When there is none.
pub fn named(text: &str) -> Result<Signal> {
    let number = text.parse().ok().and_then(|number: i32| Signal::try_from(number).ok());
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let signal = number.or_else(|| full.parse().ok());
    signal.with_context(|| format!("the image's stop signal {text:?} is none"))
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
