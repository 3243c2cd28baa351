//! Waiting for something to become true, with a deadline: the only way in which a scenario lets time pass.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How often the condition is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// Polls until `probe` gives a value, and fails with `what` when it has not after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("after {} s still waiting for: {what}", limit.as_secs());
        }
        std::thread::sleep(INTERVAL);
    }
}

/// [`until`] for a plain condition.
pub fn until_true(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || Ok(probe()?.then_some(())))
}
