//! The two halves of one stream.

use std::{io, sync::Arc};

use super::{MAX_PAYLOAD, Queued, Shared, State, frame::Frame, lock};

/// The half of a stream that receives. Dropping it tells the peer to stop sending.
pub struct Reader {
    id: u32,
    state: Arc<State>,
    shared: Arc<Shared>,
    /// Bytes handed out by the last [`recv`](Self::recv), granted again at the next.
    handed_out: usize,
}

/// The half of a stream that sends. Dropping it is end of file for the peer.
pub struct Writer {
    id: u32,
    state: Arc<State>,
    shared: Arc<Shared>,
}

impl Reader {
    pub(super) fn new(id: u32, state: Arc<State>, shared: Arc<Shared>) -> Self {
        Reader { id, state, shared, handed_out: 0 }
    }

    /// The next bytes, or `None` at end of file. Taking the next chunk says that the last one
    /// was dealt with: only then may the peer send as much again. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Vec<u8>> {
        self.grant();
        loop {
            {
                let mut halves = lock(&self.state.inner);
                if let Some(chunk) = halves.chunks.pop_front() {
                    self.handed_out = chunk.len();
                    return Some(chunk);
                }
                if halves.read_ended {
                    return None;
                }
            }
            self.state.readable.notified().await;
        }
    }

    fn grant(&mut self) {
        let bytes = std::mem::take(&mut self.handed_out);
        if bytes > 0 {
            let queued = {
                let mut halves = lock(&self.state.inner);
                halves.unacknowledged -= bytes;
                let queued = halves.owed > 0;
                halves.owed += bytes;
                queued
            };
            if !queued {
                self.shared.enqueue(Queued::Credit(self.id, self.state.clone()));
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let ended = {
            let mut halves = lock(&self.state.inner);
            halves.reader_gone = true;
            halves.chunks.clear();
            halves.read_ended
        };
        if !ended {
            self.shared.send(Frame::Stop { stream: self.id });
        }
        self.shared.release(self.id, &self.state);
    }
}

impl Writer {
    pub(super) fn new(id: u32, state: Arc<State>, shared: Arc<Shared>) -> Self {
        Writer { id, state, shared }
    }

    /// Sends all of `data`, waiting for credit, and for the connection to take what waits, where it must. One that is
    /// cancelled may lose credit.
    ///
    /// # Errors
    /// `BrokenPipe` when the peer does not want more, or the connection has ended.
    pub async fn send(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let allowed = self.credit(data.len().min(MAX_PAYLOAD)).await?;
            let (now, later) = data.split_at(allowed);
            // At most MAX_PAYLOAD, so it fits. The bytes are given back when they are written.
            let room = self.shared.room.acquire_many(allowed as u32).await;
            room.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?.forget();
            self.shared.send(Frame::Data { stream: self.id, payload: now.to_vec() });
            data = later;
        }
        Ok(())
    }

    /// Waits until the peer does not want more, or the connection has ended.
    pub async fn refused(&mut self) {
        while !lock(&self.state.inner).write_refused {
            self.state.writable.notified().await;
        }
    }

    /// Takes up to `wanted` bytes of credit, waiting until there is some.
    async fn credit(&mut self, wanted: usize) -> io::Result<usize> {
        loop {
            {
                let mut halves = lock(&self.state.inner);
                if halves.write_refused {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                if halves.credit > 0 {
                    let taken = halves.credit.min(wanted);
                    halves.credit -= taken;
                    return Ok(taken);
                }
            }
            self.state.writable.notified().await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.state.inner).writer_gone = true;
        self.shared.send(Frame::Eof { stream: self.id });
        self.shared.release(self.id, &self.state);
    }
}
