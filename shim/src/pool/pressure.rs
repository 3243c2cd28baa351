//! Whether the host is short of memory. Source: the kernel's Documentation/accounting/psi.rst.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
};

use tokio::io::{Interest, unix::AsyncFd};

/// Where the kernel tells.
const MEMORY: &str = "/proc/pressure/memory";

/// Processes have waited for memory for 150 ms of a second: the host reclaims what it needs.
const TRIGGER: &str = "some 150000 1000000\0";

/// The part of the memory that is available when the host is short of it: processes also wait for the memory that their own
/// cgroup is limited to.
const SHORT: u64 = 10;

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
    #[expect(clippy::disallowed_methods, reason = "a constant path of /proc")]
    pub async fn rises(&self) {
        loop {
            match self.0.ready(Interest::PRIORITY).await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime ends.
                Err(_) => std::future::pending().await,
            }
            if fs::read_to_string("/proc/meminfo").is_ok_and(|text| is_short(&text)) {
                return;
            }
        }
    }
}

/// Whether less than a tenth of the memory is available.
fn is_short(meminfo: &str) -> bool {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    kib("MemAvailable:").zip(kib("MemTotal:")).is_some_and(|(available, total)| available < total / SHORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_with_a_tenth_of_its_memory_is_not_short() {
        let text =
            |available: u64| format!("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable:   {available} kB\n");
        assert!(is_short(&text(99)) && !is_short(&text(100)));
        assert!(!is_short(""));
    }
}
