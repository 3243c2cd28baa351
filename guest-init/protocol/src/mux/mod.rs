//! Byte streams over one connection, each with its own credit.
//!
//! Both sides [`open`](Mux::open) the same number, which the host chooses and never uses twice.
//! A stream has two directions; each ends by itself, either at its writer's end ([`Writer`]
//! dropped or finished: the reader sees end of file) or at its reader's ([`Reader`] dropped: the
//! writer gets `BrokenPipe`). A writer may have [`WINDOW`] bytes on the way and then waits, so a
//! reader that stalls holds up its own stream only and memory stays bounded. The connection
//! itself is always read: a peer that sends more than it was allowed to ends the connection, and one
//! that reads nothing itself stops all writers once [`ROOM`] bytes wait for it.
//!
//! A frame is a header of 12 bytes, little-endian, and a payload:
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | kind: 1 data, 2 credit, 3 end of file, 4 no more, please |
//! | 1-3 | zero |
//! | 4-7 | stream |
//! | 8-11 | data: payload's length; credit: bytes granted; else zero |

mod frame;
mod stream;

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter},
    sync::{Notify, Semaphore, mpsc},
};

use frame::Frame;
pub use stream::{Reader, Writer};

/// Bytes of one direction of a stream that may be on the way, unread.
pub const WINDOW: usize = 256 * 1024;

/// The stream that carries PID 1's own log and the guest kernel's, as lines, from guest to host.
pub const LOG_STREAM: u32 = 1;

/// The first stream number that the host gives to a process.
pub const FIRST_STREAM: u32 = 16;

/// Largest payload of one data frame, in bytes. The smallest is 1: frames that count for nothing would pile up.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Bytes of all streams that may wait to be written to the connection.
const ROOM: usize = 4 * WINDOW;

/// Chunks that fit into one of so many bytes are kept as one: a peer that sends byte by byte takes up no more memory
/// than its window.
const SMALL: usize = 4096;

/// One end of a connection that carries streams. Clones share it.
#[derive(Clone)]
pub struct Mux(Arc<Shared>);

struct Shared {
    streams: Mutex<Table>,
    queue: mpsc::UnboundedSender<Queued>,
    /// What is left of [`ROOM`].
    room: Arc<Semaphore>,
}

/// What waits to be written.
enum Queued {
    Frame(Frame),
    /// All that the stream's reader owes by the time that this is written: it waits once for each stream.
    Credit(u32, Arc<State>),
}

#[derive(Default)]
struct Table {
    open: HashMap<u32, Arc<State>>,
    /// Set when the connection has ended: no stream can be opened any more.
    ended: bool,
}

/// What both halves of a stream and the connection's reader share.
#[derive(Default)]
struct State {
    inner: Mutex<Halves>,
    /// The reader's side changed: data, end of file.
    readable: Notify,
    /// The writer's side changed: credit, refusal.
    writable: Notify,
}

#[derive(Default)]
struct Halves {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes received and not yet granted again.
    unacknowledged: usize,
    /// Bytes granted again, which the peer was not told yet.
    owed: usize,
    read_ended: bool,
    reader_gone: bool,
    credit: usize,
    write_refused: bool,
    writer_gone: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Mux {
    /// Starts carrying streams over `conn`, on tasks of the current runtime.
    ///
    /// The handle resolves when the connection has ended: with an error when the peer broke the
    /// protocol or the transport failed.
    pub fn start<C>(conn: C) -> (Mux, tokio::task::JoinHandle<io::Result<()>>)
    where
        C: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(conn);
        let (queue, queued) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(ROOM));
        let shared = Arc::new(Shared { streams: Mutex::default(), queue, room: room.clone() });
        let sender = tokio::spawn(async move {
            let _ = send_all(write, queued, &room).await;
            room.close();
        });
        let receiver = tokio::spawn({
            let shared = shared.clone();
            async move {
                let ended = receive_all(read, &shared).await;
                shared.end();
                sender.abort();
                ended
            }
        });
        (Mux(shared), receiver)
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
    fn send(&self, frame: Frame) {
        self.enqueue(Queued::Frame(frame));
    }

    fn enqueue(&self, queued: Queued) {
        // Fails only when the connection has ended, which the stream learns from its state.
        let _ = self.queue.send(queued);
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
        let streams = {
            let mut table = lock(&self.streams);
            table.ended = true;
            std::mem::take(&mut table.open)
        };
        self.room.close();
        for state in streams.into_values() {
            state.end_read();
            state.refuse_write();
        }
    }

    fn dispatch(&self, frame: Frame) -> io::Result<()> {
        let Some(state) = lock(&self.streams).open.get(&frame.stream()).cloned() else {
            // Closed here while the frame was on the way.
            return Ok(());
        };
        match frame {
            Frame::Data { stream, payload } => state.receive(stream, payload),
            Frame::Credit { stream, bytes } => state.grant(stream, bytes),
            Frame::Eof { .. } => {
                state.end_read();
                Ok(())
            }
            Frame::Stop { .. } => {
                state.refuse_write();
                Ok(())
            }
        }
    }
}

impl State {
    fn receive(&self, stream: u32, payload: Vec<u8>) -> io::Result<()> {
        let mut halves = lock(&self.inner);
        if halves.reader_gone {
            return Ok(());
        }
        halves.unacknowledged += payload.len();
        if halves.unacknowledged > WINDOW {
            return Err(protocol_error(format!("stream {stream}: more than the {WINDOW} bytes allowed")));
        }
        match halves.chunks.back_mut() {
            Some(last) if last.len() + payload.len() <= SMALL => last.extend(payload),
            _ => halves.chunks.push_back(payload),
        }
        self.readable.notify_one();
        Ok(())
    }

    fn grant(&self, stream: u32, bytes: usize) -> io::Result<()> {
        let mut halves = lock(&self.inner);
        halves.credit += bytes;
        if halves.credit > WINDOW {
            return Err(protocol_error(format!(
                "stream {stream}: credit beyond the window of {WINDOW} bytes"
            )));
        }
        self.writable.notify_one();
        Ok(())
    }

    fn end_read(&self) {
        lock(&self.inner).read_ended = true;
        self.readable.notify_one();
    }

    fn refuse_write(&self) {
        lock(&self.inner).write_refused = true;
        self.writable.notify_one();
    }
}

fn protocol_error(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

async fn receive_all(mut conn: impl AsyncRead + Unpin, shared: &Shared) -> io::Result<()> {
    while let Some(frame) = frame::read(&mut conn).await? {
        shared.dispatch(frame)?;
    }
    Ok(())
}

async fn send_all(
    conn: impl AsyncWrite + Unpin,
    mut queue: mpsc::UnboundedReceiver<Queued>,
    room: &Semaphore,
) -> io::Result<()> {
    let mut conn = BufWriter::with_capacity(frame::HEADER_LEN + 4096, conn);
    while let Some(queued) = queue.recv().await {
        let frame = match queued {
            Queued::Frame(frame) => frame,
            Queued::Credit(stream, state) => {
                Frame::Credit { stream, bytes: std::mem::take(&mut lock(&state.inner).owed) }
            }
        };
        frame::write(&mut conn, &frame).await?;
        if let Frame::Data { payload, .. } = &frame {
            room.add_permits(payload.len());
        }
        if queue.is_empty() {
            conn.flush().await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
