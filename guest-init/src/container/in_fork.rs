//! In a fork: makes a container with libcontainer. Its process waits for Start, and becomes PID 1's child when the fork
//! ends. Its watched volumes are sent to PID 1.

use std::path::PathBuf;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::PosixRlimit;
use libcontainer::syscall::syscall::SyscallType;

use super::root::OwnRoot;
use super::volumes;
use crate::process::{
    executor::GuestExecutor,
    fork::{Report, Reporter},
    limits, trace,
};
use crate::rpc::fault::Refusal;

/// What to make.
pub struct Job {
    pub container_id: String,
    /// Directory that holds config.json.
    pub bundle: PathBuf,
    /// Directory below which libcontainer keeps its state.
    pub state: PathBuf,
    /// The process's working directory, for error texts.
    pub cwd: PathBuf,
    /// Socket that takes the terminal's master, with a terminal.
    pub console: Option<PathBuf>,
    /// Its limits.
    pub rlimits: Vec<PosixRlimit>,
    /// Its root and where it is to be, where it is no part of the share.
    pub own_root: Option<(OwnRoot, PathBuf)>,
    /// Volumes to send, by their numbers, with their places in the container.
    pub watched: Vec<(u32, PathBuf)>,
}

/// Runs in the fork; its fds 0-2 are the container's, and its first extra one takes the volumes.
pub fn run(mut job: Job, reporter: &Reporter) -> i32 {
    let watched = std::mem::take(&mut job.watched);
    if let Some((root, rootfs)) = job.own_root.take()
        && let Err(err) = root.mount(&rootfs)
    {
        reporter.send(&Report::Failed(Refusal::other(format!("mount the rootfs: {err}"))));
        return 1;
    }
    let report = match trace::start(job.cwd.clone()) {
        Ok(()) => match create(job) {
            Ok(pid) => {
                if !watched.is_empty() {
                    // A volume that is not sent is not looked at again.
                    let _ = volumes::send(pid, &watched);
                }
                Report::Pid(pid)
            }
            Err(err) => Report::Failed(trace::refusal(&chain(&err))),
        },
        Err(errno) => Report::Failed(Refusal::other(format!("make a memfd: {errno}"))),
    };
    reporter.send(&report);
    i32::from(matches!(report, Report::Failed(_)))
}

fn create(job: Job) -> Result<i32, LibcontainerError> {
    // libcontainer sets them in the container's user namespace, where nobody may raise one.
    limits::allow(&job.rlimits).map_err(|err| LibcontainerError::Other(err.to_string()))?;
    let container = ContainerBuilder::new(job.container_id, SyscallType::default())
        .with_root_path(job.state)?
        .with_console_socket(job.console)
        .with_executor(GuestExecutor::default())
        .as_init(job.bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()?;
    container.pid().map(|pid| pid.as_raw()).ok_or(LibcontainerError::Other("no pid in its state".into()))
}

/// The error and its causes. libcontainer's transparent wrappers repeat a cause: once is enough.
fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut next = err.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
