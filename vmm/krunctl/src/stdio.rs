//! Copies between stdin, stdout and stderr and the guest's streams. A slow reader or writer stalls only its own stream.
//!
//! Each copy blocks in a thread of its own: the descriptors can be of any kind, and O_NONBLOCK would affect every process
//! that shares them.

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

/// The copies of one process's streams.
pub struct Pumps {
    stdin: Option<Writer>,
    outputs: Vec<JoinHandle<()>>,
}

impl Pumps {
    /// Opens the streams of `numbers`, and copies the output from now on.
    pub fn open(streams: &Mux, numbers: &Stdio) -> Result<Self> {
        let mut outputs = Vec::new();
        for (number, fd) in [(numbers.stdout, 1), (numbers.stderr, 2)] {
            if number != 0 {
                let (reader, _) = streams.open(number).context("opening an output stream")?;
                outputs.push(tokio::spawn(output(reader, fd)));
            }
        }
        let stdin = match numbers.stdin {
            0 => None,
            number => Some(streams.open(number).context("opening the input stream")?.1),
        };
        Ok(Pumps { stdin, outputs })
    }

    /// Sends `bytes` as the whole input, instead of ours. When to call it: see [`Pumps::start_input`].
    pub fn send(&mut self, bytes: Vec<u8>) {
        if let Some(mut stdin) = self.stdin.take() {
            // Dropping the writer is the end of file. The process may end without reading it all, which is no failure.
            tokio::spawn(async move { drop(stdin.send(&bytes).await) });
        }
    }

    /// Copies the input. Call it when the guest has created the process: before, the guest drops the input.
    pub fn start_input(&mut self) {
        if let Some(stdin) = self.stdin.take() {
            tokio::spawn(input(stdin));
        }
    }

    /// Waits until all output is written, or its reader is gone.
    pub async fn drained(self) {
        for output in self.outputs {
            let _ = output.await;
        }
    }
}

/// A standard descriptor of this process, which stays open.
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
        // The reader of our output is gone. Dropping the stream tells the guest's process.
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
    // Dropping the writer is the end of file for the guest's process.
}
