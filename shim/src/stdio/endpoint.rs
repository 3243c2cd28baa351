//! The host's end of one input or output: a FIFO, a file, or nothing.

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

use crate::error::{Error, Result};

/// Takes a process's output.
pub struct Output(Pin<Box<dyn AsyncWrite + Send>>);

impl Output {
    /// Opens an output that containerd named `uri`.
    ///
    /// # Errors
    /// When it cannot be opened, or is of a kind that is not offered.
    pub async fn open(uri: &str) -> Result<Output> {
        let sink: Pin<Box<dyn AsyncWrite + Send>> = match scheme(uri) {
            (None | Some("fifo"), path) => {
                let fifo = pipe::OpenOptions::new().read_write(true).open_sender(path);
                Box::pin(fifo.map_err(|e| cannot_open(path, &e))?)
            }
            (Some("file"), path) => {
                if let Some(dir) = Path::new(path).parent() {
                    tokio::fs::create_dir_all(dir).await.map_err(|e| cannot_open(path, &e))?;
                }
                let file = OpenOptions::new().append(true).create(true).open(path).await;
                Box::pin(file.map_err(|e| cannot_open(path, &e))?)
            }
            (Some(other), _) => {
                return Err(Error::unimplemented(format!(
                    "output {uri:?}: {other}:// is not offered; a FIFO's path and file:// are"
                )));
            }
        };
        Ok(Output(sink))
    }

    pub async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data).await?;
        self.0.flush().await
    }
}

/// A FIFO that will give a process's input, not open yet: a client may write as soon as somebody
/// reads, and `ctr` can tell us of the end of its input only once the create has returned.
pub struct Input(PathBuf);

impl Input {
    /// The FIFO that containerd named `uri`.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(uri: &str) -> Result<Input> {
        let path = scheme(uri).1;
        let kind = fs::metadata(path).map_err(|e| cannot_open(path, &e))?.file_type();
        match kind.is_fifo() {
            true => Ok(Input(path.into())),
            false => Err(cannot_open(path, &io::Error::other("not a FIFO"))),
        }
    }

    /// Opens it. The second half keeps it from its end of file while no client has it open.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> io::Result<(pipe::Receiver, pipe::Sender)> {
        let fifo = pipe::OpenOptions::new().open_receiver(&self.0)?;
        let hold = pipe::OpenOptions::new().open_sender(&self.0)?;
        Ok((fifo, hold))
    }
}

/// Splits `fifo:///a/b` into its scheme and its path; a bare path has no scheme. A query
/// (containerd's `file:///log?…`) is not part of the path.
fn scheme(uri: &str) -> (Option<&str>, &str) {
    match uri.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest.split('?').next().unwrap_or(rest)),
        None => (None, uri),
    }
}

fn cannot_open(path: &str, error: &io::Error) -> Error {
    Error::internal(format!("open {path} for the process's input or output: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_taken_apart() {
        assert_eq!(scheme("/run/fifo"), (None, "/run/fifo"));
        assert_eq!(scheme("fifo:///run/fifo"), (Some("fifo"), "/run/fifo"));
        assert_eq!(scheme("file:///var/log/a?x=y"), (Some("file"), "/var/log/a"));
    }

    #[tokio::test]
    async fn an_unknown_scheme_is_refused_by_name() {
        let error = Output::open("binary:///bin/logger").await.err().unwrap();
        assert!(error.to_string().contains("binary://"), "{error}");
    }
}
