//! The two halves of one stream.

use std::{io, sync::Arc};

use super::{MAX_PAYLOAD, Shared, lock, state::State};

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

    /// The next bytes, at most [`MAX_PAYLOAD`], or `None` at end of file. Taking the next chunk says that the caller is
    /// done with the last one: only then may the peer send as much again. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Vec<u8>> {
        self.grant();
        loop {
            {
                let mut halves = lock(&self.state.inner);
                if let Some(chunk) = halves.received.pop() {
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
        let mut halves = lock(&self.state.inner);
        // After its end of file the peer has no use for credit.
        if bytes > 0 && !halves.read_ended {
            halves.outgoing.credit += bytes;
            self.shared.queue.add(self.id, &self.state, &mut halves);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut halves = lock(&self.state.inner);
        halves.reader_gone = true;
        halves.received.clear();
        if !halves.read_ended {
            halves.outgoing.stop = true;
            self.shared.queue.add(self.id, &self.state, &mut halves);
        }
        drop(halves);
        self.shared.release(self.id, &self.state);
    }
}

impl Writer {
    pub(super) fn new(id: u32, state: Arc<State>, shared: Arc<Shared>) -> Self {
        Writer { id, state, shared }
    }

    /// Sends all of `data`, waiting for credit and for room in the connection's queue.
    ///
    /// # Errors
    /// `BrokenPipe` when the peer does not want more, or the connection has ended.
    pub async fn send(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let sent = self.send_some(data).await?;
            data = &data[sent..];
        }
        Ok(())
    }

    /// Waits until the peer does not want more, or the connection has ended.
    pub async fn refused(&mut self) {
        while !lock(&self.state.inner).write_refused {
            self.state.writable.notified().await;
        }
    }

    /// Queues as much of `data` as may be, waiting until that is something; answers how much.
    async fn send_some(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            // Room that comes after this line wakes it.
            let room = self.shared.queue.room.notified();
            let has_turn = {
                let mut halves = lock(&self.state.inner);
                if halves.write_refused {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                let free = MAX_PAYLOAD - halves.outgoing.data.len();
                let allowed = data.len().min(halves.credit).min(free);
                let taken = self.shared.queue.reserve(allowed);
                if taken > 0 {
                    halves.credit -= taken;
                    halves.outgoing.data.extend_from_slice(&data[..taken]);
                    self.shared.queue.add(self.id, &self.state, &mut halves);
                    return Ok(taken);
                }
                allowed > 0
            };
            tokio::select! {
                () = self.state.writable.notified() => {}
                () = room, if has_turn => {}
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut halves = lock(&self.state.inner);
        halves.writer_gone = true;
        halves.outgoing.eof = true;
        self.shared.queue.add(self.id, &self.state, &mut halves);
        drop(halves);
        self.shared.release(self.id, &self.state);
    }
}
