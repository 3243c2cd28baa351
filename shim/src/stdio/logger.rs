//! A program that logs a process's output: containerd's `binary://`, which nerdctl uses for what
//! runs in the background.
//!
//! The logger reads standard output from descriptor 3 and standard error from 4. It says that it is ready by writing a
//! byte to 5, or by closing it. Its environment names the process. It ends when both outputs end; one that does not is
//! killed.
//! Source: containerd `core/runtime/v2/README.md` and `cmd/containerd-shim-runc-v2/process/io.go`.

use std::{io, os::fd::OwnedFd, time::Duration};

use linux::spawn::{Child, Spawn};
use log::{debug, warn};
use nix::{fcntl::OFlag, sys::signal::Signal, unistd::pipe2};
use tokio::{io::AsyncReadExt, net::unix::pipe, time::timeout};

use super::uri::Binary;
use crate::{
    error::{Error, Result},
    failpoint::seconds,
};

/// How long a logger may take to get ready.
const READY_TIMEOUT: Duration = seconds(60, 8);

/// How long a logger may take to end after the output has, and after SIGTERM. Together they are what runc's shim
/// allows.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
const TERM_TIMEOUT: Duration = Duration::from_secs(2);

/// A running logger; killed when this is dropped.
pub struct Logger {
    child: Child,
}

/// The shim's ends of what a logger reads.
pub struct LogPipes {
    /// Its standard output.
    pub stdout: pipe::Sender,
    /// Its standard error.
    pub stderr: pipe::Sender,
}

impl Logger {
    /// Starts `binary` for the process `id` in containerd's `namespace`, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// When it cannot be started, is not ready in time, or ends unready although it must say that it is ready.
    #[expect(clippy::disallowed_methods, reason = "who names a logger runs it as root")]
    pub async fn start(binary: &Binary, id: &str, namespace: &str) -> Result<(Logger, LogPipes)> {
        let failed = |what: &str| Error::internal(format!("logger {}: {what}", binary.path.display()));
        let pipes = || pipe2(OFlag::O_CLOEXEC).map_err(|e| failed(&format!("make a pipe: {e}")));
        let ((out_read, out), (err_read, err), (ready, ready_write)) = (pipes()?, pipes()?, pipes()?);
        let mut spawn = Spawn::new(&binary.path).fd(out_read, 3).fd(err_read, 4).fd(ready_write, 5);
        // It ends when the output does, which one that was stopped does not read.
        spawn.death_signal = Some(Signal::SIGCONT);
        spawn.args.clone_from(&binary.args);
        spawn.env = [("CONTAINER_ID", id), ("CONTAINER_NAMESPACE", namespace)]
            .map(|(name, value)| (name.into(), value.into()))
            .to_vec();
        let child = spawn.spawn().map_err(|e| failed(&format!("{:#}", anyhow::Error::from(e))))?;
        let logger = Logger { child: child.clone() };
        // Reaps it whenever it ends.
        tokio::spawn(async move {
            let how = child.ended().await;
            debug!("logger {} ended: {how:?}", child.pid());
        });
        let sender = |fd: OwnedFd| pipe::Sender::from_owned_fd(fd).map_err(|e| failed(&e.to_string()));
        let pipes = LogPipes { stdout: sender(out)?, stderr: sender(err)? };
        let answered = timeout(READY_TIMEOUT, answer(ready)).await;
        match answered.map_err(|_| failed(&format!("not ready after {READY_TIMEOUT:?}")))? {
            Ok(false) if binary.must_answer => {
                Err(failed("ended, or closed descriptor 5, without saying that it is ready"))
            }
            Ok(_) => Ok((logger, pipes)),
            Err(error) => Err(failed(&format!("wait until it is ready: {error}"))),
        }
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.child.kill(Signal::SIGTERM);
    }

    /// Waits until it has ended, which it does at the end of the output; one that takes too long is terminated.
    pub async fn finish(&self) {
        if timeout(FLUSH_TIMEOUT, self.child.ended()).await.is_ok() {
            return;
        }
        warn!("logger {} did not end {FLUSH_TIMEOUT:?} after the output: it is terminated", self.child.pid());
        self.terminate();
        if timeout(TERM_TIMEOUT, self.child.ended()).await.is_err() {
            self.child.kill(Signal::SIGKILL);
        }
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        // Does nothing to one that has ended.
        self.child.kill(Signal::SIGKILL);
    }
}

/// Whether a byte came before the end of file.
async fn answer(ready: OwnedFd) -> io::Result<bool> {
    let mut ready = pipe::Receiver::from_owned_fd(ready)?;
    Ok(ready.read(&mut [0]).await? > 0)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn shell(script: &str, must_answer: bool) -> Binary {
        let args = ["-c", script].map(Into::into).to_vec();
        Binary { path: "/bin/sh".into(), args, must_answer }
    }

    fn is_running(pid: nix::unistd::Pid) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn a_logger_gets_both_outputs_and_names_and_ends_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script = format!(
            "exec >{0}; echo $CONTAINER_ID in $CONTAINER_NAMESPACE; echo >&5; exec 5>&-; cat <&3; cat <&4; echo end",
            log.display()
        );
        let (logger, mut pipes) = Logger::start(&shell(&script, true), "c1", "default").await.unwrap();
        pipes.stdout.write_all(b"out\n").await.unwrap();
        pipes.stderr.write_all(b"err\n").await.unwrap();
        drop(pipes);
        logger.finish().await;
        assert_eq!(fs::read_to_string(log).unwrap(), "c1 in default\nout\nerr\nend\n");
    }

    #[tokio::test]
    async fn a_logger_that_ends_unready_is_an_error_only_where_it_must_answer() {
        assert!(Logger::start(&shell("exit 1", false), "c1", "default").await.is_ok());
        let error = Logger::start(&shell("exit 1", true), "c1", "default").await.err().unwrap();
        assert!(error.to_string().contains("/bin/sh: ended"), "{error}");
        let missing = Binary { path: "/nowhere".into(), args: vec![], must_answer: false };
        let error = Logger::start(&missing, "c1", "default").await.err().unwrap();
        assert!(
            error.to_string().contains("/nowhere") && error.to_string().contains("No such file"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_dropped_logger_is_killed_and_reaped() {
        let (logger, pipes) =
            Logger::start(&shell("exec 5>&-; exec sleep 60", false), "c1", "x").await.unwrap();
        let child = logger.child.clone();
        assert!(is_running(child.pid()));
        drop((logger, pipes));
        child.ended().await.unwrap();
        assert!(!is_running(child.pid()));
    }
}
