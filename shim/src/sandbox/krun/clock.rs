//! The host's clock: what it says, when a guest should hear of it again, and telling it.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, SystemTime},
};

use guest_protocol::{api, failure::CallError};
use log::warn;
use rustix::{
    io::{Errno, read},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use tokio::io::{Interest, unix::AsyncFd};
use ttrpc::context;
use vm_launcher::Guest;

/// How often a guest hears the time when nothing else happens. Crystals differ by some ten parts in a million, a few
/// milliseconds in this time.
const INTERVAL: Duration = Duration::from_secs(300);

/// How long the guest may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

/// The host's clock, nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Tells the guest the host's time again and again, until it is lost.
///
/// # Errors
/// When the clock cannot be watched.
pub async fn keep(guest: &Guest) -> io::Result<()> {
    let clock = HostClock::new()?;
    loop {
        tokio::select! {
            _ = guest.lost() => return Ok(()),
            due = clock.due() => due?,
        }
        let request = api::SetClockRequest { realtime_ns: now_ns(), ..Default::default() };
        // One that does not answer is somebody else's business; it may do so again.
        if let Err(error) = guest.client.set_clock(context::with_duration(ANSWER), &request).await {
            warn!("tell the guest the time: {}", CallError::from(error));
        }
    }
}

/// Tells when the clock was stepped, which a resume from suspend does too.
struct HostClock(AsyncFd<OwnedFd>);

impl HostClock {
    /// Watches from now on.
    fn new() -> io::Result<HostClock> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        arm(&timer)?;
        // SAFETY: the descriptor is the AsyncFd's own until it is dropped, and always the same.
        Ok(HostClock(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?))
    }

    /// Waits until the clock was stepped, or [`INTERVAL`] has passed.
    async fn due(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match read(ready.get_inner(), &mut [0; 8]) {
                // CANCELED: stepped. Source: timerfd_create(2).
                Ok(_) | Err(Errno::CANCELED) => return arm(ready.get_inner()),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + INTERVAL;
    let at = Timespec::try_from(at).map_err(io::Error::other)?;
    let once = Itimerspec { it_interval: Timespec::default(), it_value: at };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once)?;
    Ok(())
}
