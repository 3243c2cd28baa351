//! Named points of the shim's work, and of krunctl's, at which a test has it wait, and kills or stops what it likes meanwhile.
//!
//! They exist only with the feature `failpoints`, which nothing that is shipped has: without it a point is no code at all.
//! A point that is reached is told to the socket [`SOCKET`] in a line, `<pid> <name>`, and passed when an answer comes or the
//! connection ends. Where nobody listens it is passed at once. Every point has a case in
//! `integration/src/scenarios/kill_points`, or `krunctl_kill_commands.rs`, which tests there check.

/// Reaches a point: in a future, or, with `blocking` before the name, where blocking holds up nobody. The crate that says it has
/// a feature `failpoints`.
#[macro_export]
macro_rules! failpoint {
    (blocking $name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reach_blocking($name);
    };
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reach($name).await;
    };
}

/// A limit in seconds: the usual one, or a shorter one where tests wait for it to pass.
pub const fn seconds(usual: u64, tested: u64) -> std::time::Duration {
    std::time::Duration::from_secs(if cfg!(feature = "failpoints") { tested } else { usual })
}

#[cfg(feature = "failpoints")]
pub use points::{reach, reach_blocking};

#[cfg(feature = "failpoints")]
#[expect(clippy::disallowed_methods, reason = "tests only, on a constant path")]
mod points {
    use std::io::{Read, Write};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Where a test listens.
    const SOCKET: &str = "/run/krun-failpoints.sock";

    /// Waits at the point `name` until the test lets it be passed.
    pub async fn reach(name: &str) {
        let Ok(mut test) = tokio::net::UnixStream::connect(SOCKET).await else { return };
        if test.write_all(line(name).as_bytes()).await.is_ok() {
            // The end of the connection is an answer as well.
            let _ = test.read(&mut [0]).await;
        }
    }

    /// As [`reach`], and blocks the thread.
    pub fn reach_blocking(name: &str) {
        let Ok(mut test) = std::os::unix::net::UnixStream::connect(SOCKET) else { return };
        if test.write_all(line(name).as_bytes()).is_ok() {
            let _ = test.read(&mut [0]);
        }
    }

    fn line(name: &str) -> String {
        format!("{} {name}\n", std::process::id())
    }
}
