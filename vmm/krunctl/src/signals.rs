//! The signals that are meant for the command.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use tokio::{signal::unix, sync::mpsc};

/// The signals that are forwarded to the command.
const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// The signal of this name or number, as an image has it: SIGQUIT, QUIT or 3.
///
/// # Errors
/// When there is none.
pub fn named(text: &str) -> Result<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |from: &str| name.strip_prefix(from)?.parse::<i32>().ok();
    let number = name.parse().ok().or_else(|| match name {
        "RTMIN" => Some(libc::SIGRTMIN()),
        "RTMAX" => Some(libc::SIGRTMAX()),
        _ => offset("RTMIN+")
            .map(|more| libc::SIGRTMIN().saturating_add(more))
            .or_else(|| offset("RTMAX-").map(|less| libc::SIGRTMAX().saturating_sub(less)))
            .or_else(|| format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)),
    });
    let number = number.filter(|number| (1..=libc::SIGRTMAX()).contains(number));
    number.with_context(|| format!("the image's stop signal {text:?} is none"))
}

/// Those of them that are meant to end it.
pub const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// How many of those end it in any case. Source: `docker run`.
pub const MANY: u32 = 3;

/// How long what was asked to end may take. Source: `docker stop`.
pub const GRACE: Duration = Duration::from_secs(10);

/// The signals of [`FORWARDED`] that we get.
pub struct Signals(mpsc::UnboundedReceiver<Signal>);

/// Has them wait until they are listened for: what this process makes meanwhile is then removed, whenever they come.
///
/// # Errors
/// The kernel's.
pub fn hold() -> Result<()> {
    forwarded().thread_block().context("holding signals back")
}

fn forwarded() -> SigSet {
    FORWARDED.into_iter().collect()
}

impl Signals {
    /// From now on they do not end us. Those that were [held back](hold) have come.
    pub fn listen() -> Result<Self> {
        let (send, receive) = mpsc::unbounded_channel();
        let came = SignalFd::with_flags(&forwarded(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let came = came.context("asking for signals")?;
        while let Some(signal) = came.read_signal().context("asking for signals")? {
            let signal = i32::try_from(signal.ssi_signo).ok().and_then(|number| number.try_into().ok());
            // The channel is there for as long as `receive` is.
            signal.map(|signal| send.send(signal));
        }
        for signal in FORWARDED {
            let mut stream =
                unix::signal(unix::SignalKind::from_raw(signal as i32)).context("listening for signals")?;
            let send = send.clone();
            tokio::spawn(async move { while stream.recv().await.is_some() && send.send(signal).is_ok() {} });
        }
        forwarded().thread_unblock().context("taking signals")?;
        Ok(Signals(receive))
    }

    /// One that has come already, and is to end us. There is no command yet that could get the others.
    pub fn came(&mut self) -> Option<Signal> {
        std::iter::from_fn(|| self.0.try_recv().ok()).find(|signal| ENDING.contains(signal))
    }

    /// The next one that is to end us. There is no command yet that could get the others.
    pub async fn ending(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if ENDING.contains(&signal) {
                return signal;
            }
        }
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[tokio::test]
    async fn a_signal_that_was_held_back_has_come() {
        hold().unwrap();
        // To this thread alone.
        raise(Signal::SIGUSR1).unwrap();
        raise(Signal::SIGTERM).unwrap();
        let mut signals = Signals::listen().unwrap();
        assert_eq!(signals.came(), Some(Signal::SIGTERM));
        assert_eq!(signals.came(), None);
        raise(Signal::SIGHUP).unwrap();
        assert_eq!(signals.next().await, Signal::SIGHUP);
    }

    #[test]
    fn an_images_signal_has_a_name_or_a_number() {
        for (text, number) in [("SIGQUIT", 3), ("quit", 3), ("9", 9), ("SIGRTMIN+3", libc::SIGRTMIN() + 3)] {
            assert_eq!(named(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "SIGNONE", "65", "-1", "SIGRTMIN+99", "RTMAX-x"] {
            assert!(named(text).is_err(), "{text}");
        }
    }
}
