//! The host's end of one input or output: a FIFO, a file, or a pipe to a logger.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    pin::Pin,
};

use tokio::{
    fs::OpenOptions,
    io::{AsyncWrite, AsyncWriteExt},
    net::unix::pipe,
};

use super::uri::Target;
use crate::error::{Error, Result};

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
                let fifo = pipe::OpenOptions::new().read_write(true).open_sender(path);
                Ok(fifo.map_err(|e| cannot_open(path, e))?.into())
            }
            Target::File(path) => {
                if let Some(dir) = path.parent() {
                    tokio::fs::create_dir_all(dir).await.map_err(|e| cannot_open(path, e))?;
                }
                let file = OpenOptions::new().append(true).create(true).open(path).await;
                Ok(Output(Box::pin(file.map_err(|e| cannot_open(path, e))?)))
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
pub struct Input(PathBuf);

impl Input {
    /// The FIFO that containerd named `uri`.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(uri: &str) -> Result<Input> {
        let target = Target::parse(uri)?;
        let path = target.path();
        let kind = fs::metadata(path).map_err(|e| cannot_open(path, e))?.file_type();
        match kind.is_fifo() {
            true => Ok(Input(path.into())),
            false => Err(cannot_open(path, io::Error::other("not a FIFO"))),
        }
    }

    /// Opens it. The second half keeps it open for writing, so that the reader sees no end of file while no client has
    /// it open.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> io::Result<(pipe::Receiver, pipe::Sender)> {
        let fifo = pipe::OpenOptions::new().open_receiver(&self.0)?;
        let hold = pipe::OpenOptions::new().open_sender(&self.0)?;
        Ok((fifo, hold))
    }
}

fn cannot_open(path: &Path, error: io::Error) -> Error {
    Error::internal(format!("open {} for the process's input or output", path.display())).because(error)
}
