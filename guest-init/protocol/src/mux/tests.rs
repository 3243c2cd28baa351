use std::time::Duration;

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;

fn pair() -> (Mux, Mux) {
    let (a, b) = duplex(8192);
    (Mux::start(a).0, Mux::start(b).0)
}

#[tokio::test]
async fn bytes_arrive_in_order_and_end() {
    let (a, b) = pair();
    let (_, mut writer) = a.open(7).unwrap();
    let (mut reader, _keep) = b.open(7).unwrap();
    let sent: Vec<u8> = (0..3 * WINDOW).map(|i| i as u8).collect();
    let expected = sent.clone();
    tokio::spawn(async move { writer.send(&sent).await.unwrap() });
    let mut got = Vec::new();
    while let Some(chunk) = reader.recv().await {
        got.extend(chunk);
    }
    assert!(got == expected);
}

#[tokio::test]
async fn a_stalled_reader_stops_its_writer_at_the_window_and_no_other() {
    let (a, b) = pair();
    let (_r1, mut stalled) = a.open(1).unwrap();
    let (_stalled_reader, _w1) = b.open(1).unwrap();
    let (_r2, mut flowing) = a.open(2).unwrap();
    let (mut flowing_reader, _w2) = b.open(2).unwrap();
    stalled.send(&vec![0; WINDOW]).await.unwrap();
    let more = tokio::time::timeout(Duration::from_millis(50), stalled.send(b"x")).await;
    assert!(more.is_err(), "a writer went on beyond its window");
    flowing.send(b"hello").await.unwrap();
    assert_eq!(flowing_reader.recv().await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_reader_that_leaves_breaks_the_pipe() {
    let (a, b) = pair();
    let (_r, mut writer) = a.open(1).unwrap();
    drop(b.open(1).unwrap());
    writer.refused().await;
    assert_eq!(writer.send(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn the_connections_end_ends_every_stream() {
    let (a, b) = duplex(8192);
    let (a, _) = Mux::start(a);
    let (mut reader, mut writer) = a.open(1).unwrap();
    drop(b);
    assert_eq!(reader.recv().await, None);
    writer.refused().await;
    assert_eq!(a.open(2).err().unwrap().kind(), io::ErrorKind::NotConnected);
}

#[tokio::test]
async fn a_peer_that_is_gone_has_closed_the_connection_whichever_side_notices() {
    for _ in 0..100 {
        let (peer, conn) = tokio::net::UnixStream::pair().unwrap();
        let (mux, ended) = Mux::start(conn);
        drop(peer);
        // Its end of file has nowhere to go.
        drop(mux.open(1).unwrap());
        ended.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_a_peer_sent_before_it_went_is_read() {
    for _ in 0..100 {
        let (mut peer, conn) = tokio::net::UnixStream::pair().unwrap();
        let (mux, ended) = Mux::start(conn);
        let (mut reader, writer) = mux.open(1).unwrap();
        frame::write(&mut peer, &Frame::Data { stream: 1, payload: b"last words".to_vec() }).await.unwrap();
        drop(peer);
        // Its end of file has nowhere to go.
        drop(writer);
        assert_eq!(reader.recv().await.unwrap(), b"last words");
        ended.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_stream_is_forgotten_when_both_halves_are_dropped() {
    let (a, _b) = pair();
    drop(a.open(1).unwrap());
    assert!(lock(&a.0.streams).open.is_empty());
    assert!(a.open(1).is_ok());
}

/// A mux, its end, and the raw connection of a peer that does as it likes.
fn against_hostile(buffer: usize) -> (Mux, tokio::task::JoinHandle<Result<(), MuxError>>, DuplexStream) {
    let (hostile, conn) = duplex(buffer);
    let (mux, ended) = Mux::start(conn);
    (mux, ended, hostile)
}

fn data(stream: u32, length: usize) -> Frame {
    Frame::Data { stream, payload: vec![0; length] }
}

/// Sends frames until the connection ends, and says how it ended.
async fn ends_with(
    frames: impl IntoIterator<Item = Frame>,
    mut hostile: DuplexStream,
    ended: tokio::task::JoinHandle<Result<(), MuxError>>,
) -> ProtocolError {
    for frame in frames {
        if frame::write(&mut hostile, &frame).await.is_err() {
            break;
        }
    }
    match ended.await.unwrap() {
        Err(MuxError::Protocol(error)) => error,
        other => panic!("the connection ended with {other:?}"),
    }
}

#[tokio::test]
async fn data_beyond_the_window_ends_the_connection() {
    let (mux, ended, hostile) = against_hostile(1 << 20);
    let _open = mux.open(1).unwrap();
    let frames = (0..=WINDOW / MAX_PAYLOAD).map(|_| data(1, MAX_PAYLOAD));
    assert_eq!(ends_with(frames, hostile, ended).await, ProtocolError::Window(1));
}

#[tokio::test]
async fn a_peer_that_sends_for_ever_and_never_reads_is_cut_off_though_its_data_is_used() {
    let (mux, ended, hostile) = against_hostile(1024);
    let (mut reader, _writer) = mux.open(1).unwrap();
    tokio::spawn(async move { while reader.recv().await.is_some() {} });
    let for_ever = std::iter::repeat_with(|| data(1, MAX_PAYLOAD));
    assert_eq!(ends_with(for_ever, hostile, ended).await, ProtocolError::Window(1));
}

#[tokio::test]
async fn one_byte_frames_cost_little_more_than_their_bytes() {
    let (mux, _ended, mut hostile) = against_hostile(1 << 20);
    let (mut reader, _writer) = mux.open(1).unwrap();
    for _ in 0..WINDOW {
        frame::write(&mut hostile, &data(1, 1)).await.unwrap();
    }
    // All frames are in once the answer to this one is.
    frame::write(&mut hostile, &Frame::Eof { stream: 1 }).await.unwrap();
    let state = lock(&mux.0.streams).open[&1].clone();
    while !lock(&state.inner).read_ended {
        tokio::task::yield_now().await;
    }
    let memory = lock(&state.inner).received.memory();
    assert!(memory <= 2 * WINDOW, "{memory} bytes of memory for {WINDOW}");
    let mut bytes = 0;
    while let Some(chunk) = reader.recv().await {
        bytes += chunk.len();
    }
    assert_eq!(bytes, WINDOW);
}

#[tokio::test]
async fn a_data_frame_without_data_ends_the_connection() {
    let (mux, ended, hostile) = against_hostile(1024);
    let _open = mux.open(1).unwrap();
    assert_eq!(ends_with([data(1, 0)], hostile, ended).await, ProtocolError::NoData(1));
}

#[tokio::test]
async fn data_after_the_end_of_file_ends_the_connection() {
    let (mux, ended, hostile) = against_hostile(1024);
    let _open = mux.open(1).unwrap();
    let frames = [Frame::Eof { stream: 1 }, data(1, 1)];
    assert_eq!(ends_with(frames, hostile, ended).await, ProtocolError::AfterEnd(1));
}

#[tokio::test]
async fn a_flood_of_credit_ends_the_connection() {
    let (mux, ended, hostile) = against_hostile(1024);
    let _open = mux.open(1).unwrap();
    let flood = std::iter::repeat_with(|| Frame::Credit { stream: 1, bytes: 1 });
    assert_eq!(ends_with(flood, hostile, ended).await, ProtocolError::Credit(1));
    let (mux, ended, hostile) = against_hostile(1024);
    let _open = mux.open(1).unwrap();
    let nothing = std::iter::repeat_with(|| Frame::Credit { stream: 1, bytes: 0 });
    assert_eq!(ends_with(nothing, hostile, ended).await, ProtocolError::NoCredit(1));
}

#[tokio::test]
async fn a_frame_beyond_the_allowed_size_or_of_no_kind_ends_the_connection() {
    for (kind, error) in
        [(1, ProtocolError::Length { stream: 0, length: u32::MAX }), (9, ProtocolError::Kind(9))]
    {
        let (_mux, ended, mut hostile) = against_hostile(1024);
        let mut header = [0u8; frame::HEADER_LEN];
        header[0] = kind;
        header[8..].copy_from_slice(&u32::MAX.to_le_bytes());
        hostile.write_all(&header).await.unwrap();
        assert_eq!(ends_with([], hostile, ended).await, error);
    }
}

#[tokio::test]
async fn frames_for_unknown_streams_leave_nothing_and_others_go_on() {
    let (mux, _ended, mut hostile) = against_hostile(1024);
    let (mut reader, _writer) = mux.open(1).unwrap();
    for stream in 100..1100 {
        for frame in [
            data(stream, 10),
            Frame::Credit { stream, bytes: usize::from(u16::MAX) },
            Frame::Eof { stream },
            Frame::Stop { stream },
        ] {
            frame::write(&mut hostile, &frame).await.unwrap();
        }
    }
    frame::write(&mut hostile, &data(1, 3)).await.unwrap();
    assert_eq!(reader.recv().await.unwrap(), [0; 3]);
    assert_eq!(lock(&mux.0.streams).open.len(), 1);
    assert_eq!(mux.0.queue.len(), 0);
}

#[tokio::test]
async fn credit_is_told_once_for_all_that_came_due() {
    let (mux, _ended, mut hostile) = against_hostile(1 << 20);
    let (mut reader, _writer) = mux.open(1).unwrap();
    // The second chunk does not fit into the first.
    for length in [MAX_PAYLOAD, MAX_PAYLOAD, 1] {
        frame::write(&mut hostile, &data(1, length)).await.unwrap();
    }
    let state = lock(&mux.0.streams).open[&1].clone();
    while lock(&state.inner).unacknowledged < 2 * MAX_PAYLOAD + 1 {
        tokio::task::yield_now().await;
    }
    // Nothing else runs between these: there is always a chunk.
    for _ in 0..3 {
        reader.recv().await.unwrap();
    }
    drop(reader);
    let mut frames = Vec::new();
    while frames.len() < 2 {
        frames.push(frame::read(&mut hostile).await.unwrap().unwrap());
    }
    assert_eq!(frames, [Frame::Credit { stream: 1, bytes: 2 * MAX_PAYLOAD }, Frame::Stop { stream: 1 }]);
}

#[tokio::test]
async fn writers_wait_when_the_peer_does_not_read() {
    let (mux, ended, hostile) = against_hostile(1024);
    let mut tasks = Vec::new();
    for id in 0..200 {
        let (reader, mut writer) = mux.open(id).unwrap();
        tasks.push(tokio::spawn(async move {
            let sent = writer.send(&vec![0; WINDOW]).await;
            drop(reader);
            sent
        }));
    }
    // Until none of them gets further.
    let mut before = usize::MAX;
    while before != mux.0.queue.data() {
        before = mux.0.queue.data();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(before, queue::MAX_DATA);
    assert!(tasks.iter().all(|task| !task.is_finished()));
    drop(hostile);
    // The connection's end is theirs.
    let _ = ended.await.unwrap();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn writers_that_waited_for_each_other_go_on_when_the_peer_reads() {
    let (a, b) = pair();
    let mut tasks = Vec::new();
    for id in 0..100 {
        let (_reader, mut writer) = a.open(id).unwrap();
        let (mut reader, _writer) = b.open(id).unwrap();
        tokio::spawn(async move { writer.send(&vec![0; 2 * WINDOW]).await });
        tasks.push(tokio::spawn(async move {
            let mut bytes = 0;
            while let Some(chunk) = reader.recv().await {
                bytes += chunk.len();
            }
            bytes
        }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), 2 * WINDOW);
    }
    assert_eq!(a.0.queue.data(), 0);
}

#[tokio::test]
async fn a_peer_that_lets_closed_streams_pile_up_is_given_up() {
    let (mux, ended, _hostile) = against_hostile(64);
    let mut id = 0u32;
    while !ended.is_finished() {
        if let Ok(halves) = mux.open(id) {
            drop(halves);
        }
        id += 1;
        if id.is_multiple_of(1024) {
            tokio::task::yield_now().await;
        }
        assert!((id as usize) < 2 * queue::MAX_STREAMS, "nobody minds");
    }
    assert!(matches!(ended.await.unwrap(), Err(MuxError::Unread(_))));
}
