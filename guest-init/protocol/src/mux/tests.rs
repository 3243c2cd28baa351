use std::time::Duration;

use tokio::io::{AsyncWriteExt, duplex};

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
async fn a_peer_that_sends_beyond_its_credit_is_cut_off() {
    let (mut hostile, conn) = duplex(1 << 20);
    let (mux, ended) = Mux::start(conn);
    let _open = mux.open(1).unwrap();
    let payload = vec![0; MAX_PAYLOAD];
    for _ in 0..=WINDOW / MAX_PAYLOAD {
        frame::write(&mut hostile, &Frame::Data { stream: 1, payload: payload.clone() }).await.unwrap();
    }
    let err = ended.await.unwrap().unwrap_err();
    assert!(err.to_string().contains("stream 1"), "{err}");
}

#[tokio::test]
async fn a_frame_beyond_the_allowed_size_ends_the_connection() {
    let (mut hostile, conn) = duplex(1 << 10);
    let (_mux, ended) = Mux::start(conn);
    let mut header = [0u8; frame::HEADER_LEN];
    header[0] = 1;
    header[8..].copy_from_slice(&u32::MAX.to_le_bytes());
    hostile.write_all(&header).await.unwrap();
    assert_eq!(ended.await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_data_frame_without_data_ends_the_connection() {
    let (mut hostile, conn) = duplex(1 << 10);
    let (mux, ended) = Mux::start(conn);
    let _open = mux.open(1).unwrap();
    frame::write(&mut hostile, &Frame::Data { stream: 1, payload: Vec::new() }).await.unwrap();
    assert_eq!(ended.await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_peer_that_sends_byte_by_byte_takes_up_no_more_than_its_window() {
    let (mut hostile, conn) = duplex(1 << 20);
    let (mux, ended) = Mux::start(conn);
    let _open = mux.open(1).unwrap();
    for _ in 0..2 * SMALL {
        frame::write(&mut hostile, &Frame::Data { stream: 1, payload: vec![7] }).await.unwrap();
    }
    hostile.shutdown().await.unwrap();
    let state = lock(&mux.0.streams).open[&1].clone();
    ended.await.unwrap().unwrap();
    assert_eq!(lock(&state.inner).chunks.len(), 2);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_owed_its_credit_in_one_frame() {
    let (mut hostile, conn) = duplex(64);
    let (mux, _ended) = Mux::start(conn);
    let (mut reader, _writer) = mux.open(1).unwrap();
    let sent = 1000;
    for _ in 0..sent {
        frame::write(&mut hostile, &Frame::Data { stream: 1, payload: vec![7] }).await.unwrap();
        assert_eq!(reader.recv().await.unwrap(), [7]);
    }
    // The last byte is granted when the next is asked for.
    let (mut granted, mut frames) = (0, 0);
    while granted < sent - 1 {
        let Ok(Some(Frame::Credit { bytes, .. })) = frame::read(&mut hostile).await else { panic!() };
        (granted, frames) = (granted + bytes, frames + 1);
    }
    // Those that the connection and its buffer had room for, and one.
    assert!(frames < sent / 2, "{frames} frames of credit");
}

#[tokio::test]
async fn a_peer_that_grants_credit_and_reads_nothing_stops_the_writer() {
    let (mut hostile, conn) = duplex(64);
    let (mux, _ended) = Mux::start(conn);
    let (_reader, mut writer) = mux.open(1).unwrap();
    for _ in 0..ROOM / WINDOW {
        writer.send(&vec![0; WINDOW]).await.unwrap();
        frame::write(&mut hostile, &Frame::Credit { stream: 1, bytes: WINDOW }).await.unwrap();
    }
    let more = tokio::time::timeout(Duration::from_millis(50), writer.send(&vec![0; WINDOW])).await;
    assert!(more.is_err(), "a writer went on although nothing is read");
    drop(hostile);
    assert_eq!(writer.send(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_stream_is_forgotten_when_both_halves_are_dropped() {
    let (a, _b) = pair();
    drop(a.open(1).unwrap());
    assert!(lock(&a.0.streams).open.is_empty());
    assert!(a.open(1).is_ok());
}
