//! Byte streams over one connection, each with its own credit.
//!
//! Both sides [`open`](Mux::open) the same number, which the host chooses and never uses twice. A stream has two
//! directions; each ends by itself, either at its writer's end ([`Writer`] dropped: the reader sees end of file) or at
//! its reader's ([`Reader`] dropped: the writer gets `BrokenPipe`). A writer may have [`WINDOW`] bytes on the way and
//! then waits, so a reader that stalls holds up its own stream only.
//!
//! The peer may be hostile. A stream costs at most its window and one frame of each kind, whatever the peer sends and
//! however little it reads; frames for streams that are not open cost nothing. A peer that breaks the protocol, or does
//! not read at all, ends the connection: [`MuxError`] says how.
//!
//! A frame is a header of 12 bytes, little-endian, and a payload:
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | kind: 1 data, 2 credit, 3 end of file, 4 stop: the reader is gone |
//! | 1-3 | zero |
//! | 4-7 | stream |
//! | 8-11 | data: the payload's length, not 0; credit: bytes granted, not 0; else zero |

mod error;
mod frame;
mod queue;
mod state;
mod stream;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::io::{AsyncRead, AsyncWrite};

pub use error::{MuxError, ProtocolError};
use frame::Frame;
use queue::Queue;
use state::State;
pub use stream::{Reader, Writer};

/// Bytes of one direction of a stream that may be on the way, unread.
pub const WINDOW: usize = 256 * 1024;

/// The stream that carries PID 1's own log and the guest kernel's, as lines, from guest to host.
pub const LOG_STREAM: u32 = 1;

/// The first stream number that the host gives to a process.
pub const FIRST_STREAM: u32 = 16;

/// Largest payload of one data frame, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// One end of a connection that carries streams. Clones share it.
#[derive(Clone)]
pub struct Mux(Arc<Shared>);

struct Shared {
    streams: Mutex<Table>,
    queue: Queue,
}

#[derive(Default)]
struct Table {
    open: HashMap<u32, Arc<State>>,
    /// Set when the connection has ended: no stream can be opened any more.
    ended: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Mux {
    /// Starts carrying streams over `conn`, on a task of the current runtime.
    ///
    /// The handle resolves when the connection has ended: with an error when the peer broke the protocol or the transport
    /// failed.
    pub fn start<C>(conn: C) -> (Mux, tokio::task::JoinHandle<Result<(), MuxError>>)
    where
        C: AsyncRead + AsyncWrite + Send + 'static,
    {
        let shared = Arc::new(Shared { streams: Mutex::default(), queue: Queue::default() });
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                let ended = shared.carry(conn).await;
                shared.end();
                ended
            }
        });
        (Mux(shared), task)
    }

    /// Opens this side of stream `id`.
    ///
    /// # Errors
    /// `AlreadyExists` when the stream is open, `NotConnected` when the connection has ended.
    pub fn open(&self, id: u32) -> io::Result<(Reader, Writer)> {
        let state = Arc::new(State::default());
        lock(&state.inner).credit = WINDOW;
        let mut table = lock(&self.0.streams);
        if table.ended {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the stream connection has ended"));
        }
        if table.open.contains_key(&id) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("stream {id} is open")));
        }
        table.open.insert(id, state.clone());
        Ok((Reader::new(id, state.clone(), self.0.clone()), Writer::new(id, state, self.0.clone())))
    }
}

impl Shared {
    /// Reads and writes until the peer ends the connection or an error does.
    async fn carry<C: AsyncRead + AsyncWrite>(&self, conn: C) -> Result<(), MuxError> {
        let (read, write) = tokio::io::split(conn);
        let received = self.receive_all(read);
        tokio::pin!(received);
        tokio::select! {
            received = &mut received => received,
            error = self.queue.send_all(write) => match error.kind() {
                // The peer has ended the connection. What it sent before is still to be read.
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => received.await,
                _ => Err(error.into()),
            },
            () = self.queue.overflowed.notified() => Err(MuxError::Unread(self.queue.len())),
        }
    }

    async fn receive_all(&self, mut conn: impl AsyncRead + Unpin) -> Result<(), MuxError> {
        while let Some(frame) = frame::read(&mut conn).await? {
            self.dispatch(frame)?;
        }
        Ok(())
    }

    fn dispatch(&self, frame: Frame) -> Result<(), ProtocolError> {
        let Some(state) = lock(&self.streams).open.get(&frame.stream()).cloned() else {
            // Closed here while the frame was on the way.
            return Ok(());
        };
        match frame {
            Frame::Data { stream, payload } => state.receive(stream, payload)?,
            Frame::Credit { stream, bytes } => state.grant(stream, bytes)?,
            Frame::Eof { .. } => state.end_read(),
            Frame::Stop { .. } => state.refuse_write(),
        }
        Ok(())
    }

    /// Forgets a stream once neither of its halves is in use.
    fn release(&self, id: u32, state: &Arc<State>) {
        let halves = lock(&state.inner);
        if halves.reader_gone && halves.writer_gone {
            drop(halves);
            lock(&self.streams).open.remove(&id);
        }
    }

    fn end(&self) {
        self.queue.end();
        let streams = {
            let mut table = lock(&self.streams);
            table.ended = true;
            std::mem::take(&mut table.open)
        };
        for state in streams.into_values() {
            state.end_read();
            state.refuse_write();
        }
    }
}

#[cfg(test)]
mod tests;
