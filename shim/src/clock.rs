//! The host's clock: what it says, and when a guest should hear of it again.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, SystemTime},
};

use rustix::{
    io::{Errno, read},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// How often a guest hears the time when nothing else happens. Crystals differ by some ten parts in a million, a few
/// milliseconds in this time.
const INTERVAL: Duration = Duration::from_secs(300);

/// The host's clock, nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Tells when the clock was stepped, which a resume from suspend does too.
pub struct HostClock(AsyncFd<OwnedFd>);

impl HostClock {
    /// Watches from now on.
    ///
    /// # Errors
    /// The kernel's, for want of descriptors or memory.
    pub fn new() -> io::Result<HostClock> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        arm(&timer)?;
        // SAFETY: the descriptor is the AsyncFd's own until it is dropped, and always the same.
        Ok(HostClock(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?))
    }

    /// Waits until the clock was stepped, or [`INTERVAL`] has passed.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn due(&self) -> io::Result<()> {
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
