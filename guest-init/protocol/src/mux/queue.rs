//! The streams that have something to send, in the order of their turns, and the task that sends it.
//!
//! A stream is in the queue once at most and holds at most a frame of each kind, so the queue is bounded by the number of
//! streams: by [`MAX_DATA`] in bytes of data, as writers wait, and by [`MAX_STREAMS`] in streams, as a peer that lets so
//! many wait does not read.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncWrite, AsyncWriteExt, BufWriter},
    sync::Notify,
};

use super::{
    frame::{self, Frame},
    lock,
    state::{Halves, State},
};

/// Bytes of data that may wait to be sent, of all streams together.
pub const MAX_DATA: usize = 4 << 20;

/// Streams that may have something to send, most of them closed ones whose end the peer has not been told.
pub const MAX_STREAMS: usize = 16 * 1024;

/// The queue of one connection.
#[derive(Default)]
pub struct Queue {
    turns: Mutex<Turns>,
    /// A stream has come into the queue.
    filled: Notify,
    /// Data was sent.
    pub room: Notify,
    /// Too many streams wait.
    pub overflowed: Notify,
}

#[derive(Default)]
struct Turns {
    streams: VecDeque<(u32, Arc<State>)>,
    /// Bytes of data that all of them hold, and that is being sent.
    data: usize,
    ended: bool,
}

impl Queue {
    /// Bytes of data that may be added now, at most `wanted`. They count until they are sent.
    pub fn reserve(&self, wanted: usize) -> usize {
        let mut turns = lock(&self.turns);
        let reserved = wanted.min(MAX_DATA - turns.data);
        turns.data += reserved;
        reserved
    }

    /// Gives a stream its turn, which has something due.
    pub fn add(&self, id: u32, state: &Arc<State>, halves: &mut Halves) {
        if halves.outgoing.queued {
            return;
        }
        let mut turns = lock(&self.turns);
        if turns.ended {
            return;
        }
        halves.outgoing.queued = true;
        turns.streams.push_back((id, state.clone()));
        if turns.streams.len() > MAX_STREAMS {
            self.overflowed.notify_one();
        }
        self.filled.notify_one();
    }

    /// Streams in the queue.
    pub fn len(&self) -> usize {
        lock(&self.turns).streams.len()
    }

    /// Bytes of data in the queue.
    #[cfg(test)]
    pub fn data(&self) -> usize {
        lock(&self.turns).data
    }

    /// Nothing will be sent any more.
    pub fn end(&self) {
        let mut turns = lock(&self.turns);
        turns.ended = true;
        turns.streams = VecDeque::new();
    }

    /// Sends what is due until that fails.
    pub async fn send_all(&self, conn: impl AsyncWrite + Unpin) -> io::Error {
        match self.try_send_all(conn).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_send_all(&self, conn: impl AsyncWrite + Unpin) -> io::Result<Infallible> {
        let mut conn = BufWriter::with_capacity(frame::HEADER_LEN + 4096, conn);
        loop {
            let next = lock(&self.turns).streams.pop_front();
            let Some((id, state)) = next else {
                conn.flush().await?;
                self.filled.notified().await;
                continue;
            };
            for frame in state.take_due(id) {
                frame::write(&mut conn, &frame).await?;
                if let Frame::Data { payload, .. } = &frame {
                    lock(&self.turns).data -= payload.len();
                    self.room.notify_waiters();
                }
            }
        }
    }
}
