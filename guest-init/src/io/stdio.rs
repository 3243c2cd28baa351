//! Connects a process's stdin, stdout and stderr to streams, by pipes or a terminal. The streams are opened before the
//! process exists; the pumps run once it does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use guest_protocol::api::Stdio;
use guest_protocol::mux::{Mux, Reader, Writer};
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use tokio::io::Interest;
use tokio::sync::{mpsc, watch};

use crate::io::pump::{self, End};
use crate::rpc::fault::Fault;

/// Open streams and the descriptors for a process to come.
pub struct Wiring {
    child: [OwnedFd; 3],
    input: Option<(Reader, Option<OwnedFd>)>,
    outputs: Vec<(Writer, Option<OwnedFd>)>,
}

/// The pumps of a running process.
pub struct Pumps {
    exited: watch::Sender<bool>,
    drained: mpsc::Receiver<()>,
}

impl Wiring {
    /// Opens the streams. `owner` will own the pipes, so that the process can open /dev/stdout.
    pub fn open(mux: &Mux, stdio: &Stdio, owner: u32) -> Result<Wiring, Fault> {
        let null = || open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
        let null = || null().context("open /dev/null");
        let mut wiring = Wiring { child: [null()?, null()?, null()?], input: None, outputs: Vec::new() };
        if stdio.stdin != 0 {
            let (reader, _) = open_stream(mux, stdio.stdin)?;
            let ours = if stdio.terminal { None } else { Some(wiring.pipe(0, owner)?) };
            wiring.input = Some((reader, ours));
        }
        for (fd, stream) in [(1, stdio.stdout), (2, stdio.stderr)] {
            if stream != 0 {
                let (_, writer) = open_stream(mux, stream)?;
                let ours = if stdio.terminal { None } else { Some(wiring.pipe(fd, owner)?) };
                wiring.outputs.push((writer, ours));
            }
        }
        Ok(wiring)
    }

    /// Makes the process's `fd` a pipe, and returns our end, which never blocks.
    fn pipe(&mut self, fd: usize, owner: u32) -> Result<OwnedFd> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
        let (theirs, ours) = if fd == 0 { (read, write) } else { (write, read) };
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("make a pipe's end non-blocking")?;
        nix::unistd::fchown(&theirs, Some(owner.into()), None).context("chown a pipe to its user")?;
        self.child[fd] = theirs;
        Ok(ours)
    }

    /// The process's fds 0-2. A process with a terminal replaces them itself.
    pub fn child(&self) -> [BorrowedFd<'_>; 3] {
        [self.child[0].as_fd(), self.child[1].as_fd(), self.child[2].as_fd()]
    }

    /// Starts the pumps, and closes the process's ends. `master` is the terminal's, if there is one.
    pub fn run(self, master: Option<&Arc<OwnedFd>>) -> Result<Pumps> {
        let (exited, watch) = watch::channel(false);
        let (drained, all_drained) = mpsc::channel(1);
        // Each pump needs a descriptor of its own to register; all are the same open terminal.
        let end = |own: Option<OwnedFd>, interest| -> io::Result<Option<End>> {
            let own = own.map(Ok).or_else(|| master.map(|master| master.try_clone()));
            own.transpose()?.map(|fd| End::new(Arc::new(fd), interest)).transpose()
        };
        if let Some((reader, own)) = self.input
            && let Some(end) = end(own, Interest::WRITABLE).context("register stdin")?
        {
            tokio::spawn(pump::input(reader, end, watch.clone(), master.is_some()));
        }
        for (writer, own) in self.outputs {
            if let Some(end) = end(own, Interest::READABLE).context("register an output")? {
                tokio::spawn(pump::output(end, writer, watch.clone(), drained.clone()));
            }
        }
        Ok(Pumps { exited, drained: all_drained })
    }
}

impl Pumps {
    /// After the process's end: empties its pipes and closes them, whoever else may hold them.
    pub async fn drain(mut self) {
        let _ = self.exited.send(true);
        // Ends when the last output pump has dropped its sender.
        while self.drained.recv().await.is_some() {}
    }
}

fn open_stream(mux: &Mux, id: u32) -> Result<(Reader, Writer), Fault> {
    mux.open(id).map_err(|err| match err.kind() {
        io::ErrorKind::AlreadyExists => Fault::exists(format!("open stream {id}: {err}")),
        _ => Fault::internal(format!("open stream {id}: {err}")),
    })
}
