//! The host's end of one input or output: a FIFO, a file, or a pipe to a logger.

use std::{io, path::Path, pin::Pin};

use nix::fcntl::OFlag;
use tokio::{
    fs::File,
    io::{AsyncWrite, AsyncWriteExt},
    net::unix::pipe,
    task::spawn_blocking,
};

use super::uri::Target;
use crate::{
    error::{Error, Result},
    files::pin::{self, Pinned},
};

/// Where a process's output is written.
pub struct Output(Pin<Box<dyn AsyncWrite + Send>>);

impl From<pipe::Sender> for Output {
    fn from(pipe: pipe::Sender) -> Self {
        Output(Box::pin(pipe))
    }
}

impl Output {
    /// Opens a FIFO or a file.
    ///
    /// # Errors
    /// When it cannot be opened, or is a program: a logger gets both outputs, so it is not opened for one.
    pub async fn open(target: &Target) -> Result<Output> {
        match target {
            Target::Fifo(path) => {
                let both_ways = OFlag::O_RDWR | OFlag::O_NONBLOCK;
                let opened = looked_up(path, move |path| pin::reopen(pin::fifo(path)?, both_ways)).await;
                let fifo = opened.and_then(pipe::Sender::from_file);
                Ok(fifo.map_err(|e| cannot_open(path, e))?.into())
            }
            Target::File(path) => {
                let file = looked_up(path, pin::log_file).await.map_err(|e| cannot_open(path, e))?;
                Ok(Output(Box::pin(File::from_std(file))))
            }
            Target::Binary(binary) => Err(Error::invalid(format!(
                "standard error alone cannot go to the logger {}: name it for standard output",
                binary.path.display()
            ))),
        }
    }

    /// Writes `data`, and waits until it is written.
    ///
    /// # Errors
    /// The file's or the pipe's.
    pub async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data).await?;
        self.0.flush().await
    }
}

/// A FIFO for a process's input, not open yet: a client may write as soon as the FIFO has a reader, and `ctr` can close
/// the input only after the create has returned.
pub struct Input(Pinned);

impl Input {
    /// The FIFO that containerd named `uri`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn find(uri: &str) -> Result<Input> {
        let target = Target::parse(uri)?;
        let path = target.path();
        looked_up(path, pin::fifo).await.map(Input).map_err(|e| cannot_open(path, e))
    }

    /// Opens it. The second half keeps it open for writing, so that the reader sees no end of file while no client has
    /// it open.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> io::Result<(pipe::Receiver, pipe::Sender)> {
        let fifo = pin::reopen(&self.0, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
        let hold = pin::reopen(&self.0, OFlag::O_WRONLY | OFlag::O_NONBLOCK)?;
        Ok((pipe::Receiver::from_file(fifo)?, pipe::Sender::from_file(hold)?))
    }
}

/// Looks for `path` on a thread of its own: the file system that it leads to may hang.
async fn looked_up<T: Send + 'static>(
    path: &Path,
    open: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let path = path.to_owned();
    spawn_blocking(move || open(&path)).await.unwrap_or_else(|e| Err(e.into()))
}

fn cannot_open(path: &Path, error: io::Error) -> Error {
    Error::internal(format!("open {} for the process's input or output", path.display())).because(error)
}
