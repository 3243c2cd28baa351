//! One stream, as its two halves and the connection share it: what has arrived, what is to be sent, and how much of
//! either is allowed.

use std::{collections::VecDeque, mem, sync::Mutex};

use tokio::sync::Notify;

use super::{MAX_PAYLOAD, ProtocolError, WINDOW, frame::Frame, lock};

#[derive(Default)]
pub struct State {
    pub inner: Mutex<Halves>,
    /// The reader's half changed: data, end of file.
    pub readable: Notify,
    /// The writer's half changed: credit, room, refusal.
    pub writable: Notify,
}

#[derive(Default)]
pub struct Halves {
    /// Data that the reader has not taken.
    pub received: Chunks,
    /// Bytes that arrived and that the peer has no credit for yet.
    pub unacknowledged: usize,
    pub read_ended: bool,
    pub reader_gone: bool,
    /// Bytes that the peer takes now.
    pub credit: usize,
    pub write_refused: bool,
    pub writer_gone: bool,
    pub outgoing: Outgoing,
}

/// What waits to be sent: at most one frame of each kind, however often it is due.
#[derive(Default)]
pub struct Outgoing {
    /// At most [`MAX_PAYLOAD`] bytes.
    pub data: Vec<u8>,
    pub credit: usize,
    pub eof: bool,
    pub stop: bool,
    /// The stream is in the connection's queue.
    pub queued: bool,
}

impl State {
    /// Takes a data frame.
    pub fn receive(&self, stream: u32, payload: Vec<u8>) -> Result<(), ProtocolError> {
        let mut halves = lock(&self.inner);
        if halves.read_ended {
            return Err(ProtocolError::AfterEnd(stream));
        }
        if halves.reader_gone {
            // It was sent before the peer was told.
            return Ok(());
        }
        halves.unacknowledged += payload.len();
        if halves.unacknowledged > WINDOW {
            return Err(ProtocolError::Window(stream));
        }
        halves.received.push(payload);
        self.readable.notify_one();
        Ok(())
    }

    /// Takes a credit frame.
    pub fn grant(&self, stream: u32, bytes: usize) -> Result<(), ProtocolError> {
        let mut halves = lock(&self.inner);
        halves.credit += bytes;
        if halves.credit > WINDOW {
            return Err(ProtocolError::Credit(stream));
        }
        self.writable.notify_one();
        Ok(())
    }

    /// Nothing more will arrive.
    pub fn end_read(&self) {
        lock(&self.inner).read_ended = true;
        self.readable.notify_one();
    }

    /// The peer takes nothing more.
    pub fn refuse_write(&self) {
        lock(&self.inner).write_refused = true;
        self.writable.notify_one();
    }

    /// Takes the frames that are due. A peer has its credit from now on, not from when it came due: one that does not
    /// read gets none.
    pub fn take_due(&self, stream: u32) -> impl Iterator<Item = Frame> + use<> {
        let mut halves = lock(&self.inner);
        let due = mem::take(&mut halves.outgoing);
        halves.unacknowledged -= due.credit;
        drop(halves);
        self.writable.notify_one();
        let credit = (due.credit > 0).then_some(Frame::Credit { stream, bytes: due.credit });
        let stop = due.stop.then_some(Frame::Stop { stream });
        let data = (!due.data.is_empty()).then_some(Frame::Data { stream, payload: due.data });
        let eof = due.eof.then_some(Frame::Eof { stream });
        [credit, stop, data, eof].into_iter().flatten()
    }
}

/// Bytes in the order in which they came, in chunks of up to [`MAX_PAYLOAD`] bytes. A chunk takes in the next one if
/// both fit in one: memory stays within a few times the bytes, whatever frames the peer makes of them.
#[derive(Default)]
pub struct Chunks(VecDeque<Vec<u8>>);

impl Chunks {
    /// Adds a chunk.
    pub fn push(&mut self, chunk: Vec<u8>) {
        match self.0.back_mut() {
            Some(last) if last.len() + chunk.len() <= MAX_PAYLOAD => last.extend_from_slice(&chunk),
            _ => self.0.push_back(chunk),
        }
    }

    /// Takes the first chunk.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.0.pop_front()
    }

    /// Drops them all.
    pub fn clear(&mut self) {
        self.0 = VecDeque::new();
    }

    /// Bytes of memory that they take.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.0.iter().map(Vec::capacity).sum::<usize>() + self.0.capacity() * size_of::<Vec<u8>>()
    }
}
