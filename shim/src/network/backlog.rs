//! Datagrams that wait to be sent on, of all clients of a port together. What waits is bounded, and the oldest goes first: UDP
//! allows losing it, and it is worth the least.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;

use crate::lock::lock;

/// Bytes that may wait, of all clients.
pub const MAX_BYTES: usize = 4 << 20;

/// Datagrams of one client that may wait.
pub const MAX_OF_CLIENT: usize = 64;

/// What a datagram costs besides its bytes.
const OVERHEAD: usize = 128;

/// The datagrams, by the order in which they came.
#[derive(Default)]
pub struct Backlog {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    datagrams: BTreeMap<u64, Vec<u8>>,
    next: u64,
    bytes: usize,
}

impl Waiting {
    fn add(&mut self, datagram: Vec<u8>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bytes += datagram.len() + OVERHEAD;
        self.datagrams.insert(number, datagram);
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.datagrams.keys().next().copied()
        {
            self.take(oldest);
        }
        number
    }

    fn take(&mut self, number: u64) -> Option<Vec<u8>> {
        let datagram = self.datagrams.remove(&number)?;
        self.bytes -= datagram.len() + OVERHEAD;
        Some(datagram)
    }
}

/// The datagrams of one client. Those that wait go with it.
pub struct Queue {
    backlog: Arc<Backlog>,
    /// Some of them may have been dropped.
    numbers: Mutex<VecDeque<u64>>,
    filled: Notify,
}

impl Queue {
    /// An empty one.
    pub fn new(backlog: &Arc<Backlog>) -> Queue {
        Queue { backlog: backlog.clone(), numbers: Mutex::default(), filled: Notify::new() }
    }

    /// Adds a datagram.
    pub fn push(&self, datagram: Vec<u8>) {
        let mut numbers = lock(&self.numbers);
        let mut waiting = lock(&self.backlog.waiting);
        if numbers.len() == MAX_OF_CLIENT
            && let Some(oldest) = numbers.pop_front()
        {
            waiting.take(oldest);
        }
        numbers.push_back(waiting.add(datagram));
        self.filled.notify_one();
    }

    /// Takes the oldest, when there is one. To be called by one task; safe to cancel.
    pub async fn next(&self) -> Vec<u8> {
        loop {
            if let Some(datagram) = self.take() {
                return datagram;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<Vec<u8>> {
        let mut numbers = lock(&self.numbers);
        while let Some(number) = numbers.pop_front() {
            if let Some(datagram) = lock(&self.backlog.waiting).take(number) {
                return Some(datagram);
            }
        }
        None
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        while self.take().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(backlog: &Backlog) -> usize {
        lock(&backlog.waiting).bytes
    }

    #[tokio::test]
    async fn datagrams_come_in_their_order() {
        let queue = Queue::new(&Arc::default());
        queue.push(b"one".to_vec());
        queue.push(b"two".to_vec());
        assert_eq!((queue.next().await, queue.next().await), (b"one".to_vec(), b"two".to_vec()));
        assert_eq!(bytes(&queue.backlog), 0);
    }

    #[test]
    fn a_client_loses_its_oldest() {
        let queue = Queue::new(&Arc::default());
        for number in 0..MAX_OF_CLIENT + 2 {
            queue.push(number.to_string().into_bytes());
        }
        assert_eq!(queue.take().unwrap(), b"2");
        assert_eq!(lock(&queue.numbers).len(), MAX_OF_CLIENT - 1);
    }

    #[test]
    fn however_many_clients_flood_the_bytes_are_bounded() {
        let backlog = Arc::new(Backlog::default());
        let queues: Vec<_> = (0..100).map(|_| Queue::new(&backlog)).collect();
        for length in [65_535, 0, 1200] {
            for queue in &queues {
                for _ in 0..MAX_OF_CLIENT {
                    queue.push(vec![0; length]);
                    assert!(bytes(&backlog) <= MAX_BYTES);
                }
            }
        }
        // The newest are there, the oldest are not.
        assert!(queues[99].take().is_some() && queues[0].take().is_none());
        drop(queues);
        assert_eq!(bytes(&backlog), 0);
    }
}
