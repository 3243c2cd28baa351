//! A vmm process from its start to its end: its stderr, and reaping it.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use linux::spawn::Child;
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::watch};

use crate::{ExitStatus, VmEnd, kvm_file::KvmFile, lines::Lines, refused};

/// Lines of stderr that [`VmEnd`] keeps.
const LAST_LINES: usize = 20;

/// Maximum number of bytes that a pipe holds. Source: pipe(7), "Pipe capacity".
const PIPE_CAPACITY: usize = 64 * 1024;

/// What happens at the end of a vmm, in this order.
pub struct AtEnd {
    /// Dropped once it is known how it ended.
    pub until_end: Box<dyn Send>,
    pub announce: watch::Sender<Option<VmEnd>>,
    /// Closed when nobody waits any more.
    pub kvm: KvmFile,
}

/// Logs the vmm's stderr until the vmm has ended, then reaps it and announces its end.
///
/// The end of the process counts, not the end of stderr: a vmm that a guest has taken over can pass its stderr to another
/// process, and the end of file would never come.
pub async fn attend(
    child: Child,
    mut stderr: pipe::Receiver,
    killed: Arc<AtomicBool>,
    AtEnd { announce, until_end, kvm }: AtEnd,
) {
    let mut last_lines = VecDeque::new();
    let mut log = |line: &str| {
        log::log!(target: "vmm", level(line), "{}: {line}", child.pid());
        if last_lines.len() == LAST_LINES {
            last_lines.pop_front();
        }
        last_lines.push_back(line.to_owned());
    };
    let mut lines = Lines::default();
    let mut buffer = vec![0; 4096];
    let status = {
        let mut ended = pin!(child.ended());
        let mut open = true;
        loop {
            tokio::select! {
                status = &mut ended => break status,
                read = stderr.read(&mut buffer), if open => match read {
                    Ok(count @ 1..) => lines.feed(&buffer[..count], &mut log),
                    // Closed by the vmm, which may go on without it.
                    _ => open = false,
                },
            }
        }
    };
    // The process is gone, so all that it wrote is in the pipe, and only that is read.
    let mut left = PIPE_CAPACITY;
    while let Ok(count @ 1..) = stderr.try_read(&mut buffer)
        && left > 0
    {
        lines.feed(&buffer[..count], &mut log);
        left = left.saturating_sub(count);
    }
    lines.end(&mut log);
    let status = match status.unwrap_or(ExitStatus::Unknown) {
        // Another process is its parent, and has reaped it before we looked.
        ExitStatus::Unknown if killed.load(Ordering::Relaxed) => ExitStatus::Killed(libc::SIGKILL),
        status => status,
    };
    let mut end = VmEnd::new(status, last_lines.into(), killed.load(Ordering::Relaxed));
    if status == ExitStatus::Killed(libc::SIGSYS) {
        let pid = child.pid();
        let call = tokio::task::spawn_blocking(move || refused::call_of(pid)).await;
        end.refused_call(&call.unwrap_or_else(|error| error.to_string()));
    }
    drop(until_end);
    announce.send_replace(Some(end));
    kvm.close();
}

/// The level of a line. libkrun's logger writes "[<time> LEVEL module] text"; lines of krun-vmm itself are errors.
fn level(line: &str) -> log::Level {
    let word = line.split_whitespace().nth(1).unwrap_or_default();
    match (line.starts_with('['), word.parse()) {
        (true, Ok(level)) => level,
        (true, Err(_)) => log::Level::Info,
        (false, _) => log::Level::Error,
    }
}
