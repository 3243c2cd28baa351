//! Whether the host is short of memory. Source: the kernel's Documentation/accounting/psi.rst.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
};

use tokio::io::{Interest, unix::AsyncFd};

/// Where the kernel tells.
const MEMORY: &str = "/proc/pressure/memory";

/// Processes have waited for memory for 150 ms of a second: the host reclaims what it needs.
const TRIGGER: &str = "some 150000 1000000\0";

/// Tells when the host becomes short of memory.
pub struct Pressure(AsyncFd<File>);

impl Pressure {
    /// Watches from now on.
    ///
    /// # Errors
    /// When the kernel does not tell.
    #[expect(clippy::disallowed_methods, reason = "a constant path of /proc")]
    pub fn watch() -> io::Result<Pressure> {
        let mut options = File::options();
        let mut file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(MEMORY)?;
        file.write_all(TRIGGER.as_bytes())?;
        // SAFETY: a File keeps to the rules of I/O safety: one open descriptor, always the same.
        Ok(Pressure(unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }?))
    }

    /// Waits until it is.
    pub async fn rises(&self) {
        match self.0.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            // The runtime ends.
            Err(_) => std::future::pending().await,
        }
    }
}
