//! A file in the bundle names the process that serves the sandbox, so that a server that containerd has given up can be
//! killed.

#![expect(clippy::disallowed_methods, reason = "the bundle, which is containerd's, and /proc")]

use std::{env, ffi::OsStr, fs, io, os::unix::ffi::OsStrExt, path::Path, time::Duration};

use linux::pidfd::Pidfd;
use nix::{sys::signal::Signal, unistd::Pid};

/// The file's name. Source: containerd `cmd/containerd-shim-runc-v2`.
pub const NAME: &str = "shim.pid";

/// How long a killed server may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes this process's pid, in the current directory.
///
/// # Errors
/// The file system's.
pub fn write() -> io::Result<()> {
    fs::write(NAME, std::process::id().to_string())
}

/// Waits `patience` for the end of the server of `id` that was started in `bundle`, then kills it.
///
/// # Errors
/// When it can be neither watched nor killed.
pub fn end(bundle: &Path, id: &str, patience: Duration) -> io::Result<()> {
    let pid = fs::read_to_string(bundle.join(NAME)).ok().and_then(|pid| pid.parse().ok());
    let Some(pid) = pid.map(Pid::from_raw) else { return Ok(()) };
    let server = match Pidfd::open(pid) {
        Ok(server) => server,
        // It has gone, or goes at this moment. Source: the kernel's `pidfd_open`, which wants a thread group's leader.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => return Ok(()),
        Err(error) => return Err(error),
    };
    // Another process may have the pid by now. The pidfd was opened first, and so holds the process that is checked.
    if !is_server_of(pid, id) || server.ends_within(patience)? {
        return Ok(());
    }
    server.signal(Signal::SIGKILL)?;
    server.ends_within(KILL_TIMEOUT).map(|_| ())
}

fn is_server_of(pid: Pid, id: &str) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", pid)).unwrap_or_default();
    let words: Vec<_> = line.split(|&byte| byte == 0).collect();
    // It is this executable, whatever that is called: `ctr run --runtime` takes any path.
    let own = env::current_exe().ok();
    let name = words.first().and_then(|word| Path::new(OsStr::from_bytes(word)).file_name());
    let is_ours = name.is_some() && name == own.as_deref().and_then(Path::file_name);
    is_ours && words.windows(2).any(|pair| pair == [b"-id".as_slice(), id.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_of_that_container_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        end(dir.path(), "c1", Duration::ZERO).unwrap();
        // This very process has the number, and is no server.
        fs::write(dir.path().join(NAME), std::process::id().to_string()).unwrap();
        end(dir.path(), "c1", Duration::ZERO).unwrap();
        fs::write(dir.path().join(NAME), "no number").unwrap();
        end(dir.path(), "c1", Duration::ZERO).unwrap();
    }
}
