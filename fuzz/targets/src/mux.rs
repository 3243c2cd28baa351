//! The stream connection: a hostile guest sends frames, and the host's readers are late.

use guest_protocol::{
    mux::{FIRST_STREAM, LOG_STREAM, MAX_PAYLOAD, Mux, WINDOW},
    relay::Frames,
};
use tokio::io::{AsyncWriteExt, duplex};
use vm_launcher::lines::{Lines, MAX_LINE};

/// The streams that the host has open.
const STREAMS: [u32; 3] = [LOG_STREAM, FIRST_STREAM, FIRST_STREAM + 1];

/// What the host has sent on each, so that credit can be given back.
const SENT: usize = 4096;

/// Bytes of a frame before its payload: the layout stands in `guest_protocol::mux`.
const HEADER: usize = 12;

/// What each stream gave, and whether the guest kept to the protocol.
#[derive(Debug, PartialEq)]
struct Heard {
    streams: [Vec<u8>; STREAMS.len()],
    kept: bool,
}

/// Sends `data` as the guest's side of the connection, then ends it.
pub fn run(data: &[u8]) {
    let heard = crate::block_on(hear(data));
    for stream in &heard.streams {
        assert!(stream.len() <= WINDOW, "a stream held {} bytes that nobody had read", stream.len());
    }
    assert_eq!(heard, expected(data));
    let [log, datagram_stream, _] = &heard.streams;
    check_log(log);
    let mut datagrams = Frames::default();
    for chunk in datagram_stream.chunks(1000) {
        datagrams.push(chunk);
        assert!(datagrams.by_ref().all(|datagram| datagram.len() <= usize::from(u16::MAX)));
    }
}

/// A guest's log can neither drive a terminal nor forge a line.
fn check_log(log: &[u8]) {
    let check = |line: &str| {
        assert!(line.chars().all(|c| c == '\t' || !c.is_control()), "{line:?}");
        // What is no UTF-8 becomes a character of three bytes.
        assert!(line.len() <= 3 * MAX_LINE, "a line of {} bytes", line.len());
    };
    let mut lines = Lines::default();
    for chunk in log.chunks(1000) {
        lines.feed(chunk, check);
    }
    lines.end(check);
}

async fn hear(data: &[u8]) -> Heard {
    let (mut guest, host) = duplex(data.len() + (1 << 20));
    let (mux, ended) = Mux::start(host);
    let mut halves = STREAMS.map(|id| mux.open(id).expect("a stream that nobody has opened"));
    for (_, writer) in &mut halves {
        writer.send(&[0; SENT]).await.expect("the connection stands");
    }
    guest.write_all(data).await.expect("the connection has room for all of it");
    drop(guest);
    let kept = ended.await.expect("the connection's task goes on").is_ok();
    let mut streams = [const { Vec::new() }; STREAMS.len()];
    for (stream, (reader, _)) in streams.iter_mut().zip(&mut halves) {
        while let Some(chunk) = reader.recv().await {
            assert!(!chunk.is_empty(), "a chunk that costs memory and counts for nothing");
            stream.extend(chunk);
        }
    }
    Heard { streams, kept }
}

/// What the layout and the rules of the protocol say, written a second time.
fn expected(mut data: &[u8]) -> Heard {
    let mut streams = [const { Vec::new() }; STREAMS.len()];
    let mut sent = [SENT; STREAMS.len()];
    let mut ended = [false; STREAMS.len()];
    let kept = loop {
        if data.is_empty() {
            break true;
        }
        let Some((header, rest)) = data.split_at_checked(HEADER) else { break false };
        data = rest;
        let number = |from: usize| u32::from_le_bytes(header[from..from + 4].try_into().expect("four bytes"));
        let (id, length) = (number(4), number(8) as usize);
        let stream = STREAMS.iter().position(|known| *known == id);
        match (header[0], stream) {
            (1, stream) => {
                let Some((payload, rest)) = data.split_at_checked(length) else { break false };
                data = rest;
                if payload.is_empty() || length > MAX_PAYLOAD {
                    break false;
                }
                let Some(stream) = stream else { continue };
                if ended[stream] || streams[stream].len() + length > WINDOW {
                    break false;
                }
                streams[stream].extend(payload);
            }
            (2, _) if length == 0 => break false,
            (2, Some(stream)) => match sent[stream].checked_sub(length) {
                Some(left) => sent[stream] = left,
                None => break false,
            },
            (3, Some(stream)) => ended[stream] = true,
            (2 | 3, None) | (4, _) => {}
            _ => break false,
        }
    };
    Heard { streams, kept }
}
