//! Relays bytes between sockets and streams, for published ports, forwarded sockets and inputs on either side.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket, UnixStream},
};

use crate::mux::{Reader, Writer};

/// Bytes read at a time: the default size of a pipe of Linux.
const CHUNK: usize = 64 * 1024;

/// Moves bytes both ways until both directions have ended, each by itself, as TCP's do.
pub async fn bytes(socket: TcpStream, reader: Reader, writer: Writer) {
    // A request or an answer may be small, and must not wait for more.
    let _ = socket.set_nodelay(true);
    let (from, to) = socket.into_split();
    both_ways(from, to, reader, writer).await;
}

/// The same for a unix socket.
pub async fn local(socket: UnixStream, reader: Reader, writer: Writer) {
    let (from, to) = socket.into_split();
    both_ways(from, to, reader, writer).await;
}

async fn both_ways(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut reader: Reader,
    writer: Writer,
) {
    let inward = async move {
        while let Some(chunk) = reader.recv().await {
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let _ = tokio::join!(send(from, writer), inward);
}

/// Sends what can be read of `from`, to its end, or until the peer does not want more.
///
/// # Errors
/// What reading gave.
pub async fn send(mut from: impl AsyncRead + Unpin, mut writer: Writer) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            () = writer.refused() => return Ok(()),
        };
        if read == 0 || writer.send(&buffer[..read]).await.is_err() {
            return Ok(());
        }
    }
}

/// Moves datagrams between a connected socket and a stream, until the stream ends. A refusal (ICMP) is no end, as a server
/// may come later.
pub async fn datagrams(socket: UdpSocket, mut reader: Reader, mut writer: Writer) {
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            if let Ok(length) = socket.recv(&mut buffer).await
                && writer.send(&frame(&buffer[..length])).await.is_err()
            {
                return;
            }
        }
    };
    let inward = async {
        let mut frames = Frames::default();
        while let Some(chunk) = reader.recv().await {
            frames.push(&chunk);
            for datagram in frames.by_ref() {
                let _ = socket.send(&datagram).await;
            }
        }
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
}

/// The largest datagram, in bytes: a frame's length has two.
pub const MAX_DATAGRAM: usize = 65_535;

/// Reads one datagram from a stream. None when the stream ends first.
pub async fn datagram(reader: &mut Reader) -> Option<Vec<u8>> {
    let mut frames = Frames::default();
    loop {
        if let Some(datagram) = frames.next() {
            return Some(datagram);
        }
        frames.push(&reader.recv().await?);
    }
}

/// A datagram as a stream carries it: its length in two bytes, little-endian, then itself.
pub fn frame(datagram: &[u8]) -> Vec<u8> {
    let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
    let mut framed = length.to_le_bytes().to_vec();
    framed.extend_from_slice(&datagram[..length.into()]);
    framed
}

/// Takes framed datagrams out of a stream's chunks.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Bytes that were taken.
    taken: usize,
}

impl Frames {
    /// Adds a chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        // Once a chunk, not once a datagram: a peer may send many that are empty.
        self.bytes.drain(..std::mem::take(&mut self.taken));
        self.bytes.extend_from_slice(chunk);
    }
}

impl Iterator for Frames {
    type Item = Vec<u8>;

    /// The next whole datagram; `None` until more is pushed.
    fn next(&mut self) -> Option<Vec<u8>> {
        let rest = &self.bytes[self.taken..];
        let length = usize::from(u16::from_le_bytes(*rest.first_chunk()?));
        let datagram = rest.get(2..2 + length)?.to_vec();
        self.taken += 2 + length;
        Some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::Mux;

    #[test]
    fn datagrams_keep_their_borders() {
        let mut stream = frame(b"one");
        stream.extend(frame(b""));
        stream.extend(frame(b"three"));
        let mut frames = Frames::default();
        let mut found = Vec::new();
        for byte in stream {
            frames.push(&[byte]);
            found.extend(frames.by_ref());
        }
        assert_eq!(found, [&b"one"[..], b"", b"three"]);
    }

    async fn socket_pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
        let (a, b) = tokio::io::duplex(8192);
        let (host, guest) = (Mux::start(a).0, Mux::start(b).0);
        let ((mut client, near), (far, mut server)) = (socket_pair().await, socket_pair().await);
        let streams = (host.open(16).unwrap(), guest.open(16).unwrap());
        tokio::spawn(bytes(near, streams.0.0, streams.0.1));
        tokio::spawn(bytes(far, streams.1.0, streams.1.1));
        let question = vec![1; 1 << 20];
        let asked = question.clone();
        let asking = tokio::spawn(async move {
            client.write_all(&asked).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert!(heard == question);
        server.write_all(b"answer").await.unwrap();
        drop(server);
        assert_eq!(asking.await.unwrap(), "answer");
    }
}
