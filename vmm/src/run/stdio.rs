//! Our stdin, stdout and stderr, pumped to and from the guest's streams. A reader or writer that
//! stalls here stalls its own stream only.
//!
//! Reads and writes are blocking, each in a thread of its own: the descriptors may be of any kind,
//! and making them non-blocking would do so for everybody who shares them.

use std::{
    fs::File,
    io::{Read, Write},
    mem::ManuallyDrop,
    os::fd::{FromRawFd, RawFd},
    thread,
};

use anyhow::{Context, Result};
use guest_protocol::{
    api::Stdio,
    mux::{MAX_PAYLOAD, Mux, Reader, Writer},
};
use tokio::{sync::mpsc, task::JoinHandle};

/// The streams of one process, and their pumps.
pub struct Pumps {
    stdin: Option<Writer>,
    outputs: Vec<JoinHandle<()>>,
}

impl Pumps {
    /// Opens the streams of `numbers`, and pumps the output from now on.
    pub fn open(streams: &Mux, numbers: &Stdio) -> Result<Self> {
        let mut outputs = Vec::new();
        for (number, fd) in [(numbers.stdout, 1), (numbers.stderr, 2)] {
            if number != 0 {
                let (reader, _) = streams.open(number).context("opening an output stream")?;
                outputs.push(tokio::spawn(output(reader, fd)));
            }
        }
        let (_, stdin) = streams.open(numbers.stdin).context("opening the input stream")?;
        Ok(Pumps { stdin: Some(stdin), outputs })
    }

    /// Pumps the input. Not before the guest has made the process: it drops what arrives for a
    /// stream that it does not know.
    pub fn start_input(&mut self) {
        if let Some(stdin) = self.stdin.take() {
            tokio::spawn(input(stdin));
        }
    }

    /// Waits until all output was written, or nobody reads it any more.
    pub async fn drained(self) {
        for output in self.outputs {
            let _ = output.await;
        }
    }
}

/// One of our standard descriptors, which stays open.
fn standard(fd: RawFd) -> ManuallyDrop<File> {
    // SAFETY: descriptors 0 to 2 are open for the life of the process, and this never closes one.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) })
}

async fn output(mut reader: Reader, fd: RawFd) {
    let (send, mut receive) = mpsc::channel::<Vec<u8>>(1);
    let (done, written) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        while let Some(chunk) = receive.blocking_recv() {
            if standard(fd).write_all(&chunk).is_err() {
                break;
            }
        }
        drop(receive);
        let _ = done.send(());
    });
    while let Some(chunk) = reader.recv().await {
        // Nobody reads what we write: then neither do we, and the guest's process is told.
        if send.send(chunk).await.is_err() {
            break;
        }
    }
    drop((reader, send));
    let _ = written.await;
}

async fn input(mut writer: Writer) {
    let (send, mut receive) = mpsc::channel::<Vec<u8>>(1);
    thread::spawn(move || {
        let mut buffer = vec![0; MAX_PAYLOAD];
        while let Ok(count @ 1..) = standard(0).read(&mut buffer) {
            if send.blocking_send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    while let Some(chunk) = receive.recv().await {
        if writer.send(&chunk).await.is_err() {
            break;
        }
    }
    // Dropping the writer is end of file for the guest's process.
}
