//! The guest's clock follows the host's. A large difference is stepped; a small one is slewed, so that the clock never
//! jumps back a little. RPC: SetClock.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Differences below this, in nanoseconds, are the time that the call takes.
const NOISE_NS: i64 = 2_000_000;

/// Differences from this on, in nanoseconds, are stepped. The kernel slews 0.5 ms in a second (adjtime(3)), so this much
/// would take a quarter of an hour.
const STEP_NS: i64 = 500_000_000;

/// What to do about a difference.
#[derive(Debug, PartialEq, Eq)]
enum Correction {
    Nothing,
    /// Microseconds to gain, or to lose.
    Slew(i64),
    Step,
}

/// Sets the clock to `realtime_ns`, nanoseconds since the epoch.
pub fn set(realtime_ns: i64) -> Result<()> {
    let since_epoch = u64::try_from(realtime_ns).context("a time before 1970")?;
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(Duration::from_nanos(since_epoch)))
        .context("set the clock")
}

/// Brings the clock to `realtime_ns`, the host's, nanoseconds since the epoch.
pub fn follow(realtime_ns: i64) -> Result<()> {
    let own = clock_gettime(ClockId::CLOCK_REALTIME).context("read the clock")?;
    let difference = realtime_ns.saturating_sub(own.tv_sec() * 1_000_000_000 + own.tv_nsec());
    match correction(difference) {
        Correction::Nothing => Ok(()),
        Correction::Slew(microseconds) => slew(microseconds),
        Correction::Step => {
            log::info!("the clock is stepped by {} ms to the host's", difference / 1_000_000);
            set(realtime_ns)
        }
    }
}

fn correction(difference_ns: i64) -> Correction {
    match difference_ns.saturating_abs() {
        ..NOISE_NS => Correction::Nothing,
        NOISE_NS..STEP_NS => Correction::Slew(difference_ns / 1000),
        STEP_NS.. => Correction::Step,
    }
}

fn slew(microseconds: i64) -> Result<()> {
    // SAFETY: all zeroes are a valid timex.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_OFFSET_SINGLESHOT;
    change.offset = microseconds;
    // SAFETY: a valid timex, which outlives the call.
    Errno::result(unsafe { libc::adjtimex(&raw mut change) }).context("slew the clock")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_are_slewed_and_large_ones_stepped() {
        assert_eq!(correction(1_999_999), Correction::Nothing);
        assert_eq!(correction(-1_000_000), Correction::Nothing);
        assert_eq!(correction(-30_000_000), Correction::Slew(-30_000));
        assert_eq!(correction(499_999_999), Correction::Slew(499_999));
        assert_eq!(correction(3_600_000_000_000), Correction::Step);
        assert_eq!(correction(i64::MIN), Correction::Step);
    }
}
